"""Verified conversion between checkpoint formats."""

import os
import pathlib
import warnings
from typing import Any

import keras
import numpy as np

from keras_vit.choices import LIBRARIES, TARGETS, check_choice
from keras_vit.export.staging import place, staged
from keras_vit.layers.unstated_preprocessor import UnstatedPreprocessor
from keras_vit.models.checkpoint import load_checkpoint
from keras_vit.models.lora import merged
from keras_vit.models.t2t_vit import T2TViT
from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.directory import check_same_network
from keras_vit.weights.download import fetch_checkpoint
from keras_vit.weights.google import GoogleSource, save_npz
from keras_vit.weights.naflex import NaFlexSource
from keras_vit.weights.timm_writer import timm_directory
from keras_vit.weights.transformers.siglip import Siglip2Source
from keras_vit.weights.transformers.source import TransformersSource
from keras_vit.weights.transformers.writer import transformers_directory

# Arguments that open a checkpoint, apart from those of the model.
_OPENING = ("architecture", "state_dict")


def convert(
    source: str | os.PathLike,
    target: str | os.PathLike,
    to: str | None = None,
    **overrides: Any,
) -> float:
    """Convert a checkpoint to another format and verify the result.

    The written file is loaded again and compared with the source: all weights must be
    identical, and the outputs for two random images must agree.

    Args:
        source: any checkpoint that `keras_vit.load_checkpoint` reads.
        target: path ending in `.keras`, `.weights.h5` or `.npz`. An `.npz` file uses
            Google's tensor names, or those of big_vision if the source uses them. With
            `to`, path of a new directory. The target is written atomically.
        to: None, or the library that loads the directory. `"timm"` loads it with
            `timm.create_model("local-dir:<target>", pretrained=True)`, or its
            `model.safetensors` with `checkpoint_path=`; `"transformers"` with
            `from_pretrained(target)` of the class that its `config.json` names. It holds
            the weights, the architecture, the preprocessing and the names of the
            classes. Both libraries return logits, whatever the model's
            `classifier_activation`. A `ViTForImageClassification` without classes
            returns the features of a model without a head. Every network that
            `load_checkpoint` reads from a library can be written for it. A checkpoint of
            transformers' SigLIP 2 NaFlex or of timm's NaFlexViT stays a network for
            images of any aspect ratio in its library, with the positions of the model's
            image size. Any other source becomes a network for that size.
        **overrides: arguments passed on to `keras_vit.load_checkpoint`.

    Returns:
        The largest absolute difference between the outputs of the two models for two
        random images, a float.

    Raises:
        FileExistsError: if `target` exists.
        RuntimeError: if the written file does not reproduce the weights or outputs of the
            source.
        ValueError: if the source cannot be loaded, the ending of `target` is not
            supported, or the format of `target` or the library cannot represent the
            model; nothing is written then.
    """
    target = pathlib.Path(target)
    ending = _check_target(target, to)
    model = load_checkpoint(source, **overrides)
    if ending in ("", ".npz") or "quantized" not in model.get_config():
        model = merged(model)
    opened = None if to is None else _opened(source, overrides)
    directory = None if to is None else _directory(model, to, opened, overrides)
    with staged(target.parent) as staging:
        written = staging / f"model{ending}"
        if to is None or directory is None:
            again = _write(model, written, source)
        else:
            directory.write(written)
            again = _load_directory(model, written, to, opened)
            check_same_network(model, again, to)
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


def _check_target(target, to):
    """Return the ending of the target, "" for a directory; raise if it is invalid."""
    if to is not None:
        check_choice("to", to, LIBRARIES)
    ending = next((e for e in TARGETS if target.name.endswith(e)), None)
    if to is None and ending is None:
        raise ValueError(
            f"The target must end in {', '.join(TARGETS)}; received {target}. For a "
            f"directory of {' or '.join(LIBRARIES)}, pass to={LIBRARIES[0]!r}."
        )
    if to is not None and ending is not None:
        raise ValueError(
            f"to={to!r} writes a directory, whose name must not end in {ending}; "
            f"received {target}."
        )
    if os.path.lexists(target):
        raise FileExistsError(f"{target} exists; delete it or choose another path.")
    return ending or ""


def _directory(model, library, opened, overrides):
    """Return the content of a directory of a library."""
    if isinstance(model, T2TViT):
        raise ValueError(
            f"{library} has no T2T-ViT, so a T2TViT cannot be converted to it. Nothing "
            "was written. A target ending in .keras can hold any model."
        )
    if library == "timm":
        is_naflex = isinstance(opened, NaFlexSource)
        return timm_directory(model, opened.resizing if is_naflex else None)
    with_preprocessor = not isinstance(model.preprocessor, UnstatedPreprocessor)
    if isinstance(opened, TransformersSource) and "preprocessor" not in overrides:
        # The preprocessing of published files is not written for others.
        with_preprocessor &= opened.states_pixels()
    is_naflex = isinstance(opened, Siglip2Source)
    return transformers_directory(model, with_preprocessor, is_naflex)


def _opened(source, overrides):
    """Return the source of a checkpoint, or None for a saved model of keras_vit."""
    path = fetch_checkpoint(source)
    if path.endswith(".keras") or os.path.isfile(os.path.join(path, "best.keras")):
        return None
    return open_checkpoint(source, **{name: overrides.get(name) for name in _OPENING})


def _load_directory(model, path, library, opened):
    """Return the model in a written directory, with the activation and dtype of `model`.

    The library's files do not state them. The processor of SigLIP 2 NaFlex keeps the
    aspect ratio of images and does not state the preprocessor either.
    """
    config = model.get_config()
    overrides = {"dtype": config["dtype"]}
    if library == "transformers" and isinstance(opened, Siglip2Source):
        overrides["preprocessor"] = model.preprocessor
    if config["pooling"] is None:  # transformers returns tokens beside any pooling.
        overrides["pooling"] = None
    if config["include_top"]:
        overrides["classifier_activation"] = config["classifier_activation"]
    with warnings.catch_warnings():
        # The source has given the same warnings already.
        warnings.simplefilter("ignore")
        return load_checkpoint(path, **overrides)


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
