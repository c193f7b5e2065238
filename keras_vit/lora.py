"""LoRA: fine-tuning of low-rank updates to the kernels of a frozen backbone.

Keras has LoRA for single layers, `layer.enable_lora(rank)`. The functions here enable it
on the layers of a whole model, store the result in a file of a few MB, and merge it.
"""

import hashlib
import json
import math
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import keras

from keras_vit.atomic_files import replacing
from keras_vit.layers.base import (
    adapt,
    adaptable_layers,
    adaptations,
    check_rank,
    make_trainable,
)
from keras_vit.models.lora import is_factor, merged, refuse_quantized
from keras_vit.weights.checks import check_tensors
from keras_vit.weights.pieces import HEAD_PATHS
from keras_vit.weights.safetensors import LORA, SafetensorsFile
from keras_vit.weights.tensor_file import parse_json

# Parts of the paths of the layers that get updates by default.
LAYERS = ("attention", "mlp")
# Keys of the JSON object in a file's metadata. It is the only entry there: the order of
# several would be random, and equal weights should give equal files.
_UPDATES, _CHECKSUM = "layers", "checksum"


def enable(
    model: Any,
    rank: int = 8,
    alpha: float | None = None,
    layers: Sequence[str] = LAYERS,
) -> None:
    """Add low-rank updates to the dense layers of a model, and freeze everything else.

    A layer computes `x @ kernel + alpha / rank * (x @ a) @ b`, with factors `a` of shape
    `(d, rank)` and `b` of shape `(rank, units)`. The factor `b` starts at zero, so the
    outputs do not change. The factors and the head (`classifier` and `pre_logits`) are
    trainable; set `trainable` of other weights afterwards to train them too. Compile the
    model after this call.

    Args:
        model: a `keras_vit.ViT`, without LoRA and quantization; it is changed in place.
            The backbone of a `SegmentationModel` or `DetectionModel` is such a model.
        rank: rank of the updates.
        alpha: factor of the updates, divided by the rank; None for the rank.
        layers: names of layers, or parts of their paths such as `"attention/qkv"`. Every
            dense layer with one of them in its path, except the head, gets an update.

    Raises:
        ValueError: the model uses LoRA or is quantized, the rank is out of its range,
            alpha is not above 0, or an entry of `layers` matches no dense layer.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10)
    >>> keras_vit.lora.enable(model, rank=4, layers=["attention"])
    >>> [weight.path for weight in model.trainable_weights][-6:]
    ['block_11/attention/qkv/lora_kernel_a', 'block_11/attention/qkv/lora_kernel_b',
    'block_11/attention/projection/lora_kernel_a',
    'block_11/attention/projection/lora_kernel_b', 'classifier/kernel',
    'classifier/bias']

    Reference: LoRA (arXiv:2106.09685).
    """
    before = adaptations(model, model.weights_scope()).get("lora")
    if before is not None:
        raise ValueError(
            f"{model.name} uses LoRA already, on {len(before)} layers. Merge it first: "
            "model = keras_vit.lora.merge(model)."
        )
    refuse_quantized(model)
    paths = _selected(model, layers)
    dense = adaptable_layers(model, model.weights_scope())
    for path in paths:
        check_rank(path, dense[path], rank)
    alpha = rank if alpha is None else alpha
    if isinstance(alpha, bool) or not (alpha > 0 and math.isfinite(alpha)):
        raise ValueError(f"alpha must be a number above 0; received {alpha!r}.")
    _enable(model, {path: [rank, float(alpha)] for path in paths})


def _selected(model, layers):
    """Return the paths of the dense layers that `layers` selects, except the head's."""
    layers = [layers] if isinstance(layers, str) else list(layers)
    paths = [
        path
        for path in adaptable_layers(model, model.weights_scope())
        if not f"{path}/".startswith(HEAD_PATHS)
    ]
    selected = {
        name: [path for path in paths if f"/{name.strip('/')}/" in f"/{path}/"]
        for name in layers
    }
    if not layers or not all(selected.values()):
        names = [name for name in layers if not selected[name]]
        raise ValueError(
            f"layers={layers!r} for LoRA: no dense layer has {names or 'them'} in its "
            f"path. Their paths: {', '.join(paths)}."
        )
    return [path for path in paths if any(path in found for found in selected.values())]


def _enable(model, updates):
    """Add updates of the given ranks and factors to layers, and freeze everything else.

    Args:
        model: the model.
        updates: dict from the path of a layer to its rank and alpha.
    """
    adapt(model, model.weights_scope(), {"lora": updates})
    # A layer that is frozen as a whole would not train the weights added to it.
    make_trainable(model)
    for path, weight in model.weights_by_path().items():
        weight.trainable = is_factor(path) or path.startswith(HEAD_PATHS)


def merge(model: Any) -> Any:
    """Return an ordinary model with the updates added to the kernels.

    Its outputs are those of `model`, except for rounding. All of its weights are
    trainable.

    Args:
        model: a `keras_vit.ViT` with LoRA; it is not changed.

    Returns:
        A new, uncompiled model, or `model` itself if it does not use LoRA.

    Raises:
        ValueError: the model is quantized.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10, num_layers=2)
    >>> keras_vit.lora.enable(model)
    >>> keras_vit.lora.merge(model).save("merged.keras")  # doctest: +SKIP
    """
    plain = merged(model)
    if plain is not model:
        make_trainable(plain)
    return plain


