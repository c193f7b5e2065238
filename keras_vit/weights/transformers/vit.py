"""ViT, DeiT, ViT-MSN, ViT-MAE and I-JEPA of transformers."""

from typing import Any, ClassVar

from keras_vit.weights.published_pixels import pixels
from keras_vit.weights.transformers.source import BlockNames, TransformersSource

# Names in a block before version 5 of transformers and since.
OLD_ATTENTION = {
    "attention/qkv": tuple(f"attention.attention.{x}" for x in ("query", "key", "value")),
    "attention/projection": "attention.output.dense",
}
NEW_ATTENTION = {
    "attention/qkv": tuple(f"attention.{x}_proj" for x in "qkv"),
    "attention/projection": "attention.o_proj",
}
OLD_BLOCK = BlockNames(
    "encoder.layer.{}.",
    {
        "attention_norm": "layernorm_before",
        **OLD_ATTENTION,
        "mlp_norm": "layernorm_after",
        "mlp/expand": "intermediate.dense",
        "mlp/contract": "output.dense",
    },
)
NEW_BLOCK = BlockNames(
    "layers.{}.",
    {
        "attention_norm": "layernorm_before",
        **NEW_ATTENTION,
        "mlp_norm": "layernorm_after",
        "mlp/expand": "mlp.fc1",
        "mlp/contract": "mlp.fc2",
    },
)
# Evaluation of DeiT and of MAE.
_CROP: dict[str, Any] = {"crop_fraction": 0.875, "crop_rounding": "floor"}


class ViTSource(TransformersSource):
    """Checkpoint source for `ViTModel`, `ViTForImageClassification` and ViT-MSN."""

    kind = "transformers ViT"
    model_types: ClassVar[tuple[str, ...]] = ("vit", "vit_msn")
    prefixes: ClassVar[tuple[str, ...]] = ("vit.",)
    # A decoder that predicts masked pixels is a head of pretraining.
    ignored: ClassVar[tuple[str, ...]] = ("embeddings.mask_token", "decoder.")
    names = {  # noqa: RUF012
        "patches": "embeddings.patch_embeddings.projection",
        "class_token": "embeddings.cls_token",
        "positions": "embeddings.position_embeddings",
        "norm": "layernorm",
    }
    blocks = (OLD_BLOCK, NEW_BLOCK)
    defaults = {  # noqa: RUF012
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "qkv_bias": True,
    }
    possible = {  # noqa: RUF012
        **TransformersSource.possible,
        "pooling": ("token", "gap", None),
        "layer_scale": (None,),
    }

    def __init__(self, file, config, around):
        super().__init__(file, config, around)
        if config.get("model_type") == "vit_msn" and "layer_norm_eps" not in config:
            self.layer_norm_epsilon = 1e-6
        if f"{self._prefix}pooler.dense.bias" not in file.shapes and not self._prefix:
            # The tensors may be those of ViT-MSN, whose epsilon is another one.
            self.open_arguments = {"layer_norm_epsilon": (1e-12, 1e-6)}

    def _stated(self, config):
        return {**super()._stated(config), "qkv_bias": config["qkv_bias"]}


class DeiTSource(ViTSource):
    """Checkpoint source for DeiT.

    DeiT without a distillation head still has a distillation token, which serves as a
    register.
    """

    kind = "transformers DeiT"
    usual_pixels = pixels("imagenet", **_CROP)
    model_types = ("deit",)
    prefixes = ("deit.",)
    head_names = ("classifier.", "cls_classifier.", "distillation_classifier.")
    names = {  # noqa: RUF012
        **ViTSource.names,
        "distillation_token": "embeddings.distillation_token",
        "registers": "embeddings.distillation_token",
    }

    def num_classes(self):
        bias = self.file.shapes.get("cls_classifier.bias")
        return bias[0] if bias else super().num_classes()

    def _own_config(self, config):
        distilled = "cls_classifier.bias" in self.shapes
        return {"distillation_token": distilled, "registers": int(not distilled)}

    def position_prefixes(self):
        return (2,)

    @classmethod
    def add_head(cls, pieces, config):
        if not config["distillation_token"]:
            super().add_head(pieces, config)
            return
        teacher = "distillation_classifier"
        for name, path in (("cls_classifier", "classifier"), (teacher, teacher)):
            pieces.dense(name, path, config["hidden_dim"], config["classes"])


class ViTMAESource(ViTSource):
    """Checkpoint source for the encoder of ViT-MAE, without its decoder."""

    kind = "transformers ViT-MAE"
    usual_pixels = pixels("imagenet", **_CROP)
    model_types = ("vit_mae",)
    ignored = (*ViTSource.ignored, "decoder.")
    defaults = {  # noqa: RUF012
        **ViTSource.defaults,
        **{
            f"decoder_{name}": None
            for name in (
                "num_attention_heads",
                "hidden_size",
                "num_hidden_layers",
                "intermediate_size",
            )
        },
        "mask_ratio": None,
        "norm_pix_loss": None,
    }


class IJepaSource(ViTSource):
    """Checkpoint source for I-JEPA, which has no class token."""

    kind = "transformers I-JEPA"
    model_types = ("ijepa",)
    prefixes = ("ijepa.",)
    names = {  # noqa: RUF012
        key: name for key, name in ViTSource.names.items() if key != "class_token"
    }
    possible = {**ViTSource.possible, "pooling": ("gap", None)}  # noqa: RUF012
    # The epsilon in published files is not the default of transformers.
    open_arguments = {"layer_norm_epsilon": (1e-6, 1e-12)}  # noqa: RUF012

    def _own_config(self, config):
        return {"pooling": "gap"}


def infer_source(shapes: dict[str, Any]) -> type[ViTSource]:
    """Return the class of this family that the tensors show."""
    if any(name.endswith("embeddings.distillation_token") for name in shapes):
        return DeiTSource
    if "decoder.mask_token" in shapes:
        return ViTMAESource
    token = ("vit.", "embeddings.cls_token")
    return ViTSource if any(name.startswith(token) for name in shapes) else IJepaSource
