# %% [markdown]
# # T2T-ViT beside ViT
#
# A ViT cuts an image into separate patches. T2T-ViT (arXiv:2101.11986) cuts it into
# overlapping ones and merges neighbors in three steps, the "soft splits", so that a token
# knows its surroundings. Here both train on handwritten digits, with the same number of
# tokens and about the same number of parameters.
#
# Install keras_vit with `pip install '.[jax,train]'` in a checkout of the repository.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_vit

digits = load_digits()
pixels = digits.images[..., None] * 255 / 16  # (1797, 8, 8, 1), 0 to 255
train, test, train_labels, test_labels = train_test_split(
    pixels, digits.target, test_size=360, stratify=digits.target, random_state=0
)

# %% [markdown]
# ## Two models
#
# Both take images of 64 x 64 pixels, to which `model.preprocessor` enlarges the digits of
# 8 x 8 pixels, and both have a grid of 4 x 4 tokens.

# %%
keras.utils.set_random_seed(0)
sizes = {"input_shape": (64, 64, 1), "hidden_dim": 96, "num_heads": 4, "classes": 10}
models = {
    "ViT": keras_vit.ViT(patch_size=16, num_layers=4, mlp_dim=230, **sizes),
    "T2T-ViT": keras_vit.T2TViT(num_layers=4, token_dim=32, mlp_dim=180, **sizes),
}
for name, model in models.items():
    trained = sum(int(np.prod(weight.shape)) for weight in model.trainable_weights)
    print(f"{name}: {model.grid_shape} tokens, {trained:,} trainable parameters")

# %% [markdown]
# ## What the soft splits see
#
# The layer `SoftSplit` is public. Its patches, drawn with gaps, show the overlap: every
# pixel is in up to four patches of T2T-ViT, and in one of ViT.

# %%
vit, t2t = models.values()
image = keras.ops.convert_to_numpy(t2t.preprocessor(train[:1]))
splits = {
    "ViT: patches of 16 pixels": (keras_vit.layers.SoftSplit(16, 16), slice(4)),
    "T2T-ViT: patches of 7, the center": (
        keras_vit.layers.SoftSplit(7, 4, padding=2),
        slice(5, 11),  # the center
    ),
}

figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
axes[0].imshow(image[0, ..., 0], cmap="gray")
axes[0].set_title("image of 64 x 64 pixels")
for axis, (title, (split, shown)) in zip(axes[1:], splits.items(), strict=True):
    side, count = split.kernel_size, 64 // split.stride
    patches = keras.ops.convert_to_numpy(split(image))
    patches = patches.reshape(count, count, side, side)[shown, shown]
    gaps = np.pad(patches, ((0, 0), (0, 0), (0, 1), (0, 1)), constant_values=np.nan)
    axis.imshow(gaps.swapaxes(1, 2).reshape(len(gaps) * (side + 1), -1), cmap="gray")
    axis.set_title(title)
for axis in axes:
    axis.axis("off")
plt.show()

# %% [markdown]
# Two more splits merge 3 x 3 tokens each. Counted back through all three, the frames show
# the pixels that end up in one token of each model, apart from what attention between the
# splits adds.

# %%
# Side, stride and padding of the three splits, from the last to the first.
start, span = 1, 1  # the token in row 1 and column 1
for width, stride, padding in [(3, 2, 1), (3, 2, 1), (7, 4, 2)]:
    start, span = start * stride - padding, (span - 1) * stride + width

figure, axis = plt.subplots(figsize=(4, 4), layout="constrained")
axis.imshow(image[0, ..., 0], cmap="gray")
for name, corner, side, color in [
    ("ViT", 16, 16, "tab:orange"),
    ("T2T-ViT", start, span, "tab:cyan"),
]:
    place = (corner - 0.5, corner - 0.5)
    label = f"{name}: {side} x {side} pixels"
    axis.add_patch(
        plt.Rectangle(place, side, side, fill=False, color=color, lw=3, label=label)
    )
axis.legend(loc="lower left")
axis.axis("off")
plt.show()

# %% [markdown]
# ## Training
#
# Ordinary Keras: the same optimizer, schedule and number of epochs for both.

# %%
epochs, batch_size = 8, 32
histories = {}
for name, model in models.items():
    steps = epochs * len(train) // batch_size
    # The decay begins after the warm-up.
    schedule = keras.optimizers.schedules.CosineDecay(
        0.0, steps - 50, warmup_target=2e-3, warmup_steps=50
    )
    model.compile(
        keras.optimizers.AdamW(schedule, weight_decay=0.05, global_clipnorm=1.0),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    images = [
        keras.ops.convert_to_numpy(model.preprocessor(part)) for part in (train, test)
    ]
    histories[name] = model.fit(
        images[0],
        train_labels,
        batch_size=batch_size,
        epochs=epochs,
        validation_data=(images[1], test_labels),
        verbose=0,
    ).history
    print(f"{name}: {histories[name]['val_accuracy'][-1]:.1%} of the test images")

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for axis, metric in zip(axes, ["loss", "accuracy"], strict=True):
    for color, (name, history) in enumerate(histories.items()):
        shown = range(1, epochs + 1)
        axis.plot(shown, history[metric], f"C{color}--", label=f"{name}, training")
        axis.plot(shown, history[f"val_{metric}"], f"C{color}", label=f"{name}, test")
    axis.set(xlabel="epoch", title=metric)
axes[1].legend()
plt.show()

# %% [markdown]
# ## Try next
#
# - One run with few images says little. README compares both over three seeds, on digits
#   and on CIFAR-10: `keras-vit pretrain digits_vit` and `keras-vit pretrain digits_t2t`.
# - Replace `tokens="performer"`, the default, by `"transformer"` or `"convolution"`.
# - `keras_vit.T2TViT14()` is the model of the paper.
#
# Documentation: [Training](../docs/training.md).