def save(model: Any, path: str | os.PathLike, *, head_of: Any = None) -> None:
    """Write the factors, the head and all other trainable weights to a small file.

    The file belongs to the weights that the model had before `enable`. It holds a
    checksum of the kernels below the updates, which `load` compares.

    Args:
        model: a `keras_vit.ViT` with LoRA.
        path: path of the file, which ends in `.safetensors`. It is replaced atomically.
        head_of: None, or a model with the head to write instead of that of `model`.

    Raises:
        ValueError: the model does not use LoRA, or the path has another ending.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10, num_layers=2)
    >>> keras_vit.lora.enable(model)
    >>> keras_vit.lora.save(model, "updates.safetensors")  # doctest: +SKIP
    """
    import safetensors.numpy

    path = pathlib.Path(path)
    if path.suffix != ".safetensors":
        raise ValueError(
            f"The name of the file must end in .safetensors; received {path}."
        )
    updates = adaptations(model, model.weights_scope()).get("lora")
    if updates is None:
        raise ValueError(
            f"{model.name} does not use LoRA: call keras_vit.lora.enable(model), or save "
            "the whole model by model.save('name.keras')."
        )
    weights = {
        path: weight
        for path, weight in model.weights_by_path().items()
        if weight.trainable or is_factor(path)
    }
    for name, weight in (head_of or model).weights_by_path().items():
        if name.startswith(HEAD_PATHS):
            weights[name] = weight
    values = {p: keras.ops.convert_to_numpy(weight) for p, weight in weights.items()}
    stated = {_UPDATES: updates, _CHECKSUM: _checksum(model, updates)}
    contents = safetensors.numpy.save(values, {LORA: json.dumps(stated)})
    with replacing(path) as temporary:
        temporary.write_bytes(contents)


def load(model: Any, path: str | os.PathLike) -> None:
    """Enable LoRA as in a file of `save`, and load the weights of the file.

    Args:
        model: the `keras_vit.ViT` without LoRA, with the weights that the updates belong
            to and a head of the same classes; it is changed in place. A model with the
            same updates works as well. The image size may be another one.
        path: path of the file.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is damaged or was not written by `save`, or it belongs to
            another network, other weights or other classes. The model remains unchanged.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.load_checkpoint(
    ...     "vit_s16.augreg_in21k_224", head="new", classes=10
    ... )  # doctest: +SKIP
    >>> keras_vit.lora.load(model, "updates.safetensors")  # doctest: +SKIP
    """
    file = SafetensorsFile(path)
    file.check_dtypes()
    updates, checksum = _stated(file)
    refuse_quantized(model)
    own = adaptations(model, model.weights_scope()).get("lora")
    if own not in (None, updates):
        raise ValueError(
            f"{model.name} uses LoRA with other ranks or on other layers than "
            f"{file.path}: load the file into the model without LoRA."
        )
    _check_fits(model, file, updates, checksum)
    if own is None:
        _enable(model, updates)
    weights = model.weights_by_path()
    with file.reader() as read:
        for name in file.shapes:
            weights[name].assign(read(name))
            weights[name].trainable = True


def _stated(file):
    """Return the rank and alpha of each updated layer by its path, and the checksum."""
    if LORA not in file.metadata:
        raise ValueError(
            f"{file.path} was not written by keras_vit.lora.save. Load models by "
            "keras_vit.load_checkpoint."
        )
    stated = parse_json(file.metadata[LORA].encode(), file.path)
    updates = stated.get(_UPDATES) if isinstance(stated, dict) else None
    if not isinstance(updates, dict) or not all(map(_is_update, updates.values())):
        raise file.unreadable("it does not state a rank and an alpha for each layer")
    return updates, stated.get(_CHECKSUM)


def _is_update(value):
    return (
        isinstance(value, list)
        and len(value) == 2
        and type(value[0]) is int
        and value[0] > 0
        and type(value[1]) in (int, float)
    )


def _check_fits(model, file, updates, checksum):
    """Check that the tensors and the checksum in a file belong to a model."""
    dense = adaptable_layers(model, model.weights_scope())
    expected = {
        path: weight.shape
        for path, weight in model.weights_by_path().items()
        if path.startswith(HEAD_PATHS) or (path in file.shapes and not is_factor(path))
    }
    for path, (rank, _) in updates.items():
        if path not in dense:
            raise ValueError(
                f"{file.path} updates {path}, and {model.name} has no such dense layer: "
                "load it into the network that was fine-tuned."
            )
        *inputs, units = dense[path].kernel.shape
        expected[f"{path}/lora_kernel_a"] = (*inputs, rank)
        expected[f"{path}/lora_kernel_b"] = (rank, units)
    check_tensors(
        file.path,
        expected,
        file.shapes,
        "Build the model with the same network and classes: keras_vit.load_checkpoint("
        "BASE, head='new', classes=...).",
    )
    if _checksum(model, updates) != checksum:
        # float16 keeps other bits than bfloat16, and flushes small values.
        dtypes = {dense[path].variable_dtype for path in updates}
        rounded = " It has to be loaded in float32." if "float16" in dtypes else ""
        raise ValueError(
            f"{file.path} belongs to other weights than those of {model.name}: load the "
            f"checkpoint first that was fine-tuned.{rounded}"
        )


def _checksum(model, paths):
    """Return a checksum of the kernels that are updated, as text.

    Values are rounded to bfloat16, so that a model with this dtype has the same one.
    """
    import ml_dtypes

    dense, digest = adaptable_layers(model, model.weights_scope()), hashlib.sha256()
    for path in sorted(paths):
        kernel = keras.ops.convert_to_numpy(dense[path]._kernel)
        digest.update(path.encode())
        digest.update(kernel.astype(ml_dtypes.bfloat16).tobytes())
    return digest.hexdigest()
