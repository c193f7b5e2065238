"""PyTorch's `.pth`, `.pt`, `.pth.tar` and `.bin` files."""

import argparse
import contextlib
import zipfile
from typing import Any

from keras_vit.weights.tensor_file import TensorFile

# Where training scripts put the weights among other things, best first.
_STATE_DICTS = ("state_dict_ema", "model_ema", "state_dict", "model")


class TorchFile(TensorFile):
    """A file that `torch.save` wrote; nothing in it is executed.

    Raises:
        ImportError: torch is not installed.
        ValueError: the file is damaged, holds anything but tensors and plain values, or
            tensors of other kinds than floats.
    """

    format = ".pth"

    def __init__(self, path):
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
            first_line = str(error).strip().split("\n")[0]
            raise self.unreadable(f"{type(error).__name__}: {first_line}") from None
        for key in _STATE_DICTS:
            if isinstance(content, dict) and isinstance(content.get(key), dict):
                content = content[key]
                break
        if not isinstance(content, dict) or not all(
            isinstance(value, torch.Tensor) for value in content.values()
        ):
            raise self.unreadable("no dict of tensors is in it")
        self._tensors: dict[str, Any] = {}
        for stored, tensor in content.items():
            name = stored.removeprefix("module.")
            if name in self._tensors:
                raise self.unreadable(f"{name} is in it twice")
            self._tensors[name] = tensor.detach()
        for name, tensor in self._tensors.items():
            self.check_dtype(name, str(tensor.dtype).removeprefix("torch."))
            self.shapes[name] = tuple(tensor.shape)

    def _load(self, torch):
        # Mapped, the file is in memory once, tensor by tensor; the format before torch
        # 1.6 is no zip archive and cannot be.
        mapped = zipfile.is_zipfile(self.path)
        return torch.load(self.path, map_location="cpu", weights_only=True, mmap=mapped)

    @contextlib.contextmanager
    def reader(self):
        yield lambda name: self._tensors[name].float().numpy()
