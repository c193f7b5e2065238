"""DINOv3's ViT of transformers."""

from typing import Any, ClassVar

from keras_vit.weights.published_pixels import pixels_of_dinov3
from keras_vit.weights.transformers.source import BlockNames, TransformersSource

_QKV = tuple(f"attention.{x}_proj" for x in "qkv")
_QV_BIAS = ("attention.q_proj.bias", None, "attention.v_proj.bias")
_BLOCK = {
    "attention_norm": "norm1",
    "attention/qkv": _QKV,
    "attention/qkv/bias": _QV_BIAS,
    "attention/projection": "attention.o_proj",
    "attention_scale": "layer_scale1.lambda1",
    "mlp_norm": "norm2",
    "mlp_scale": "layer_scale2.lambda1",
}
_PLAIN = {**_BLOCK, "mlp/expand": "mlp.up_proj", "mlp/contract": "mlp.down_proj"}
_GATED = {**_PLAIN, "mlp/expand": ("mlp.gate_proj", "mlp.up_proj")}


class Dinov3Source(TransformersSource):
    """Checkpoint source for `DINOv3ViTModel`, with plain or gated MLPs."""

    kind = "transformers DINOv3"
    model_types = ("dinov3_vit",)
    ignored: ClassVar[tuple[str, ...]] = ("embeddings.mask_token",)
    needs_positions = False
    default_heads = 6
    published_heads: ClassVar[dict[int, int]] = {
        **TransformersSource.published_heads,
        1280: 20,
        4096: 32,
    }
    names = {  # noqa: RUF012
        "patches": "embeddings.patch_embeddings",
        "class_token": "embeddings.cls_token",
        "registers": "embeddings.register_tokens",
        "norm": "norm",
    }
    blocks = tuple(
        BlockNames(prefix, names)
        for prefix in ("layer.{}.", "model.layer.{}.")
        for names in (_GATED, _PLAIN)
    )
    defaults = {  # noqa: RUF012
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-5,
        "rope_theta": 100.0,
        "query_bias": True,
        "key_bias": False,
        "value_bias": True,
        "proj_bias": True,
        "mlp_bias": True,
        "use_gated_mlp": False,
        "num_register_tokens": None,
        # This is the initial value; the trained values come from the file.
        "layerscale_value": 1.0,
        # These augment positions in training.
        "pos_embed_shift": None,
        "pos_embed_jitter": None,
        "pos_embed_rescale": 2.0,
    }
    possible = {  # noqa: RUF012
        **TransformersSource.possible,
        "positions": ("rope_axial",),
        "mlp": ("plain", "swiglu"),
        "pooling": ("token", "gap", None),
    }
    interpolates = True

    def __init__(self, file, config, around):
        super().__init__(file, config, around)
        # A network without registers has a tensor without rows.
        registers = self.names["registers"]
        if 0 in self.shapes.get(registers, ()):
            del self.shapes[registers]
        settings: dict[str, Any] = {
            "rope_theta": 100.0,
            "proj_bias": True,
            "mlp_bias": True,
        }
        if self._is_gated():
            self.activation = "silu"
            settings["hidden_act"] = "silu"
        other = [
            f"{name}={self._config[name]!r}"
            for name, value in settings.items()
            if around and self._config[name] != value
        ]
        if other:
            raise self._other_network(other)

    def _published_pixels(self):
        size = self.shapes[self._kernel()][0], self._num_layers()
        return pixels_of_dinov3(self.path, size, self._has_own_norm())

    def _has_own_norm(self):
        """Return True if the file has a norm for the class tokens of small crops.

        transformers does not store it, so that its files do not show it: None.
        """
        return None

    def _own_config(self, config):
        q, k, v = self._has_biases()
        return {
            "positions": "rope_axial",
            "mlp": "swiglu" if self._is_gated() else "plain",
            "qkv_bias": "qv" if q and v and not k else q,
        }

    @classmethod
    def written_block(cls, config):
        return cls.blocks[int(config["mlp"] == "plain")]

    def _is_gated(self):
        return isinstance(self._block.layers["mlp/expand"], tuple)

    def _has_biases(self):
        names = self._block.layers["attention/qkv"]
        return [f"{self._block_name(0)}{name}.bias" in self.shapes for name in names]

    def _stated(self, config):
        q, k, v = self._has_biases()
        if not (q and v) and (q or k or v):
            raise self._other_network([f"query_bias={q}, key_bias={k}, value_bias={v}"])
        return {
            **super()._stated(config),
            "query_bias": q,
            "key_bias": k,
            "value_bias": v,
            "use_gated_mlp": self._is_gated(),
            "num_register_tokens": config["registers"],
        }
