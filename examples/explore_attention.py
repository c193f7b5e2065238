# %% [markdown]
# # Explore attention
#
# A trained Vision Transformer, one photograph and four questions: where does each head
# look, which patches reach the output, which patches have similar features, and what does
# the model know about positions? The functions of `keras_vit.visualize` answer them with
# plain arrays.
#
# Install keras_vit with `pip install '.[jax,train,hub]'` in a checkout of the repository.

# %% tags=["parameters"]
checkpoint = "hf://facebook/dinov2-small"
photo = None

# %% [markdown]
# `checkpoint` is anything that `keras_vit.load_checkpoint` reads: the name of a published
# checkpoint, a file or a directory. `photo` is an image file; without one, scikit-learn's
# photograph of a flower is used.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"

import keras
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

import keras_vit
from keras_vit import visualize

model = keras_vit.load_checkpoint(
    checkpoint, include_top=False, input_shape=(448, 448, 3)
)
rows, columns = model.grid_shape
print(f"{model.count_params():,} parameters, {rows} x {columns} patches")

# %% [markdown]
# `model.preprocessor` resizes, crops and scales the photograph as the checkpoint's
# authors did. Undoing its scaling shows what the model sees.

# %%
if photo is None:
    pixels = load_sample_image("flower.jpg")
else:
    # Keras's `load_img` would leave photographs of phones on their side.
    upright = ImageOps.exif_transpose(Image.open(photo))
    pixels = np.asarray(upright.convert("RGB"))

images = model.preprocessor(pixels[None])  # (1, 448, 448, 3)
preprocessor = model.preprocessor
seen = keras.ops.convert_to_numpy(images[0]) * preprocessor.std + preprocessor.mean
plt.figure(figsize=(4, 4))
plt.imshow(seen.clip(0, 255).astype("uint8"))
plt.axis("off")
plt.show()

# %% [markdown]
# ## Where does each head look?
#
# `attention_weights` computes the attention of any block between all tokens. `head_maps`
# takes the row of the class token and arranges it like the patches. Each map below has
# its own color scale.

# %%
depth = sum(layer.name.startswith("block_") for layer in model.layers)
blocks = [0, depth // 2, depth - 1]
weights = visualize.attention_weights(model, images, blocks)  # (1, 3, heads, n, n)
maps = visualize.head_maps(weights, model)[0]  # (3, heads, rows, columns)

heads = maps.shape[1]
figure, axes = plt.subplots(3, heads, figsize=(1.6 * heads, 5), layout="constrained")
for block, axes_of_block, maps_of_block in zip(blocks, axes, maps, strict=True):
    for head, (axis, one) in enumerate(zip(axes_of_block, maps_of_block, strict=True)):
        axis.imshow(one, vmax=np.percentile(one, 99.5))
        axis.set(xticks=[], yticks=[], title=f"head {head}" if block == 0 else "")
    axes_of_block[0].set_ylabel(f"block {block}")
plt.show()

# %% [markdown]
# ## Which patches reach the output?
#
# One block shows one step only. Rollout multiplies the attention of all blocks, with the
# identity for the residual branches, and so follows the patches through the whole
# network.

# %%
last = maps[-1].mean(axis=0)
rollout = visualize.attention_rollout(model, images)[0]

figure, axes = plt.subplots(1, 2, figsize=(8, 4.2), layout="constrained")
for axis, title, one in zip(
    axes, ["last block", "rollout"], [last, rollout], strict=True
):
    one = one.clip(max=np.percentile(one, 99.5))
    axis.imshow(visualize.overlay(seen, one))
    axis.set_title(title)
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Which patches have similar features?
#
# The first three principal components of the features become red, green and blue. Early
# blocks tell colors and edges apart, late blocks tell things apart.

# %%
figure, axes = plt.subplots(1, 3, figsize=(9, 3.3), layout="constrained")
for axis, block in zip(axes, blocks, strict=True):
    axis.imshow(visualize.patch_colors(model, images, block)[0])
    axis.set_title(f"after block {block}")
    axis.axis("off")
plt.show()

# %% [markdown]
# ## What does the model know about positions?
#
# `position_similarity` compares the position embeddings of all pairs of patches. Each map
# shows the similarity of one patch, marked in red, to all others.

# %%
similarity = visualize.position_similarity(model)  # (rows, columns, rows, columns)
places = np.linspace(rows // 8, rows - 1 - rows // 8, 3).astype(int)

figure, axes = plt.subplots(3, 3, figsize=(5, 5), layout="constrained")
for row, axes_of_row in zip(places, axes, strict=True):
    for column, axis in zip(places, axes_of_row, strict=True):
        axis.imshow(similarity[row, column])
        axis.plot(column, row, "r.", markersize=4)
        axis.axis("off")
plt.show()

correlation = visualize.similarity_and_distance(similarity)
print(f"rank correlation of similarity and distance: {correlation:.2f}")

# %% [markdown]
# ## Try next
#
# - Change `photo`, or `checkpoint` to a classifier such as
#   `"vit_s16.augreg_in21k_ft_in1k_224"`: load it without `include_top=False`, and
#   `visualize.gradient_attention` shows the patches behind a class.
# - `visualize.mean_attention_distance` measures how far each head looks.
# - `keras-vit report CHECKPOINT PHOTO --output report.html` puts all of these pictures on
#   one page.
#
# Documentation: [Look inside a model](../docs/visualize.md).
