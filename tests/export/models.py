"""Models that every format must export, with their expected outputs."""

import numpy as np
import pytest

from keras_vit.layers import Preprocessor, ResNetStem, TokenHalting
from tests.cases import DENSE, array, perturb, tiny_t2t, tiny_vit

MODELS = {
    "distilled": {
        "distillation_token": True,
        "preprocessor": Preprocessor(
            image_size=(16, 24), resize="bilinear_antialias", crop_to_aspect_ratio=True
        ),
    },
    "everything": {
        "positions": "relative",
        "pooling": "map",
        "registers": 2,
        "dropout_rate": 0.1,
        "activation": "gelu",
        "dtype": "mixed_bfloat16",
        "preprocessor": Preprocessor([120.0, 110.0, 100.0], [60.0, 61.0, 62.0]),
        "classifier_activation": "sigmoid",
    },
    "logits": {
        "classifier_activation": None,
        "positions": "sincos_2d",
        "pooling": "gap",
        "preprocessor": Preprocessor.imagenet((16, 24)),
    },
    "hybrid": {
        "stem": ResNetStem((1,), width=32),
        "patch_size": 2,
        "dtype": "mixed_bfloat16",
        "preprocessor": Preprocessor(image_size=(16, 24), crop_to_aspect_ratio=True),
    },
    "merging": {"token_reduction": [2, 1], "pooling": "gap", "registers": 1},
    "halting": {
        "token_reduction": TokenHalting(6.0, 0.0, kept=[7, 4]),
        "distillation_token": True,
    },
    "t2t_ghost": {"tokens": "performer", "backbone": "ghost"},
    "t2t_dense": {"tokens": "transformer", "dtype": "mixed_bfloat16", **DENSE},
}


# The first case runs on every backend, the others only on one. An export takes seconds.
NAMES = [
    "everything",
    *(
        pytest.param(name, marks=[pytest.mark.any_backend, pytest.mark.slow])
        for name in MODELS
        if name != "everything"
    ),
]


def tiny_model(arguments):
    tiny = tiny_t2t if "tokens" in arguments else tiny_vit
    return perturb(tiny(**arguments))


def pixels(model, batch, seed=0):
    shape = (batch, *model.input_shape[1:])
    return np.random.default_rng(seed).integers(0, 256, shape, "uint8")


def exact_copy(model, **changes):
    """Return a float32 copy of a model with some constructor arguments changed."""
    config = {**model.get_config(), "dtype": "float32", "classifier_activation": None}
    copy = type(model).from_config({**config, **changes})
    weights = model.weights_by_path()
    for path, weight in copy.weights_by_path().items():
        weight.assign(array(weights[path]))
    return copy
