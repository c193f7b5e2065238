# %% [markdown]
# # Serve a model over HTTP
#
# An export is a TensorFlow SavedModel that contains the preprocessing and the class
# names. TF Serving runs it, and so does `keras-vit serve`, which speaks the same REST API
# and needs neither Keras nor TF Serving.
#
# Install keras_vit with `pip install '.[jax,train,serve]'` in a checkout of the
# repository.

# %%
import os

os.environ.setdefault("KERAS_BACKEND", "jax")  # or "tensorflow", "torch"

import base64
import json
import pathlib
import subprocess
import sys
import urllib.request

import keras
import matplotlib.pyplot as plt
import numpy as np
from sklearn.datasets import load_digits

import keras_vit

# %% [markdown]
# ## A model
#
# A small ViT learns handwritten digits. Any other model serves as well, for example
# `keras_vit.load_checkpoint("vit_ti16.augreg_in21k_ft_in1k_224")` or the directory of a
# run.

# %%
digits = load_digits()
pixels = digits.images[..., None] * 255 / 16  # (1797, 8, 8, 1), 0 to 255

keras.utils.set_random_seed(0)
model = keras_vit.ViT(
    input_shape=(32, 32, 1),
    patch_size=4,
    hidden_dim=64,
    num_layers=4,
    num_heads=4,
    mlp_dim=128,
    classes=10,
)
model.compile(keras.optimizers.AdamW(2e-3), "sparse_categorical_crossentropy")
images = keras.ops.convert_to_numpy(model.preprocessor(pixels))
history = model.fit(images[:1500], digits.target[:1500], epochs=12, verbose=0)
predicted = model.predict(images[1500:], verbose=0).argmax(axis=1)
print(f"{np.mean(predicted == digits.target[1500:]):.1%} of the other digits are right")

# %% [markdown]
# ## Export
#
# `saved_model` rebuilds the model in plain TensorFlow, compares its outputs with those of
# Keras, and writes `served/digits/1/`. The next export becomes version 2.

# %%
names = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
version = keras_vit.export.saved_model(
    model, "served/digits", labels=names, verbose=False
)
size = sum(file.stat().st_size for file in version.rglob("*") if file.is_file())
print(f"{version}: {size / 1e6:.1f} MB")

# %% [markdown]
# ## Start the server
#
# In a terminal, this is `keras-vit serve served/digits`. Port 0 picks a free port, and
# the first line of output names the address. Open it in a browser to drop images on a
# page.

# %%
server = subprocess.Popen(
    [sys.executable, "-m", "keras_vit", "serve", "served/digits", "--port", "0"],
    stdout=subprocess.PIPE,
    text=True,
)
line = server.stdout.readline().strip()
address = next(word for word in line.split() if word.startswith("http"))
print(line)

# %% [markdown]
# ## Post an image file
#
# The signature `predict_bytes` takes image files of any size and returns the best classes
# with their names; `attention` returns the contribution of each patch to the output.

# %%
keras.utils.save_img("digit.png", pixels[1600], scale=False)


def post(signature, path):
    """Return the answer of a signature for an image file."""
    content = base64.b64encode(pathlib.Path(path).read_bytes()).decode()
    body = {"signature_name": signature, "instances": [{"b64": content}]}
    request = urllib.request.Request(
        f"{address}/v1/models/digits:predict",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request) as response:
        return json.load(response)["predictions"][0]


answer = post("predict_bytes", "digit.png")
for name, score in zip(answer["labels"], answer["scores"], strict=True):
    print(f"{name:6} {score:.4f}")

attention = np.array(post("attention", "digit.png")["attention"])

figure, axes = plt.subplots(1, 3, figsize=(9, 2.8), layout="constrained")
axes[0].imshow(pixels[1600, ..., 0], cmap="gray")
axes[0].set_title("digit.png")
axes[1].imshow(attention)
axes[1].set_title("attention of the patches")
axes[2].barh(answer["labels"], answer["scores"])
axes[2].invert_yaxis()
axes[2].set_title("scores")
for axis in axes[:2]:
    axis.axis("off")
plt.show()

# %% [markdown]
# ## Metrics
#
# The server reports requests, latency, batch sizes and memory to Prometheus. Here are a
# few of them.

# %%
with urllib.request.urlopen(f"{address}/monitoring/prometheus/metrics") as response:
    metrics = response.read().decode().splitlines()
shown = (
    "requests_total",
    "request_seconds_sum",
    "batch_instances_count",
    "process_resident",
)
print(*[line for line in metrics if line.startswith(shown)], sep="\n")

# %% [markdown]
# ## Stop the server
#
# On SIGTERM the server answers the requests that have arrived, and exits with status 0.

# %%
server.terminate()
_ = server.communicate(timeout=20)
print(f"exit status {server.returncode}")

# %% [markdown]
# ## Try next
#
# - Export a smaller file: `weights_dtype="int8"`, or ONNX and LiteRT with
#   `keras_vit.export.onnx` and `.litert`.
# - Post several files in one request: the server computes them as one batch.
# - A model without a classifier becomes an embedding server, with the signature `embed`.
#
# Documentation: [Serving](../docs/serving.md).
