"""AIMv2's vision model of transformers, alone or beside its text model."""

from typing import Any, ClassVar

from keras_vit.layers import AttentionPooling, SelfAttention
from keras_vit.layers.mlp import GatedMLP
from keras_vit.weights.pieces import POSITIONS
from keras_vit.weights.published_pixels import pixels
from keras_vit.weights.transformers.clip import ProjectedSource
from keras_vit.weights.transformers.source import BlockNames


class Aimv2Source(ProjectedSource):
    """Checkpoint source for `Aimv2VisionModel` and `Aimv2Model`.

    Networks for images of any size (`is_native`) are refused: their positions have other
    frequencies than keras_vit's.
    """

    kind = "transformers AIMv2"
    usual_pixels = pixels("clip", crop_fraction=1.0, crop_rounding="floor")
    model_types = ("aimv2_vision_model", "aimv2")
    pooler = None
    needs_positions = False
    is_square = True
    default_heads = 8
    names = {  # noqa: RUF012
        "patches": "embeddings.patch_embed",
        "embedding_norm": "embeddings.rms_norm",
        "positions": "embeddings.position_embedding.weight",
        "norm": "rms_norm",
        "probe": "head.cls_token",
        "pooling": {
            "key_value": ("head.k_proj", "head.v_proj"),
            "projection": "head.output_proj",
        },
    }
    blocks = (
        BlockNames(
            "encoder.layers.{}.",
            {
                "attention_norm": "rms_norm1",
                "attention/qkv": tuple(f"attention.{x}_proj" for x in "qkv"),
                "attention/projection": "attention.out_proj",
                "mlp_norm": "rms_norm2",
                "mlp/expand": ("ffn.gate_proj", "ffn.up_proj"),
                "mlp/contract": "ffn.down_proj",
            },
        ),
    )
    ranks = {POSITIONS: 2}  # noqa: RUF012
    published_heads: ClassVar[dict[int, int]] = {1024: 8, 1536: 12, 2048: 16, 3072: 24}
    defaults = {  # noqa: RUF012
        "hidden_act": "silu",
        "layer_norm_eps": 1e-5,
        "rms_norm_eps": 1e-5,
        "qkv_bias": False,
        "mlp_bias": False,
        "use_head": True,
        "is_native": False,
        "projection_dim": None,
    }

    def __init__(self, file, config, around):
        epsilon = config.get("rms_norm_eps", self.defaults["rms_norm_eps"])
        super().__init__(file, {**config, "layer_norm_eps": epsilon}, around)
        activation = self._config["hidden_act"]
        if self._shape("positions") is None:
            raise self._other_network(["is_native=True"])
        if activation != "silu":
            raise self._other_network([f"hidden_act={activation!r}"])

    def _has_bias(self, layer):
        return self._in_block(layer, "bias") in self.shapes

    def _own_config(self, config):
        bias = self._has_bias("attention/projection")
        pooling: Any = "gap"
        if self._shape("probe") is not None:
            pooling = AttentionPooling(
                config["num_heads"],
                None,
                layer_norm_epsilon=self.layer_norm_epsilon,
                use_query_projection=False,
                use_qkv_bias=f"{self._prefix}head.k_proj.bias" in self.shapes,
            )
        own = {
            "norm": "rms",
            "mlp": GatedMLP(use_bias=self._has_bias("mlp/contract")),
            "attention": SelfAttention(use_projection_bias=bias),
            "embedding_norm": "patches",
            "pooling": pooling,
        }
        self.possible = {
            **type(self).possible,
            **{name: (value,) for name, value in own.items()},
            "pooling": (pooling, "gap", None),
            "layer_scale": (None,),
            "registers": (0,),
        }
        return own

    def unused_names(self, config):
        # The tokens alone do without the attention pooling.
        return (f"{self._prefix}head.",) if config["pooling"] in ("gap", None) else ()

    def _stated(self, config):
        return {
            **super()._stated(config),
            "qkv_bias": config["qkv_bias"],
            "mlp_bias": self._has_bias("mlp/contract"),
            "use_head": self._shape("probe") is not None,
        }
