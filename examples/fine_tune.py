# %% [markdown]
# # Fine-tune a model on a folder of images
#
# Every folder is a class: that is all that `keras_vit.training.finetune` needs to know.
# It splits a validation set off, chooses the settings and trains. `keras-vit finetune`
# does the same from the command line.
#
# Install keras_vit with `pip install '.[jax,train,hub]'` in a checkout of the repository.

# %% tags=["parameters"]
checkpoint = "hf://facebook/dinov2-small"

# %% [markdown]
# `checkpoint` is anything that `keras_vit.load_checkpoint` reads: the name of a published
# checkpoint, a file or a directory.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"

import csv
import pathlib

import keras
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageOps
from sklearn.datasets import load_digits

import keras_vit

# %% [markdown]
# ## The images
#
# Use a folder of your own if you have one. Here, scikit-learn's handwritten digits become
# JPEG files in colors that say nothing about the class: 20 images for each of five
# digits, and 10 more to test the result.

# %%
digits = load_digits()
random = np.random.default_rng(0)


def draw(pixels):
    """Return a digit in one light and one dark color as an image of 96 x 96 pixels."""
    gray = Image.fromarray((pixels * 255 / 16).astype("uint8")).resize((96, 96))
    dark, light = random.integers(0, 100, 3), random.integers(150, 256, 3)
    return ImageOps.colorize(gray, tuple(light.tolist()), tuple(dark.tolist()))


for label in range(5):
    images_of_label = digits.images[digits.target == label][:30]
    for number, pixels in enumerate(images_of_label):
        part = "images" if number < 20 else "test_images"
        file = pathlib.Path(part, f"digit {label}", f"{number:02}.jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        draw(pixels).save(file)

print(*sorted(path.name for path in pathlib.Path("images").iterdir()), sep=", ")

# %% [markdown]
# ## Training
#
# With so few images for each class, only the head trains: the backbone would memorize
# them. Any setting can be replaced. A horizontal flip turns digits into something else,
# so it is turned off. Small images and few epochs make this run short. A run that was
# interrupted resumes when the cell is executed again.

# %%
results = keras_vit.training.finetune(
    checkpoint,
    "images",
    "run",
    settings={
        "epochs": 10,
        "optimization.learning_rate": 0.01,
        "augmentation.horizontal_flip": False,
        "model.arguments.input_shape": [84, 84, 3],
    },
)

# %% [markdown]
# ## Learning curves
#
# The directory `run` holds the models and the log.

# %%
with open("run/log.csv") as file:
    log = list(csv.DictReader(file))

figure, axes = plt.subplots(1, 2, figsize=(8, 3), layout="constrained")
for axis, metric in zip(axes, ["loss", "accuracy"], strict=True):
    for name in (metric, f"val_{metric}"):
        axis.plot(
            range(1, len(log) + 1), [float(row[name]) for row in log], "o-", label=name
        )
    axis.set(xlabel="epoch", title=metric)
    axis.legend()
plt.show()

# %% [markdown]
# ## Predictions for new images
#
# `run/best.keras`, the model with the best validation result, is an ordinary Keras
# model.

# %%
model = keras_vit.load_checkpoint("run/best.keras")
names = model.get_config()["class_names"]
test = keras.utils.image_dataset_from_directory(
    "test_images", image_size=(96, 96), batch_size=50, seed=0, verbose=False
)
pixels, labels = (np.asarray(array) for array in next(iter(test)))
images = keras.ops.convert_to_numpy(model.preprocessor(pixels))
probabilities = model.predict(images, verbose=0)
predicted = probabilities.argmax(axis=1)
print(f"{np.mean(predicted == labels):.0%} of {len(labels)} test images are right")

order = np.argsort(predicted == labels, kind="stable")  # mistakes first
figure, axes = plt.subplots(2, 8, figsize=(9, 2.9), layout="constrained")
for axis, index in zip(axes.flat, order, strict=False):
    axis.imshow(pixels[index].astype("uint8"))
    right = predicted[index] == labels[index]
    text = f"{names[predicted[index]]}\n{probabilities[index].max():.0%}"
    axis.set_title(text, fontsize=8, color="black" if right else "red")
    axis.axis("off")
plt.show()

# %% [markdown]
# ## A report
#
# The callback `keras_vit.callbacks.Report` writes a page with the confusion matrix, the
# accuracy of every class, and the images with the highest loss, at the end of `fit` of
# any Keras classifier. Here it writes the page for the test images, without training.

# %%
report = keras_vit.callbacks.Report((images, labels), "report.html", class_names=names)
report.set_model(model)
page = report.write()
print(f"{page}: {page.stat().st_size / 1000:.0f} kB. Open it in a browser.")

# %% [markdown]
# ## Try next
#
# - Use a folder of your own photographs, and leave out `settings`.
# - Classify files: `keras-vit predict run photo.jpg`.
# - Serve the model: [serve.ipynb](serve.ipynb) shows how.
#
# Documentation: [Train on your own images](../docs/training.md#train-on-your-own-images).
