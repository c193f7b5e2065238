"""Checkpoints and SavedModels."""

import pathlib
import shutil
import tempfile
from importlib import import_module

import numpy as np

from recipes.benchmark.contestants import CONTESTANTS, random_batch
from recipes.benchmark.timing import median_seconds, seconds


def loading(contestant, sizes, dtype):
    """Seconds to load a checkpoint, from a file that was just written."""
    model = CONTESTANTS[contestant].build(sizes, dtype).model
    directory = tempfile.TemporaryDirectory()
    write = _torch_files if CONTESTANTS[contestant].backend == "torch" else _keras_files
    if CONTESTANTS[contestant].library.startswith("keras"):
        write = _keras_files
    loaders = write(model, pathlib.Path(directory.name))
    if CONTESTANTS[contestant].library == "keras_vit":
        loaders.update(_google_file(sizes, pathlib.Path(directory.name)))

    def measure():
        directory.name  # noqa: B018  # The files live as long as this function.
        return {f"{name} (s)": seconds(load) for name, load in loaders.items()}

    return measure


def _keras_files(model, directory):
    import keras

    whole, weights = directory / "model.keras", directory / "model.weights.h5"
    model.save(whole)
    model.save_weights(weights)
    return {
        ".keras: a new model": lambda: keras.saving.load_model(whole, compile=False),
        ".weights.h5 into a model": lambda: model.load_weights(weights),
    }


def _torch_files(model, directory):
    safetensors = import_module("safetensors.torch")
    torch = import_module("torch")

    state, tensors = directory / "model.pt", directory / "model.safetensors"
    torch.save(model.state_dict(), state)
    safetensors.save_file(model.state_dict(), tensors)
    return {
        "torch.save into a model": lambda: model.load_state_dict(torch.load(state)),
        ".safetensors into a model": lambda: model.load_state_dict(
            safetensors.load_file(tensors)
        ),
    }


def _google_file(sizes, directory):
    import keras_vit

    path = directory / "google.npz"
    generator = np.random.default_rng(0)
    shapes = _google_shapes(**sizes)
    np.savez(
        path,
        **{
            name: generator.standard_normal(shape, dtype="float32")
            for name, shape in shapes.items()
        },
    )
    return {"Google's .npz: a new model": lambda: keras_vit.load_checkpoint(path)}


def _google_shapes(image_size, patch_size, hidden_dim, num_layers, num_heads, mlp_dim):
    """The tensors of one of Google's checkpoints and their shapes."""
    d, head = hidden_dim, (num_heads, hidden_dim // num_heads)
    tokens = (image_size // patch_size) ** 2 + 1
    shapes: dict[str, tuple[int, ...]] = {
        "cls": (1, 1, d),
        "Transformer/posembed_input/pos_embedding": (1, tokens, d),
    }

    def dense(name, inputs, outputs):
        shapes[f"{name}/kernel"], shapes[f"{name}/bias"] = (*inputs, *outputs), outputs

    def norm(name):
        shapes[f"{name}/scale"] = shapes[f"{name}/bias"] = (d,)

    dense("embedding", (patch_size, patch_size, 3), (d,))
    for i in range(num_layers):
        block = f"Transformer/encoderblock_{i}"
        norm(f"{block}/LayerNorm_0")
        for name in ("query", "key", "value"):
            dense(f"{block}/MultiHeadDotProductAttention_1/{name}", (d,), head)
        dense(f"{block}/MultiHeadDotProductAttention_1/out", head, (d,))
        norm(f"{block}/LayerNorm_2")
        dense(f"{block}/MlpBlock_3/Dense_0", (d,), (mlp_dim,))
        dense(f"{block}/MlpBlock_3/Dense_1", (mlp_dim,), (d,))
    norm("Transformer/encoder_norm")
    dense("head", (d,), (1000,))
    return shapes


def export(contestant, sizes, dtype, directory):
    """Seconds of `keras_vit.export.saved_model`, and MB on disk; leaves the last one."""
    import keras_vit

    model = CONTESTANTS[contestant].build(sizes, dtype).model
    target = pathlib.Path(directory)

    def measure():
        shutil.rmtree(target, ignore_errors=True)
        duration = seconds(
            lambda: keras_vit.export.saved_model(model, target, verbose=False)
        )
        size = sum(f.stat().st_size for f in target.rglob("*") if f.is_file())
        return {"export (s)": duration, "on disk (MB)": size / 1e6}

    return measure


def served(directory, image_size, batch, repetitions):
    """Seconds of a forward pass of a SavedModel, in a process without Keras's model."""
    import tensorflow as tf

    model = tf.saved_model.load(f"{directory}/1")
    serve = model.signatures["serving_default"]
    pixels = (random_batch(batch, image_size)[0] * 50 + 128).clip(0, 255)

    def forward():
        return serve(images=tf.constant(pixels))["logits"].numpy(), model

    for _ in range(2):
        forward()
    return lambda: {"forward (s)": median_seconds(forward, repetitions)}
