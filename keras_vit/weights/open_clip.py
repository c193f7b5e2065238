"""CLIP's vision model in open_clip's own files, alone or beside its text model."""

import functools
import os
import re
from typing import Any

from keras_vit.layers.preprocessor import RESIZES
from keras_vit.weights.open_clip_config import CONFIG, PREPROCESSING
from keras_vit.weights.pieces import Piece
from keras_vit.weights.published_pixels import pixels
from keras_vit.weights.tensor_file import TensorFile, read_json
from keras_vit.weights.transformers.clip import ClipSource
from keras_vit.weights.transformers.source import BlockNames

_PROJECTION = "proj"
# Names of published files of size L/14 with the usual mean and std.
_SIZE_L = "vit_l_14|ViT-L-14|l14_"
# Arguments of the vision model that follow from the tensors or affect only training.
_SHOWN = {"layers", "width", "head_width", "mlp_ratio", "patch_size", "image_size"}
_SHOWN |= {"patch_dropout", "ls_init_value"}
# Arguments that change the outputs, with the values that keras_vit supports.
_SUPPORTED: dict[str, tuple] = {
    "attentional_pool": (False,),
    "global_average_pool": (False,),
    "input_patchnorm": (False,),
    "no_ln_pre": (False,),
    "output_tokens": (False,),
    "pool_type": ("tok",),
    "pos_embed_type": ("learnable",),
}


class OpenClipSource(ClipSource):
    """Checkpoint source for the vision model of open_clip's `CLIP`.

    The projection to the space that images and texts share becomes the classifier, as in
    `ClipSource`. The networks of OpenAI have the quick GELU and most others the exact
    one, which no tensor shows: `open_clip_config.json` beside the file states it, or the
    caller passes `activation`.

    Args:
        file: the opened file, without the prefix `visual.`.

    Raises:
        ValueError: if `open_clip_config.json` describes a network that keras_vit does not
            support.
    """

    kind = "open_clip"
    config_name = CONFIG
    prefixes = ()
    pooler = None
    ignored = ()
    names = {  # noqa: RUF012
        "patches": "conv1",
        "class_token": "class_embedding",
        "positions": "positional_embedding",
        "embedding_norm": "ln_pre",
        "norm": "ln_post",
    }
    splits = {  # noqa: RUF012
        f"attn.in_proj_{leaf}": {f"attn.{part}.{leaf}": 1 for part in "qkv"}
        for leaf in ("weight", "bias")
    }
    blocks = (
        BlockNames(
            "transformer.resblocks.{}.",
            {
                "attention_norm": "ln_1",
                "attention/qkv": tuple(f"attn.{part}" for part in "qkv"),
                "attention/projection": "attn.out_proj",
                "mlp_norm": "ln_2",
                "mlp/expand": "mlp.c_fc",
                "mlp/contract": "mlp.c_proj",
            },
        ),
    )
    head_names: tuple[str, ...] = (_PROJECTION,)
    usual_pixels = pixels("clip", crop_fraction=1.0)
    resize = "bicubic_antialias"

    def __init__(self, file: TensorFile):
        around = read_json(os.path.dirname(file.path), CONFIG)
        model = around.get("model_cfg") or {}
        self._preprocess_cfg = around.get("preprocess_cfg") or {}
        settings = self._settings(file, model)
        super().__init__(file, settings, settings)

    def _settings(self, file, model):
        """Return open_clip's configuration in the terms of transformers.

        The dict is empty if the configuration does not describe the vision model.
        """
        vision = model.get("vision_cfg")
        if vision is None:
            return {}
        other = [
            f"{name}={value!r}"
            for name, value in vision.items()
            if name not in _SHOWN
            and value is not None
            and value not in _SUPPORTED.get(name, ())
        ]
        if other:
            self.path = file.path
            raise self._other_network(other)
        width = vision.get("width", 768)
        return {
            "hidden_act": "quick_gelu" if model.get("quick_gelu") else "gelu",
            "hidden_size": width,
            "num_hidden_layers": vision.get("layers", 12),
            "num_attention_heads": width // vision.get("head_width", 64),
            "intermediate_size": int(width * vision.get("mlp_ratio", 4.0)),
            "patch_size": vision.get("patch_size", 16),
            "image_size": vision.get("image_size", 224),
        }

    @functools.cached_property
    def _preprocessing(self):
        if not (self._has_config or self._preprocess_cfg):
            return {}, None
        settings = {**PREPROCESSING, **self._preprocess_cfg}
        resize = f"{settings['interpolation']}_antialias"
        other = [
            f"{key}={value!r}"
            for key, value in settings.items()
            if key not in ("mean", "std", "interpolation", "size")
            and (key not in PREPROCESSING or value != PREPROCESSING[key])
        ]
        if resize not in RESIZES:
            other.append(f"interpolation={settings['interpolation']!r}")
        if other:
            raise self.not_honored(
                os.path.join(os.path.dirname(self.path), CONFIG), other
            )
        arguments: dict[str, Any] = {
            key: [255 * value for value in settings[key]] for key in ("mean", "std")
        }
        return {**arguments, "resize": resize, "crop_fraction": 1.0}, None

    def states_pixels(self):
        return True  # The name of the file, which a written directory does not have.

    def _published_pixels(self):
        if re.match(_SIZE_L, os.path.basename(self.path)):
            return self.usual_pixels
        return super()._published_pixels()

    def num_classes(self):
        kernel = self.file.shapes.get(_PROJECTION)
        return kernel[1] if kernel else None

    def _has_projection(self):
        return _PROJECTION in self.shapes

    @classmethod
    def add_head(cls, pieces, config):
        width, classes = config["hidden_dim"], config["classes"]
        shape = (width, classes)
        pieces.append(Piece("classifier/kernel", (_PROJECTION,), shape, shape))
        pieces.append(Piece("classifier/bias", (), (classes,), (classes,)))
