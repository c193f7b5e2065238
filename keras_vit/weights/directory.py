"""Directories of other libraries: weights beside the JSON files that describe them."""

import json
import pathlib
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.base import description, in_words, restored
from keras_vit.layers.heads import GlobalAveragePooling, TokenPooling
from keras_vit.layers.mlp import make_mlp
from keras_vit.layers.norms import make_norm
from keras_vit.layers.preprocessor import Preprocessor
from keras_vit.layers.unstated_preprocessor import UnstatedPreprocessor
from keras_vit.weights.checks import impossible
from keras_vit.weights.pieces import POSITIONS, Piece, attention_pooling


class Directory(NamedTuple):
    """Content of a directory that another library loads.

    Attributes:
        tensors: dict from name to array, for `model.safetensors`.
        files: dict from the name of a JSON file to its content.
    """

    tensors: dict[str, np.ndarray]
    files: dict[str, dict[str, Any]]

    def write(self, path: pathlib.Path) -> None:
        """Write the files.

        Args:
            path: path of the directory, which must not exist yet.
        """
        from safetensors.numpy import save_file

        path.mkdir()
        # PyTorch's libraries require the entry `format`.
        save_file(self.tensors, path / "model.safetensors", {"format": "pt"})
        for name, content in self.files.items():
            (path / name).write_text(json.dumps(content, indent=2) + "\n")


# Arguments that determine the network and are compared as they are. Rates, `remat` and
# the initial values of LayerScale and of the classifier matter only in training.
_NETWORK = (
    *("input_shape", "patch_size", "hidden_dim", "num_layers", "num_heads", "mlp_dim"),
    *("include_top", "class_token", "distillation_token", "final_norm", "registers"),
    *("representation_size", "qkv_bias", "layer_norm_epsilon", "block", "stem"),
    "embedding_norm",
)
# End of the messages about models that a library does not have.
_UNWRITTEN = "Nothing was written. A target ending in .keras can hold any model."


def require(config: dict[str, Any], library: str, possible: dict[str, tuple]) -> None:
    """Raise a `ValueError` for an argument that a library cannot express.

    Args:
        config: dict, the model's `resolved_config()` or the config of one of its layers.
        library: name of the library, for the message.
        possible: dict from arguments to the values that the library has.
    """
    if "classifier" in config:  # The config of a model.
        possible = {"classifier": (None,), **possible}
    for argument, expressed, value in impossible(config, possible):
        raise ValueError(
            f"{library} has {argument}={expressed} in networks like this; the model has "
            f"{value}, which {library} cannot express. {_UNWRITTEN}"
        )


