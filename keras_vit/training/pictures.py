"""Plots of training runs, predictions and feature maps."""

import pathlib

import numpy as np

# pyplot would open windows, or take over the pictures of a notebook.
from matplotlib.figure import Figure

from keras_vit.atomic_files import replacing


def learning_curves(histories, path):
    """Plot the loss and, if there is one, the accuracy over the epochs of all stages.

    Args:
        histories: dict from the name of each stage to Keras's `History.history`.
        path: PNG file to write.
    """
    shown = [
        metric
        for metric in ("loss", "accuracy")
        if all(f"val_{metric}" in history for history in histories.values())
    ]
    figure = Figure(figsize=(5 * len(shown), 4.5), layout="constrained")
    axes = figure.subplots(1, len(shown), squeeze=False)[0]
    for axis, metric in zip(axes, shown, strict=True):
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
        if metric == "accuracy":
            axis.set_ylim(top=1.0)
        else:
            axis.set_yscale("log")
    handles, names = axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(histories))
    with replacing(pathlib.Path(path)) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def predictions(images, labels, probabilities, path, count=60):
    """Plot images with their predicted classes, the mistakes first and in red.

    Args:
        images: `(n, h, w, 1)`, pixel values 0 to 255.
        labels: `(n,)` ints.
        probabilities: `(n, classes)`.
        path: PNG file to write.
        count: number of images to show.
    """
    predicted = probabilities.argmax(axis=1)
    order = np.argsort(predicted == labels, kind="stable")[:count]
    mistakes = int(np.sum(predicted != labels))
    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(6, 10)
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


def feature_maps(image, columns, path):
    """Plot feature maps below the image, with a column per model and a row per block.

    Args:
        image: `(h, w, c)`, pixel values 0 to 255.
        columns: dict from the name of each model to a dict from the name of each block to
            its feature maps `(gh, gw, channels)`, values 0 to 1.
        path: PNG file to write.
    """
    rows = 1 + max(len(maps) for maps in columns.values())
    size = (5 * len(columns), 4 + 5 * (rows - 1))
    figure = Figure(figsize=size, layout="constrained")
    heights = [0.7, *[1] * (rows - 1)]
    axes = figure.subplots(rows, len(columns), squeeze=False, height_ratios=heights)
    for axis in axes.flat:
        axis.axis("off")
    for column, (model, maps) in enumerate(columns.items()):
        axes[0, column].imshow(image.squeeze(), cmap="gray")
        axes[0, column].set_title(model)
        for axis, (block, channels) in zip(axes[1:, column], maps.items(), strict=False):
            axis.imshow(_sheet(channels), cmap="viridis", vmin=0, vmax=1)
            axis.set_title(block)
    figure.savefig(path, dpi=120)


def _sheet(channels):
    """Return all channels in one image, arranged in a square with gaps between them."""
    gh, gw, count = channels.shape
    across = int(np.ceil(np.sqrt(count)))
    down = int(np.ceil(count / across))
    sheet = np.full((down * (gh + 1) - 1, across * (gw + 1) - 1), np.nan)
    for i in range(count):
        top, left = i // across * (gh + 1), i % across * (gw + 1)
        sheet[top : top + gh, left : left + gw] = channels[..., i]
    return sheet


def confusion(counts, path):
    """Plot a confusion matrix whose rows are normalized to add up to 1.

    Args:
        counts: `(classes, classes)`; rows are the labels, columns the predictions.
        path: PNG file to write.
    """
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axis = figure.subplots()
    image = axis.imshow(parts, cmap="viridis", vmin=0, vmax=1)
    axis.set(xlabel="predicted", ylabel="label")
    if len(counts) <= 20:
        axis.set_xticks(range(len(counts)))
        axis.set_yticks(range(len(counts)))
    figure.colorbar(image, label="part of the label's images")
    figure.savefig(path, dpi=120)


def scaling(points, laws, compute, path):
    """Plot errors over the number of images, and losses over the compute of training.

    Args:
        points: list of dicts; see `keras_vit.training.scaling.study`.
        laws: dict from the name of each network, and from `compute`, to a `PowerLaw`, or
            to a text that says why there is none.
        compute: function from a point to the operations of its training.
        path: PNG file to write.
    """
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    most = max(point["images"] for point in points)
    for color, name in enumerate(name for name in laws if name != "compute"):
        own = [point for point in points if point["network"] == name]
        marks = {"color": f"C{color}", "marker": "o", "ls": "", "ms": 4}
        left.plot([p["images"] for p in own], [p["error"] for p in own], **marks)
        _draw_law(left, laws[name], f"C{color}", name)
        whole = [point for point in own if point["images"] == most]
        right.plot(
            list(map(compute, whole)), [p["loss"] for p in whole], **marks, label=name
        )
    _draw_law(right, laws["compute"], "0.3", "lowest losses")
    left.set(xlabel="training images", ylabel="error", title="data")
    right.set(xlabel="operations of training", ylabel="loss", title=f"{most:,} images")
    for axis in (left, right):
        axis.set(xscale="log", yscale="log")
        axis.grid(alpha=0.3, which="both")
        axis.legend()
    figure.savefig(path, dpi=120)


def _draw_law(axis, law, color, name):
    """Draw a law with its 95 % interval, dashed beyond the points."""
    if isinstance(law, str):
        axis.plot([], [], color=color, label=f"{name} (no fit)")
        return
    first = law.x0**2 / law.largest  # As far below the mean as the last is above it.
    inside = np.geomspace(first, law.largest, 50)
    beyond = np.geomspace(law.largest, law.beyond, 20)
    axis.plot(inside, law(inside), color=color, label=f"{name}: {law.exponent:.2f}")
    axis.plot(beyond, law(beyond), color=color, ls="--")
    every = np.concatenate([inside, beyond])
    axis.fill_between(every, *law.interval(every), color=color, alpha=0.15, lw=0)
