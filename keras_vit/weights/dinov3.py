"""DINOv3's own files: `.pth` files of facebookresearch/dinov3."""

from typing import Any, ClassVar

import numpy as np

from keras_vit.weights.tensor_file import TensorFile
from keras_vit.weights.transformers.dinov3 import Dinov3Source
from keras_vit.weights.transformers.source import BlockNames

# Tensor by which the files are recognized: the periods of the rotary positions.
SIGN = "rope_embed.periods"
_BASE = 100.0
_MASK = ".attn.qkv.bias_mask"
_QKV = tuple(f"attn.{part}" for part in "qkv")
_BLOCK = {
    "attention_norm": "norm1",
    "attention/qkv": _QKV,
    "attention/qkv/bias": ("attn.q.bias", None, "attn.v.bias"),
    "attention/projection": "attn.proj",
    "attention_scale": "ls1.gamma",
    "mlp_norm": "norm2",
    "mlp_scale": "ls2.gamma",
}
# Widths and numbers of blocks of the published networks, which have the same epsilon.
_PUBLISHED = {(384, 12), (768, 12), (1024, 24), (1280, 32), (4096, 40)}
_EPSILON = 1e-5


class FacebookDinov3Source(Dinov3Source):
    """Checkpoint source for the backbones of facebookresearch/dinov3.

    The names are those of timm's networks, but the blocks have rotary positions whose
    periods are in the file, and the biases of the keys are masked. The number of heads
    follows from the periods. The published networks have images of 224x224 pixels, which
    is the default `input_shape` of the model. The name of the file, the size of the
    network and its norms determine whether pixels are scaled for photographs or for
    satellite images.

    Args:
        file: the opened file.

    Raises:
        ValueError: if the periods are not those of the published networks.
    """

    kind = "facebookresearch DINOv3"
    config_name = "configuration"
    # Only training uses the last of these, the norm of the class tokens of small crops.
    ignored: ClassVar[tuple[str, ...]] = ("mask_token", "rope_embed.", "local_cls_norm.")
    names = {  # noqa: RUF012
        "patches": "patch_embed.proj",
        "class_token": "cls_token",
        "registers": "storage_tokens",
        "norm": "norm",
    }
    splits = {  # noqa: RUF012
        f"attn.qkv.{leaf}": {f"attn.{part}.{leaf}": 1 for part in "qkv"}
        for leaf in ("weight", "bias")
    }
    blocks = tuple(
        BlockNames("blocks.{}.", {**_BLOCK, "mlp/expand": expand, "mlp/contract": last})
        for expand, last in (
            (("mlp.w1", "mlp.w2"), "mlp.w3"),
            ("mlp.fc1", "mlp.fc2"),
        )
    )
    possible = {**Dinov3Source.possible, "pooling": ("token", "gap", None)}  # noqa: RUF012

    def __init__(self, file: TensorFile):
        (count,) = file.shapes[SIGN]
        width = file.shapes.get("cls_token", (0,))[-1]
        # The periods are for a quarter of the entries of a head.
        settings: dict[str, Any] = {}
        if count and width % (4 * count) == 0:
            settings["num_attention_heads"] = width // (4 * count)
        super().__init__(file, settings, {})
        self._check_periods(file, count)
        masked = [n for n in self.shapes if n.endswith(_MASK)]
        for name in masked:
            del self.shapes[name]
            self.shapes.pop(name.replace(_MASK, ".attn.k.bias"), None)
        self.image_size = (224, 224)

    def _check_periods(self, file, count):
        """Raise a `ValueError` unless the periods are the published ones."""
        with file.reader() as read:
            periods = read(SIGN)
        expected = _BASE ** (np.arange(count) / count)
        # The periods may be stored in bfloat16.
        if not np.allclose(periods, expected, rtol=1e-2):
            raise self._other_network([f"{SIGN} from {periods[0]} to {periods[-1]}"])

    def states_pixels(self):
        return True  # The name of the file, which a written directory does not have.

    def _has_own_norm(self):
        return "local_cls_norm.weight" in self.file.shapes

    def _ask_open(self, overrides):
        width = self.shapes[self._kernel()][0]
        is_published = (width, self._num_layers()) in _PUBLISHED
        if not is_published and overrides.get("layer_norm_epsilon") is None:
            raise ValueError(
                f"No tensor in {self.path} shows the epsilon of the norms. It is "
                f"{_EPSILON} in the published networks of DINOv3, which have other "
                "sizes, and 1e-6 in networks that its code trains by default. Pass "
                "layer_norm_epsilon=..."
            )
