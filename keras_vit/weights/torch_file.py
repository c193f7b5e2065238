"""PyTorch's `.pth`, `.pt`, `.pth.tar`, `.ckpt` and `.bin` files."""

import argparse
import contextlib
import re
import warnings
import zipfile
from typing import Any

from keras_vit.weights.archive import open_archive
from keras_vit.weights.tensor_file import INDICES, TensorFile

# Keys under which training scripts store averaged (EMA) weights.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")


class TorchFile(TensorFile):
    """Reader of files that `torch.save` wrote, which never executes code in them.

    Args:
        path: path of the file.
        preferred: keys of the state dict to read if the file has several, in order of
            preference.

    Raises:
        ImportError: if torch is not installed.
        ValueError: if the file is damaged, holds anything other than tensors and plain
            values, or has several state dicts of which none is preferred.
    """

    format = ".pth"

    def __init__(self, path, preferred=()):
        super().__init__(path)
        try:
            import torch
        except ImportError:
            raise ImportError(
                f"Reading {self.path} requires torch: pip install 'keras_vit[torch]'. Or "
                "convert the file to .safetensors on a machine that has torch."
            ) from None
        try:
            # `weights_only` restores tensors and plain values and executes no code.
            # `Namespace` is allowed because training scripts save their arguments beside
            # the weights.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = self._load(torch)
        except Exception as error:
            # For damaged files, torch raises many different exceptions.
            raise self.unreadable(_reason(error)) from None
        content = self._choose(_state_dicts(content, torch.Tensor), preferred)
        self._tensors: dict[str, Any] = {
            name: tensor.detach()
            for name, tensor in content.items()
            if not name.endswith(INDICES)
        }
        for name, tensor in self._tensors.items():
            self.dtypes[name] = str(tensor.dtype).removeprefix("torch.")
            strided = tensor.layout == torch.strided and not tensor.is_nested
            if not strided or tensor.device.type != "cpu":
                layout = "nested" if tensor.is_nested else tensor.layout
                raise self.unreadable(
                    f"{name} is not a dense tensor in CPU memory ({layout}, on "
                    f"{tensor.device})"
                )
            self.shapes[name] = tuple(tensor.shape)
        # Tensors with strides of 0, and views of a shared storage, can claim more memory
        # than the file has data.
        self.check_budget()

    def _choose(self, found, preferred):
        """Choose one of the state dicts in the file.

        Args:
            found: dict from key to state dict.
            preferred: keys in order of preference.

        Returns:
            The preferred state dict, the only one, or the averaged one.
        """
        if not found:
            raise self.unreadable("it contains no dict of tensors")
        # Ignore small dicts: a loss or a scheduler may also save a few tensors.
        least = max(map(len, found.values())) / 2
        networks = {key: value for key, value in found.items() if len(value) >= least}
        for key in preferred:
            if key in networks:
                return networks[key]
        if len(networks) == 1:
            return next(iter(networks.values()))
        choices = ", ".join(map(repr, networks))
        averaged = next((key for key in AVERAGED if key in networks), None)
        if averaged is None:
            raise ValueError(
                f"{self.path} has more than one set of weights: {choices}. Choose one "
                "with load_checkpoint(path, state_dict=...)."
            )
        warnings.warn(
            f"{self.path} has more than one set of weights: {choices}. The averaged "
            f"ones, {averaged!r}, were read, as timm does. load_checkpoint(path, "
            "state_dict=...) chooses others.",
            stacklevel=2,
        )
        return networks[averaged]

    def _load(self, torch):
        """Return the content of the file."""
        # The format of torch before 1.6 is not a zip archive and cannot be memory-mapped.
        mapped = zipfile.is_zipfile(self.path)
        if mapped:
            self._check_archive()
        # Memory-mapping loads each tensor only when it is read.
        return torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)

    def _check_archive(self):
        """Check the structure and the checksums of the archive, which torch ignores."""
        with open_archive(self.path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError(
                    "it is a TorchScript program, not weights: save "
                    "torch.jit.load(path).state_dict() with torch.save"
                )
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    # Memory-mapping would interpret the compressed bytes as numbers.
                    raise ValueError(f"{member.filename} is compressed")
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged: its checksum is wrong")

    @contextlib.contextmanager
    def reader(self):
        yield lambda name: self._tensors[name].float().resolve_neg().numpy()


def _reason(error):
    """Summarize an error of torch.

    The messages of torch advise the reader to execute the code in the file, which is
    dangerous, so this function replaces them.

    Args:
        error: exception that torch raised.

    Returns:
        str.
    """
    text = str(error)
    code = re.search(r"GLOBAL ([\w.]+)", text)
    if code:
        return (
            f"it would have to execute {code[1]}, which may be anything; save "
            "model.state_dict() instead of the model"
        )
    if "weights_only" in text:
        return "it holds more than tensors and plain values"
    return f"{type(error).__name__}: {text.strip().split(chr(10))[0]}"


def _state_dicts(content, tensor_class, path="", depth=3):
    """Find the dicts of tensors in the content of a file.

    Args:
        content: object that `torch.save` wrote.
        tensor_class: `torch.Tensor`.
        path: str, keys that lead to `content`, joined by slashes.
        depth: int, number of levels to search.

    Returns:
        Dict from the path of keys to the dict of tensors.
    """
    if not isinstance(content, dict) or not content or not depth:
        return {}
    if all(
        isinstance(name, str) and isinstance(value, tensor_class)
        for name, value in content.items()
    ):
        return {path: content}
    found: dict[str, dict[str, Any]] = {}
    for key, value in content.items():
        inner = f"{path}/{key}" if path else str(key)
        found |= _state_dicts(value, tensor_class, inner, depth - 1)
    return found
