"""SigLIP's vision model of transformers, alone or beside its text model."""

from typing import ClassVar

from keras_vit.weights.parts import FlatPatches
from keras_vit.weights.pieces import POSITIONS
from keras_vit.weights.published_pixels import pixels
from keras_vit.weights.transformers.source import BlockNames, TransformersSource

BLOCK = BlockNames(
    "encoder.layers.{}.",
    {
        "attention_norm": "layer_norm1",
        "attention/qkv": tuple(f"self_attn.{x}_proj" for x in "qkv"),
        "attention/projection": "self_attn.out_proj",
        "mlp_norm": "layer_norm2",
        "mlp/expand": "mlp.fc1",
        "mlp/contract": "mlp.fc2",
    },
)


class SiglipSource(TransformersSource):
    """Checkpoint source for `SiglipVisionModel` and `SiglipModel`.

    The tensors of the text model are ignored. A classifier pools by the mean of the
    tokens and does not use the attention pooling.
    """

    kind = "transformers SigLIP"
    usual_pixels = pixels("inception")
    model_types = ("siglip_vision_model", "siglip")
    prefixes = ("vision_model.",)
    ignored = ("text_model.", "logit_scale", "logit_bias")
    names = {  # noqa: RUF012
        "patches": "embeddings.patch_embedding",
        "positions": "embeddings.position_embedding.weight",
        "norm": "post_layernorm",
        "probe": "head.probe",
        "pooling": {
            "query": "head.attention.q",
            "key_value": "head.attention.kv",
            "projection": "head.attention.out_proj",
            "norm": "head.layernorm",
            "mlp/expand": "head.mlp.fc1",
            "mlp/contract": "head.mlp.fc2",
        },
    }
    blocks = (BLOCK,)
    is_square = True
    ranks = {POSITIONS: 2}  # noqa: RUF012
    splits = {  # noqa: RUF012
        f"head.attention.in_proj_{leaf}": {
            f"head.attention.q.{leaf}": 1,
            f"head.attention.kv.{leaf}": 2,
        }
        for leaf in ("weight", "bias")
    }
    defaults = {  # noqa: RUF012
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": 1e-6,
        "vision_use_head": True,
    }
    possible = {  # noqa: RUF012
        **TransformersSource.possible,
        "pooling": ("map", "gap", None),
        "layer_scale": (None,),
        "registers": (0,),
    }

    def unused_names(self, config):
        # A classifier and the tokens alone do without the attention pooling.
        return () if config["pooling"] == "map" else (f"{self._prefix}head.",)

    def _own_config(self, config):
        has_head = self._shape("probe") is not None
        return {"pooling": "map" if has_head and not self.num_classes() else "gap"}

    def _stated(self, config):
        has_head = self._shape("probe") is not None
        return {**super()._stated(config), "vision_use_head": has_head}


class Siglip2Source(SiglipSource):
    """Checkpoint source for `Siglip2VisionModel` and `Siglip2Model`, for one image size.

    These networks process images of any aspect ratio. For images of one size they are
    SigLIP's with a matrix as patch embedding and with resized positions. Other SigLIP 2
    repositories have the classes of SigLIP.
    """

    kind = "transformers SigLIP 2 (NaFlex)"
    usual_pixels = pixels("inception", "bilinear_antialias")
    model_types = ("siglip2_vision_model", "siglip2")
    resize = "bilinear_antialias"
    defaults: ClassVar = {**SiglipSource.defaults, "num_patches": None}

    def __init__(self, file, config, around):
        kernel = f"{self.names['patches']}.weight"
        name = next(name for name in file.shapes if name.endswith(kernel))
        channels = config.get("num_channels", 3)
        super().__init__(FlatPatches(file, name, channels), config, around)

    def _stated(self, config):
        rows = self.num_position_rows()
        return {**super()._stated(config), "num_patches": rows}
