"""DINOv2 of transformers, with and without registers."""

from keras_vit.weights.published_pixels import pixels
from keras_vit.weights.transformers.source import BlockNames, TransformersSource
from keras_vit.weights.transformers.vit import NEW_ATTENTION, OLD_ATTENTION, ViTSource

_BLOCK = {
    "attention_norm": "norm1",
    "attention_scale": "layer_scale1.lambda1",
    "mlp_norm": "norm2",
    "mlp_scale": "layer_scale2.lambda1",
}
_MLP = {"mlp/expand": "mlp.fc1", "mlp/contract": "mlp.fc2"}
# Names before version 5 of transformers, in which files are still saved, and since.
_OLD_SWIGLU = {"mlp/expand": "mlp.weights_in", "mlp/contract": "mlp.weights_out"}
_NEW_SWIGLU = {
    "mlp/expand": ("mlp.gate_proj", "mlp.up_proj"),
    "mlp/contract": "mlp.down_proj",
}


class Dinov2Source(TransformersSource):
    """Checkpoint source for `Dinov2Model`, with or without registers or classifier.

    The classifier's input is the class token beside the mean of the grid tokens. Like
    transformers, the reader resizes positions to the size of the preprocessed images.
    """

    kind = "transformers DINOv2"
    usual_pixels = pixels("imagenet", crop_fraction=0.875, crop_rounding="floor")
    model_types = ("dinov2", "dinov2_with_registers")
    prefixes = ("dinov2.", "dinov2_with_registers.")
    ignored = ("embeddings.mask_token",)
    names = {  # noqa: RUF012
        **ViTSource.names,
        "registers": "embeddings.register_tokens",
    }
    blocks = tuple(
        BlockNames("encoder.layer.{}.", {**_BLOCK, **attention, **mlp})
        for attention, swiglu in (
            (OLD_ATTENTION, _OLD_SWIGLU),
            (NEW_ATTENTION, _NEW_SWIGLU),
        )
        for mlp in (_MLP, swiglu)
    )
    defaults = {  # noqa: RUF012
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-6,
        "qkv_bias": True,
        "mlp_ratio": 4,
        "num_register_tokens": None,
        # This is the initial value; the trained values come from the file.
        "layerscale_value": 1.0,
        "use_swiglu_ffn": False,
        "use_mask_token": True,
    }
    possible = {  # noqa: RUF012
        **TransformersSource.possible,
        "pooling": ("token", "gap", "token_gap", None),
        "mlp": ("plain", "swiglu"),
    }
    interpolates = True
    is_square = True

    def __init__(self, file, config, around):
        super().__init__(file, config, around)
        if self._shape("registers") is not None:
            self.resize = "bicubic_antialias"

    def _own_config(self, config):
        pooling = "token_gap" if self.num_classes() else "token"
        return {"pooling": pooling, "mlp": "swiglu" if self._is_gated() else "plain"}

    @classmethod
    def written_block(cls, config):
        return cls.blocks[int(config["mlp"] != "plain")]

    def _is_gated(self):
        return self._block.layers["mlp/contract"] != _MLP["mlp/contract"]

    def _stated(self, config):
        width, mlp_dim = config["hidden_dim"], config["mlp_dim"]
        ratio = self._config["mlp_ratio"]
        hidden = int(width * ratio)
        if self._is_gated():
            hidden = (int(hidden * 2 / 3) + 7) // 8 * 8
        return {
            **super()._stated(config),
            "qkv_bias": config["qkv_bias"],
            "mlp_ratio": ratio if hidden == mlp_dim else mlp_dim / width,
            "use_swiglu_ffn": self._is_gated(),
            "num_register_tokens": config["registers"],
        }
