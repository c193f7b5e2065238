"""Pictures of a training run."""

import matplotlib

matplotlib.use("Agg")  # Files only: no display is needed.
import matplotlib.pyplot as plt
import numpy as np


def learning_curves(histories, path):
    """Loss and accuracy by epoch, the stages after one another.

    Args:
        histories: dict from a stage's name to Keras's `History.history`.
        path: PNG to write.
    """
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.5), layout="constrained")
    for axis, metric in zip(axes, ("loss", "accuracy"), strict=True):
        start = 0
        for color, (stage, history) in enumerate(histories.items()):
            epochs = np.arange(len(history[metric])) + start + 1
            axis.plot(
                epochs, history[metric], f"C{color}--", lw=1, label=f"{stage}: training"
            )
            axis.plot(
                epochs,
                history[f"val_{metric}"],
                f"C{color}",
                label=f"{stage}: validation",
            )
            start = epochs[-1]
        axis.set(xlabel="epoch", title=metric)
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[1].set_ylim(0.5, 1.0)
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(histories))
    figure.savefig(path, dpi=120)
    plt.close(figure)


def predictions(images, labels, probabilities, path, count=60):
    """A sheet of images with what the model says of them, its mistakes first, in red.

    Args:
        images: `(n, h, w, 1)`, pixel values 0 to 255.
        labels: `(n,)` ints.
        probabilities: `(n, classes)`.
        path: PNG to write.
        count: how many images to show.
    """
    predicted = probabilities.argmax(axis=1)
    order = np.argsort(predicted == labels, kind="stable")[:count]
    mistakes = int(np.sum(predicted != labels))
    figure, axes = plt.subplots(6, 10, figsize=(10, 7), layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, i in zip(axes.flat, order, strict=False):
        axis.imshow(images[i, ..., 0], cmap="gray_r", vmin=0, vmax=255)
        text = f"{predicted[i]}  {probabilities[i].max():.0%}"
        if predicted[i] == labels[i]:
            axis.set_title(text, fontsize=9)
        else:
            axis.set_title(f"{text}\nis {labels[i]}", fontsize=9, color="red")
    figure.suptitle(
        f"{mistakes} of {len(labels)} test images wrong; the mistakes come first"
    )
    figure.savefig(path, dpi=120)
    plt.close(figure)
