# %% [markdown]
# # Search images by their embeddings
#
# A trained Vision Transformer without a classifier turns an image into a vector. Images
# that show similar things have similar vectors, so that a search is one matrix product.
#
# Install keras_vit with `pip install '.[jax,train,hub]'` in a checkout of the repository.

# %% tags=["parameters"]
checkpoint = "hf://facebook/dinov2-small"
photos = None

# %% [markdown]
# `checkpoint` is anything that `keras_vit.load_checkpoint` reads: the name of a published
# checkpoint, a file or a directory. `photos` is a folder of photographs; without one, the
# two of scikit-learn are used.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"

import keras
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_images

import keras_vit

# %% [markdown]
# ## The images
#
# A search needs more than a few images. To have some, every photograph is cut into six
# pieces, and a search with one piece should find the other five.

# %%
if photos is None:
    photographs = load_sample_images().images
else:
    files, _ = keras_vit.data.image_files(photos)
    # Keras's `load_img` would leave photographs of phones on their side.
    uprights = [ImageOps.exif_transpose(Image.open(file)) for file in files]
    photographs = [np.asarray(upright.convert("RGB")) for upright in uprights]

pieces, origins = [], []
for number, photograph in enumerate(photographs):
    for strip in np.array_split(photograph, 2, axis=0):
        pieces += np.array_split(strip, 3, axis=1)
    origins += 6 * [number]
origins = np.array(origins)
print(f"{len(photographs)} photographs, {len(pieces)} pieces")

# %% [markdown]
# ## Embeddings
#
# `feature_model` returns the tokens of any block for each patch. Their mean describes
# the whole image. Subtracting the mean of all images removes what they have in common,
# and after a division by its length the product of two vectors is their cosine
# similarity.

# %%
model = keras_vit.load_checkpoint(
    checkpoint, include_top=False, input_shape=(224, 224, 3)
)
depth = sum(layer.name.startswith("block_") for layer in model.layers)
blocks = sorted({depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1, depth - 1})
images = np.stack(
    [keras.ops.convert_to_numpy(model.preprocessor(piece)) for piece in pieces]
)


def normalized(vectors):
    """Return vectors of length 1, with a mean of 0 before."""
    centered = vectors - vectors.mean(axis=0)
    return centered / np.linalg.norm(centered, axis=1, keepdims=True)


features = model.feature_model(blocks=blocks).predict(images, batch_size=8, verbose=0)
embeddings = {
    f"block {block}": normalized(features[f"block_{block}"].mean(axis=(1, 2)))
    for block in blocks
}

# %% [markdown]
# ## Which block searches best?
#
# Count how often the nearest neighbor of a piece comes from the same photograph, and
# compare with the raw pixels of small images.

# %%
small = keras.ops.image.resize(images, (16, 16), antialias=True)
pixels = keras.ops.convert_to_numpy(small).reshape(len(images), -1)
embeddings["pixels"] = normalized(pixels)


def share(vectors):
    """Return how often the nearest other image comes from the same photograph."""
    similarities = vectors @ vectors.T
    np.fill_diagonal(similarities, -1)
    return np.mean(origins[similarities.argmax(axis=1)] == origins)


shares = {name: share(vectors) for name, vectors in embeddings.items()}
best = max(shares, key=shares.get)
np.save("embeddings.npy", embeddings[best])
print(f"embeddings.npy: {best}, {embeddings[best].shape}")

figure, axes = plt.subplots(1, 3, figsize=(9, 3.2), layout="constrained")
axes[0].barh(list(shares), list(shares.values()))
axes[0].invert_yaxis()
axes[0].set(title="neighbor of the same photograph", xlim=(0, 1))
for axis, name in zip(axes[1:], [best, "pixels"], strict=True):
    axis.imshow(embeddings[name] @ embeddings[name].T, vmin=-0.5, vmax=1)
    axis.set(title=f"similarity of all pairs, {name}", xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## Search
#
# The first image of each row is the query, the others are its nearest neighbors. Green
# frames are pieces of the same photograph.


# %%
def search(query, count):
    """Return the numbers of the most similar images and their similarities."""
    similarities = np.load("embeddings.npy") @ query
    nearest = np.argsort(-similarities)[:count]
    return nearest, similarities[nearest]


queries = np.linspace(0, len(pieces) - 1, 6).astype(int)
figure, axes = plt.subplots(len(queries), 7, figsize=(9, 8), layout="constrained")
for query, axes_of_query in zip(queries, axes, strict=True):
    found = search(embeddings[best][query], 7)
    for axis, index, similarity in zip(axes_of_query, *found, strict=True):
        shown = keras.ops.image.resize(pieces[index], (80, 80), antialias=True)
        axis.imshow(keras.ops.convert_to_numpy(shown).clip(0, 255).astype("uint8"))
        color = "limegreen" if origins[index] == origins[query] else "lightgray"
        plt.setp(axis.spines.values(), color=color, linewidth=4)
        axis.set(xticks=[], yticks=[])
        axis.set_title("query" if index == query else f"{similarity:.2f}", fontsize=9)
plt.show()

# %% [markdown]
# ## Try next
#
# - Search in a folder of your own: set `photos`, and use whole photographs as `pieces`.
# - Use the class token instead of the mean: `model.predict(images)` returns it, and
#   `feature_model(prefix_tokens=True)` has it for every block.
# - `keras-vit neighbors CHECKPOINT PHOTOS --workdir neighbors` finds near duplicates and
#   unusual images.
# - Export the model and serve its signature `embed`: [Serving](../docs/serving.md).
#
# Documentation: [Features](../docs/features.md).
