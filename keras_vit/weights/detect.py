"""Detection of the library that wrote a checkpoint."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

from keras_vit.weights import dinov3
from keras_vit.weights.big_transfer import (
    GOOGLE_SIGN,
    TIMM_SIGN,
    BigTransferSource,
    TimmBigTransferSource,
)
from keras_vit.weights.download import fetch_checkpoint
from keras_vit.weights.google import GoogleSource
from keras_vit.weights.keras_hub_presets import open_preset
from keras_vit.weights.naflex import NaFlexSource
from keras_vit.weights.npz import NpzFile
from keras_vit.weights.open_clip import OpenClipSource
from keras_vit.weights.parts import TorchShards, Unwrapped
from keras_vit.weights.registry import find_checkpoint
from keras_vit.weights.safetensors import LORA, SafetensorsFile
from keras_vit.weights.source import Source
from keras_vit.weights.t2t import T2TSource
from keras_vit.weights.tensor_file import TensorFile, read_json
from keras_vit.weights.timm import TimmSource
from keras_vit.weights.torch_file import AVERAGED, TorchFile
from keras_vit.weights.transformers import check_model_type, open_transformers

_PICKLES = (".pth", ".pt", ".pth.tar", ".bin", ".ckpt")
_FILES: dict[str, Callable[[str], TensorFile]] = {
    ".npz": NpzFile,
    ".safetensors": SafetensorsFile,
    ".safetensors.index.json": SafetensorsFile,
    ".bin.index.json": TorchShards,
}
_ENDINGS = (*_FILES, *_PICKLES)
# A tensor by which each kind of source is recognized, with the prefixes that the library
# itself uses. Any other prefix comes from a wrapper.
_SIGNS = {
    "patch_embed.proj.weight": (TimmSource, ("",)),
    "embeds.proj.weight": (NaFlexSource, ("",)),
    # The last sign that a network has counts.
    dinov3.SIGN: (dinov3.FacebookDinov3Source, ("",)),
    "tokens_to_token.project.weight": (T2TSource, ("",)),
    "embeddings.patch_embeddings.projection.weight": (
        open_transformers,
        ("vit.", "deit.", "ijepa.", "dinov2.", "dinov2_with_registers.", "beit.", ""),
    ),
    "embeddings.patch_embeddings.weight": (open_transformers, ("",)),
    "embeddings.patch_embedding.weight": (open_transformers, ("vision_model.", "")),
    "embeddings.patch_embed.weight": (open_transformers, ("vision_model.", "")),
    "ln_pre.weight": (OpenClipSource, ("",)),
    TIMM_SIGN: (TimmBigTransferSource, ("",)),
}
# Tensors that training or another tower keeps beside a network, by the end of the prefix
# of the network's names. They are ignored.
_BESIDE = {
    # Projection heads of DINO and DINOv2.
    "backbone.": re.compile(
        r"(module\.)?(head|dino_head|ibot_head)\.(mlp|last_layer)\b.*"
    ),
    # The text towers of open_clip.
    "visual.trunk.": re.compile(r"(text\.|logit_(scale|bias)$).*"),
    "visual.": re.compile(
        r"(text|transformer|token_embedding|ln_final)\..*"
        r"|positional_embedding|text_projection|logit_(scale|bias)"
        r"|input_resolution|context_length|vocab_size"
    ),
}
# Checkpoint files in a directory of transformers or timm, in order of preference.
_IN_DIRECTORY = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def open_checkpoint(
    name_or_path: str | os.PathLike,
    architecture: str | None = None,
    state_dict: str | None = None,
) -> Source:
    """Open a checkpoint and detect which library wrote it.

    This function reads the names and shapes of the tensors, but not their values.

    Args:
        name_or_path: one of the following:
            - a file: `.npz` (Google), or `.safetensors`, `.pth`, `.pth.tar`, `.ckpt` or
              `.bin` (timm, DeiT, transformers);
            - a directory of transformers, timm or KerasHub;
            - a name that `fetch_checkpoint` downloads.
        architecture: str, timm's name for the network, or None.
        state_dict: str, the part of a PyTorch file to read: the key of one of several
            state dicts, or the prefix of the network's tensors. None if the file holds a
            single network.

    Returns:
        A `Source`.

    Raises:
        FileNotFoundError: if the file does not exist, or the directory has no weights.
        ImportError: if a package that the format needs is not installed.
        OSError: if a download fails.
        ValueError: if the file is damaged, its format or name is unknown, or the
            arguments do not apply to this kind of file.
    """
    path = fetch_checkpoint(name_or_path)
    published, name = None, os.fspath(name_or_path)
    if path != name and not name.startswith("hf://"):
        published = find_checkpoint(name)
        if published.source == "timm":
            architecture = architecture or published.architecture
    with config_errors(path):
        source = _open(path, architecture, state_dict, published is not None)
    if architecture is not None and not isinstance(
        source, TimmSource | TimmBigTransferSource
    ):
        raise ValueError(
            f"architecture={architecture!r} names a network of timm, but {path} is a "
            f"{source.kind} checkpoint. Omit the argument."
        )
    source.check()
    if published is not None:
        source.published = True
        if published.preprocessing is not None:
            source.preprocessing = published.preprocessing
        # A table of positions is for the published size, except NaFlexViT's.
        has_size = source.num_position_rows() and not isinstance(source, NaFlexSource)
        if source.image_size is None and not has_size:
            source.image_size = (published.resolution, published.resolution)
    return source


@contextlib.contextmanager
def config_errors(path: str | os.PathLike) -> Iterator[None]:
    """Context manager that names the configuration in errors that its values cause.

    Args:
        path: path of the checkpoint, for the message.

    Raises:
        ValueError: if the body raises an error that an invalid value typically causes,
            such as a `TypeError` or a `KeyError`.
    """
    try:
        yield
    except (TypeError, LookupError, AttributeError, ArithmeticError) as error:
        if isinstance(error, ValueError):  # An unknown argument; its message is clear.
            raise
        raise ValueError(
            f"A value in the configuration of {os.fspath(path)} (config.json and others "
            f"beside it), or an argument, cannot be used: {type(error).__name__}: "
            f"{error}. Correct it."
        ) from error


def _open(path, architecture, state_dict, published):
    """Return the `Source` for a local path.

    Args:
        path: path of a file or directory.
        architecture: as for `open_checkpoint`.
        state_dict: as for `open_checkpoint`.
        published: bool, whether `path` is a file that keras_vit downloaded by name.
    """
    if os.path.isdir(path):
        config = read_json(path, "config.json")
        if str(config.get("registered_name", "")).startswith("keras_hub>"):
            return open_preset(path, config)
        check_model_type(path, config)
        path = _file_in_directory(path)
    file: TensorFile
    if path.endswith(_PICKLES):
        preferred = (state_dict,) if state_dict else AVERAGED if published else ()
        file = TorchFile(path, preferred)
    elif path.endswith(tuple(_FILES)):
        file = next(_FILES[e] for e in _FILES if path.endswith(e))(path)
    else:
        raise ValueError(
            f"The name of {path} must end in {', '.join(_ENDINGS)}. load_checkpoint also "
            "reads .keras, and ViT(weights=...) reads .weights.h5."
        )
    if isinstance(file, NpzFile):
        if GOOGLE_SIGN not in file.shapes:
            return GoogleSource(file)
        file.check_dtypes()
        return BigTransferSource(file)
    if isinstance(file, SafetensorsFile) and LORA in file.metadata:
        raise ValueError(
            f"{path} holds the LoRA updates of a model, and not the model: load the "
            "checkpoint that was fine-tuned, then keras_vit.lora.load(model, path). In "
            "the directory of a run, best.keras is the whole model."
        )
    file, source = _unwrapped(file, state_dict)
    is_timm = source in (TimmSource, NaFlexSource, TimmBigTransferSource)
    return source(file, architecture) if is_timm else source(file)


def _file_in_directory(directory):
    """Return the path of the checkpoint in a directory of timm or transformers."""
    for name in _IN_DIRECTORY:
        if os.path.isfile(os.path.join(directory, name)):
            return os.path.join(directory, name)
    found = sorted(n for n in os.listdir(directory) if n.endswith(_ENDINGS))
    if len(found) == 1:
        return os.path.join(directory, found[0])
    if found:
        raise ValueError(
            f"The directory {directory!r} has several checkpoints: {', '.join(found)}. "
            "Pass the path of one of them."
        )
    raise FileNotFoundError(
        f"No checkpoint in the directory {directory!r}: no file in it ends in "
        f"{', '.join(_ENDINGS)}, and it is not a KerasHub preset."
    )


def _unwrapped(file, state_dict):
    """Detect the network in a file and remove any prefix that a wrapper added.

    Args:
        file: the opened file.
        state_dict: str, prefix of the network to choose, or None.

    Returns:
        The file without the prefix, and the class of its source.
    """
    networks: dict[str, Any] = {}
    for sign, (source, own) in _SIGNS.items():
        if networks and source is TimmBigTransferSource:
            continue  # The ResNet is the stem of a hybrid.
        for name in file.shapes:
            if f".{name}".endswith(f".{sign}"):
                prefix = name.removesuffix(sign)
                beginning = next(b for b in own if prefix.endswith(b))
                networks[prefix.removesuffix(beginning)] = source
    if not networks:
        raise ValueError(
            f"{file.path} is not a ViT checkpoint that keras_vit can read: it has no "
            f"tensor named ...{', ...'.join(_SIGNS)}. Its {len(file.shapes)} tensors are "
            f"{', '.join(sorted(file.shapes)[:5])}, ..."
        )
    chosen = [p for p in networks if state_dict and p.strip(".") == state_dict.strip(".")]
    if len(networks) > 1 and not chosen:
        prefixes = ", ".join(repr(prefix.rstrip(".")) for prefix in networks)
        raise ValueError(
            f"{file.path} has more than one network; the names of their tensors begin "
            f"with {prefixes}. Choose one with load_checkpoint(path, state_dict=...)."
        )
    prefix = (chosen or list(networks))[0]
    beside = next((_BESIDE[end] for end in _BESIDE if prefix.endswith(end)), None)
    outside = [
        name
        for name in file.shapes
        if not name.startswith(prefix) and not (beside and beside.fullmatch(name))
    ]
    if outside and not chosen:
        raise ValueError(
            f"{file.path} has a network whose tensor names begin with {prefix!r}, and "
            f"{len(outside)} other tensors: {', '.join(outside[:5])}, ... To ignore the "
            f"others, pass state_dict={prefix.rstrip('.')!r}."
        )
    network = Unwrapped(file, prefix) if prefix else file
    network.check_dtypes()
    return network, networks[prefix]
