"""PyTorch's `.pth`, `.pt`, `.pth.tar` and `.bin` files."""

import argparse
import contextlib
import re
import warnings
import zipfile
from typing import Any

from keras_vit.weights.archive import open_archive
from keras_vit.weights.tensor_file import TensorFile

# Where training scripts put averaged weights.
AVERAGED = ("state_dict_ema", "model_ema", "ema_state_dict", "ema")


class TorchFile(TensorFile):
    """A file that `torch.save` wrote; nothing in it is executed.

    Args:
        path: of the file.
        preferred: names of the state dict to read if the file has several, best first.

    Raises:
        ImportError: torch is not installed.
        ValueError: the file is damaged, holds anything but tensors and plain values, or
            tensors of other kinds than floats; or several state dicts, none of them
            preferred.
    """

    format = ".pth"

    def __init__(self, path, preferred=()):
        super().__init__(path)
        try:
            import torch
        except ImportError:
            raise ImportError(
                f"Reading {self.path} needs torch, which alone knows that format: "
                "pip install 'keras_vit[torch]'. Or convert the file to .safetensors "
                "where torch is."
            ) from None
        try:
            # weights_only: tensors and plain values, and no code. Training scripts keep
            # their arguments beside the weights.
            with torch.serialization.safe_globals([argparse.Namespace]):
                content = self._load(torch)
        except Exception as error:
            # torch raises whatever its pickle meets.
            raise self.unreadable(_reason(error)) from None
        content = self._choose(_state_dicts(content, torch.Tensor), preferred)
        self._tensors: dict[str, Any] = {
            name: tensor.detach() for name, tensor in content.items()
        }
        for name, tensor in self._tensors.items():
            self.check_dtype(name, str(tensor.dtype).removeprefix("torch."))
            strided = tensor.layout == torch.strided and not tensor.is_nested
            if not strided or tensor.device.type != "cpu":
                layout = "nested" if tensor.is_nested else tensor.layout
                raise self.unreadable(
                    f"{name} is a tensor without values of its own ({layout}, on "
                    f"{tensor.device})"
                )
            self.shapes[name] = tuple(tensor.shape)
        # Strides of 0, and views of one storage, repeat the same values.
        self.check_budget()

    def _choose(self, found, preferred):
        """Return the only state dict, or the preferred one of several."""
        if not found:
            raise self.unreadable("no dict of tensors is in it")
        # A loss or a scheduler may keep a few tensors of its own.
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
        # The format before torch 1.6 is no zip archive and cannot be mapped.
        mapped = zipfile.is_zipfile(self.path)
        if mapped:
            self._check_archive()
        # Mapped, the file is in memory once, tensor by tensor.
        return torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)

    def _check_archive(self):
        """Check the checksums, which torch does not."""
        with open_archive(self.path) as archive:
            if any(name.endswith("/constants.pkl") for name in archive.namelist()):
                raise ValueError(
                    "it is a TorchScript program, not weights: save "
                    "torch.jit.load(path).state_dict() with torch.save"
                )
            for member in archive.infolist():
                if member.compress_type != zipfile.ZIP_STORED:
                    # Mapped, compressed bytes would be taken for numbers.
                    raise ValueError(f"{member.filename} is compressed")
            damaged = archive.testzip()
        if damaged is not None:
            raise ValueError(f"{damaged} is damaged: its checksum is wrong")

    @contextlib.contextmanager
    def reader(self):
        yield lambda name: self._tensors[name].float().resolve_neg().numpy()


def _reason(error):
    """Return what torch met in a file, without its advice to execute the file's code."""
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
    """Return the dicts of tensors in what `torch.save` wrote, by their path of keys."""
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
