"""From a path to the source that understands it."""

import os

from keras_vit.weights.download import fetch_checkpoint
from keras_vit.weights.google import GoogleSource
from keras_vit.weights.keras_hub import open_preset
from keras_vit.weights.npz import NpzFile
from keras_vit.weights.registry import checkpoints
from keras_vit.weights.safetensors import SafetensorsFile
from keras_vit.weights.source import Source
from keras_vit.weights.t2t import T2TSource
from keras_vit.weights.tensor_file import read_json
from keras_vit.weights.timm import TimmSource
from keras_vit.weights.torch_file import TorchFile
from keras_vit.weights.transformers import TransformersSource

_FILES = {
    ".npz": NpzFile,
    ".safetensors": SafetensorsFile,
    ".safetensors.index.json": SafetensorsFile,
    ".pth": TorchFile,
    ".pt": TorchFile,
    ".pth.tar": TorchFile,
    ".bin": TorchFile,
}
# What each kind of source has, at the end of a name.
_SIGNS = {
    "patch_embed.proj.weight": TimmSource,
    "tokens_to_token.project.weight": T2TSource,
    "patch_embeddings.projection.weight": TransformersSource,
}
# What a directory of transformers or timm has, best first.
_IN_DIRECTORY = ("model.safetensors", "model.safetensors.index.json", "pytorch_model.bin")


def open_checkpoint(name_or_path: str | os.PathLike) -> Source:
    """Reads the names and shapes of a checkpoint, and tells whose it is.

    Args:
        name_or_path: a file: `.npz` (Google), `.safetensors`, `.pth`, `.pth.tar`, `.bin`
            (timm, DeiT, transformers); a directory of transformers, timm or KerasHub;
            or what `fetch_checkpoint` downloads.

    Returns:
        A `Source`.

    Raises:
        FileNotFoundError: there is no such file, or no weights in the directory.
        ImportError: a package that the format needs is not installed.
        OSError: a download failed.
        ValueError: the file is damaged, or of no kind that is known; or no such name.
    """
    path = fetch_checkpoint(name_or_path)
    source = _open(path)
    source.check()
    published = checkpoints().get(os.fspath(name_or_path))
    if published is not None and path != os.fspath(name_or_path):
        source.preprocessing = published.preprocessing
    return source


def _open(path):
    if os.path.isdir(path):
        config = read_json(path, "config.json")
        if str(config.get("registered_name", "")).startswith("keras_hub>"):
            return open_preset(path, config)
        for name in _IN_DIRECTORY:
            if os.path.isfile(os.path.join(path, name)):
                path = os.path.join(path, name)
                break
        else:
            raise FileNotFoundError(
                f"No checkpoint in the directory {path!r}: none of "
                f"{', '.join(_IN_DIRECTORY)} is in it, and no KerasHub preset."
            )
    for extension, reader in _FILES.items():
        if path.endswith(extension):
            file = reader(path)
            break
    else:
        raise ValueError(
            f"{path} is of no kind that can be loaded here: use {', '.join(_FILES)}. "
            "load_checkpoint reads .keras too, and ViT(weights=...) .weights.h5."
        )
    if isinstance(file, NpzFile):
        return GoogleSource(file)
    for sign, source in _SIGNS.items():
        if any(name.endswith(sign) for name in file.shapes):
            return source(file)
    raise ValueError(
        f"{path} is no checkpoint of a ViT that this version knows: no tensor in it is "
        f"called ...{', ...'.join(_SIGNS)}. It has {len(file.shapes)}: "
        f"{', '.join(sorted(file.shapes)[:5])}, ..."
    )
