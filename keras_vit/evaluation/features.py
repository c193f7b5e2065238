"""Features of all images of a data set, computed once and kept on disk."""

import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import time
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.atomic_files import PARTIAL
from keras_vit.data.fingerprint import fingerprints
from keras_vit.data.source import Source
from keras_vit.evaluation.accuracy import outputs
from keras_vit.models.features import blocks_of
from keras_vit.training import config as configs
from keras_vit.training.networks import network
from keras_vit.visualize.attention import has_class_token

_DAY = 24 * 60 * 60  # Seconds; no file takes as long to write.


def feature_network(config: configs.Config, block: int | None = None) -> Any:
    """Return the model that computes the features of a config's model.

    It sets the global random seed to `config.seed`, which new weights depend on.

    Args:
        config: config with the model or the checkpoint.
        block: None for the input of the head; or the number of a block, where negative
            numbers count from the end, for its class token after the model's last norm,
            or the mean of its patches in a model without a class token.

    Returns:
        A model from images to features `(b, d)` with a `preprocessor`.

    Raises:
        ValueError: there is no such block.
    """
    keras.utils.set_random_seed(config.seed)
    model = network(config, include_top=False)
    if block is None and model.get_config()["pooling"] is not None:
        return model
    if not blocks_of(model) and block is None:  # The map of a convolutional network.
        return _with_preprocessor(model, ops.mean(model.output, axis=(1, 2)))
    if not blocks_of(model):
        raise ValueError(
            f"A {type(model).__name__} has no Transformer blocks: leave out the block "
            f"{block}, for the features before the head."
        )
    # The tokens of a model without pooling are the last block's, after its norm.
    numbers = [-1 if block is None else block]
    maps = model.feature_model(numbers, as_grid=False, prefix_tokens=True)
    grid, prefix = maps(model.input).values()
    if block is None:
        return _with_preprocessor(model, ops.mean(grid, axis=1))
    return _with_preprocessor(model, class_token_or_mean(model, grid, prefix))


def class_token_or_mean(model: Any, grid: Any, prefix: Any) -> Any:
    """Return the class token of a block, or the mean of its patches without one.

    Args:
        model: the model of the block.
        grid: `(b, n, d)`, the tokens of the patches.
        prefix: `(b, p, d)`, the tokens before them.
    """
    # Without a class token, the first prefix token is a register.
    if model.num_prefix_tokens and has_class_token(model):
        return prefix[:, 0]
    return ops.mean(grid, axis=1)


def _with_preprocessor(model, outputs):
    """Return a model with other outputs and the same preprocessor."""
    other = keras.Model(model.input, outputs)
    other.preprocessor = model.preprocessor
    return other


def features(
    model: Any,
    source: Source,
    config: configs.Config,
    cache: str | os.PathLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features of all images of a source, and their labels.

    Args:
        model: a model that `feature_network` returned.
        source: the images.
        config: config with the batch size and the handling of unreadable images.
        cache: None, or a directory in which the features are looked up, and stored if
            they are not there. The name of a file is a hash of the weights, the
            preprocessing, and the names, labels and contents of the images.

    Returns:
        Features `(n, d)`, float32, and labels `(n,)`.
    """
    path = None
    if cache is not None:
        path = pathlib.Path(cache, f"features-{_key(model, source, config)}.npz")
        if path.exists():
            print(f"features of {source.name}: {path}", flush=True)
            with np.load(path) as file:
                return file["features"], file["labels"]
    print(f"features of {source.name} ...", flush=True)
    rows, labels = zip(*outputs(model, source, config), strict=True)
    found = np.concatenate(rows).astype("float32"), np.concatenate(labels)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        _store(path, features=found[0], labels=found[1])
    return found


def _store(path, **arrays):
    """Write a file of the cache, which other commands may be writing too."""
    for left in path.parent.glob(f"{PARTIAL}*"):  # By commands that were killed.
        with contextlib.suppress(OSError):
            if left.stat().st_mtime < time.time() - _DAY:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=PARTIAL, dir=path.parent) as own:
        temporary = pathlib.Path(own, path.name)
        with open(temporary, "wb") as file:
            np.savez(file, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)


def _key(model, source, config):
    """Return a hash of everything that features depend on."""
    key = hashlib.sha256()
    for weight in model.weights:
        key.update(np.ascontiguousarray(ops.convert_to_numpy(weight)).tobytes())
    structure = {**model.get_config(), "name": None}
    pixels = model.preprocessor.get_config(), source.exif
    settings = [structure, pixels, config.data.unreadable]
    key.update(json.dumps(settings, sort_keys=True, default=str).encode())
    key.update(fingerprints({"": source})[""].encode())
    return key.hexdigest()[:16]
