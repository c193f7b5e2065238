"""Verified conversion between checkpoint formats."""

import os
import pathlib
from typing import Any

import keras
import numpy as np

from keras_vit.export.staging import place, staged
from keras_vit.models.checkpoint import load_checkpoint
from keras_vit.models.lora import merged
from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.download import fetch_checkpoint
from keras_vit.weights.google import GoogleSource, save_npz

TARGETS = (".keras", ".weights.h5", ".npz")


def convert(
    source: str | os.PathLike, target: str | os.PathLike, **overrides: Any
) -> float:
    """Convert a checkpoint to another format and verify the result.

    The written file is loaded again and compared with the source: all weights must be
    identical, and the outputs for two random images must agree.

    Args:
        source: any checkpoint that `keras_vit.load_checkpoint` reads.
        target: path ending in `.keras`, `.weights.h5` or `.npz`. An `.npz` file uses
            Google's tensor names, or those of big_vision if the source uses them. The
            file is written atomically.
        **overrides: arguments passed on to `keras_vit.load_checkpoint`.

    Returns:
        The largest absolute difference between the outputs of the two models for two
        random images, a float.

    Raises:
        FileExistsError: if `target` exists.
        RuntimeError: if the written file does not reproduce the weights or outputs of the
            source.
        ValueError: if the source cannot be loaded, the ending of `target` is not
            supported, or the format of `target` cannot represent the model.
    """
    target = pathlib.Path(target)
    ending = next((e for e in TARGETS if target.name.endswith(e)), None)
    if ending is None:
        raise ValueError(
            f"The target must end in {', '.join(TARGETS)}; received {target}."
        )
    if target.exists():
        raise FileExistsError(f"{target} exists; delete it or choose another path.")
    model = load_checkpoint(source, **overrides)
    if ending == ".npz" or "quantized" not in model.get_config():
        model = merged(model)
    with staged(target.parent) as staging:
        written = staging / f"model{ending}"
        again = _write(model, written, source)
        images = np.random.default_rng(0).uniform(-1, 1, (2, *model.input_shape[1:]))
        images = images.astype("float32")
        outputs = [_outputs(m, images) for m in (model, again)]
        difference = float(np.max(np.abs(outputs[0] - outputs[1])))
        # Comparing outputs is not enough: a classifier that is all zeros gives the same
        # outputs whatever the other weights are.
        changed = _changed(model, again)
        if changed or not difference <= 1e-5 * max(1.0, float(np.max(np.abs(outputs)))):
            raise RuntimeError(
                f"{target} was not written: when loaded again, its outputs differ from "
                f"those of {source} by {difference:.3g}, and these weights differ: "
                f"{', '.join(changed) or 'none'}. Please report this error."
            )
        place(written, [target])
    return difference


def _google_names(source):
    """Return the naming scheme for an `.npz` target: the source's, if it has one."""
    path = fetch_checkpoint(source)
    opened = open_checkpoint(path) if path.endswith(".npz") else None
    return opened.names if isinstance(opened, GoogleSource) else "published"


def _write(model, path, source):
    """Save a model to `path` and return the model loaded from that file."""
    config = model.get_config()
    if path.name.endswith(".keras"):
        model.save(path)
        return keras.saving.load_model(path)
    if path.name.endswith(".weights.h5"):
        model.save_weights(path)
        again = type(model).from_config(config)
        again.load_weights(path)
        return again
    save_npz(model, path, _google_names(source))
    return type(model).from_config({**config, "weights": path})


def _changed(model, again):
    """Return the paths of all weights that are not bit-identical."""
    others = again.weights_by_path()
    weights = model.weights_by_path()
    return [
        path
        for path in {**weights, **others}
        if path not in weights
        or path not in others
        or not np.array_equal(
            keras.ops.convert_to_numpy(weights[path]),
            keras.ops.convert_to_numpy(others[path]),
            equal_nan=True,
        )
    ]


def _outputs(model, images):
    return keras.ops.convert_to_numpy(keras.ops.cast(model(images), "float32"))


if __name__ == "__main__":  # Earlier name of `keras-vit convert`, for one release.
    import sys

    from keras_vit import cli

    cli.main(["convert", *sys.argv[1:]])