def _structure(config: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a network in a form that is equal for equal networks.

    Args:
        config: dict, the model's `resolved_config()`.
    """
    structure = {argument: config[argument] for argument in _NETWORK}
    if config["class_token"] and config["added_positions"] == "learned":
        structure["class_token_position"] = config["class_token_position"]
    if config["include_top"]:
        structure |= {name: config[name] for name in ("classes", "class_names")}
    poolings = {
        "token": TokenPooling(),
        "gap": GlobalAveragePooling(config["num_prefix_tokens"]),
        "map": attention_pooling(config),
    }
    pooling = config["pooling"]
    if isinstance(pooling, str):
        pooling = poolings.get(pooling, pooling)
    return {
        **structure,
        "positions": [config["added_positions"], config["attention_positions"]],
        "pooling": pooling,
        "norm": make_norm(config["norm"], config["layer_norm_epsilon"]),
        # A gated MLP has its own activation instead of the model's.
        "mlp": make_mlp(config["mlp"], config["activation"]),
        "attention": restored(config["attention"]) or SelfAttention(),
    }


def check_same_network(model: Any, again: Any, library: str) -> None:
    """Raise a `ValueError` if a written directory describes another network.

    Args:
        model: the `ViT` that was written.
        again: the `ViT` that was loaded from the directory.
        library: name of the library, for the message.
    """
    config, other = (_structure(m.resolved_config()) for m in (model, again))
    for argument, value in config.items():
        if description(value) != description(other[argument]):
            raise ValueError(
                f"{library} cannot express {argument}={in_words(value)} in a network "
                f"like this: it would have {in_words(other[argument])}. {_UNWRITTEN}"
            )
    if isinstance(model.preprocessor, UnstatedPreprocessor):
        return
    pixels, others = (_pixels(m.preprocessor, m.input_shape[-1]) for m in (model, again))
    for setting, value in pixels.items():
        if not _is_close(value, others.get(setting)):
            raise ValueError(
                f"{library} cannot express a preprocessor with {setting}={value!r} "
                f"beside a network like this: it would have {others.get(setting)!r}. "
                "Pass preprocessor=keras_vit.layers.Preprocessor(...) with another value "
                "to convert. Nothing was written."
            )


def _pixels(preprocessor: Preprocessor, channels: int) -> dict[str, Any]:
    """Return the settings that determine the pixels, in a form that can be compared."""
    scaled = preprocessor.with_channels(channels)
    mean, std = (
        np.broadcast_to(values, channels).tolist() for values in (scaled.mean, scaled.std)
    )
    settings: dict[str, Any] = {"mean": mean, "std": std}
    size, crop = preprocessor.image_size, preprocessor.crop_fraction
    if size is None:  # Images have the right size already; a resize leaves them as is.
        return settings
    settings["resize"] = preprocessor.resize
    settings["crop_to_aspect_ratio"] = preprocessor.crop_to_aspect_ratio
    settings["crop_rounding"] = None if crop is None else preprocessor.crop_rounding
    # Close fractions may give the same pixels: only the covered size matters.
    settings["crop_fraction"] = crop and [int(side / crop) for side in size]
    return settings


def _is_close(value, other):
    """Return True if two settings are equal, except for rounding of numbers."""
    if isinstance(value, list) and isinstance(other, list):
        return np.allclose(value, other, rtol=1e-5, atol=1e-5)
    return value == other


def shares_positions(values: dict[str, np.ndarray], num_layers: int) -> bool:
    """Return True if all blocks have equal relative positions.

    Formats can store them once.

    Args:
        values: dict from path to array, the model's weights.
        num_layers: int, number of blocks.
    """
    first = {
        path.removeprefix("block_0/"): value
        for path, value in values.items()
        if path.startswith("block_0/attention/relative_")
    }
    return (
        num_layers > 1
        and bool(first)
        and all(
            np.array_equal(values[f"block_{index}/{path}"], value)
            for index in range(1, num_layers)
            for path, value in first.items()
        )
    )


def stated_positions(config: dict[str, Any]) -> Any:
    """Return the added positions if there are no others, otherwise all positions.

    Args:
        config: dict, the model's `resolved_config()`.
    """
    inside = config["attention_positions"] is not None
    return config["positions"] if inside else config["added_positions"]


def position_rows(config: dict[str, Any], with_registers: bool) -> int | None:
    """Return the number of rows in the table of positions in a written file.

    Args:
        config: dict, the model's `resolved_config()`.
        with_registers: bool, whether the table has rows for registers.
    """
    if config["added_positions"] != "learned":
        return None
    rows, columns = config["grid_shape"]
    tokens = config["class_token"] + config["distillation_token"]
    prefix = tokens * config["class_token_position"]
    return rows * columns + prefix + config["registers"] * with_registers


def write_tensors(
    values: dict[str, np.ndarray], pieces: Iterable[Piece], config: dict[str, Any]
) -> dict[str, np.ndarray]:
    """Return the tensors of a file, the inverse of `Source.values`.

    Args:
        values: dict from path to array, the model's weights.
        pieces: the mapping of the weights, for `config`.
        config: dict, as for `Source.pieces`, with the `position_rows` of the file. Rows
            for registers are zeros, because the model adds no positions to them.

    Raises:
        ValueError: if a weight cannot be expressed by the tensors.
    """
    tensors: dict[str, np.ndarray] = {}
    written = set()
    for piece in pieces:
        written.add(piece.path)
        stored = values.get(piece.path)
        array = np.zeros(piece.shape, "float32") if stored is None else stored
        array = array.astype("float32")
        if piece.path == POSITIONS:
            missing = config["position_rows"] - array.shape[1]
            prefix = config["class_token"] + config["distillation_token"]
            rows = np.zeros((1, missing, array.shape[2]), "float32")
            array = np.concatenate([array[:, :prefix], rows, array[:, prefix:]], axis=1)
        for name, tensor in piece.write(array).items():
            if name in tensors and not np.array_equal(tensors[name], tensor):
                raise ValueError(
                    f"The blocks of the model have different values of {piece.path}, "
                    f"which the format shares as {name}. Nothing was written."
                )
            tensors[name] = tensor
    unwritten = sorted(set(values) - written)
    if unwritten:
        raise ValueError(
            "The format has no tensors for these weights of the model: "
            f"{', '.join(unwritten[:5])}. Nothing was written."
        )
    return tensors
