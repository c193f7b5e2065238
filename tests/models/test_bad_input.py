"""Errors for invalid arguments and images, which name value, limit and remedy."""

import re

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import Preprocessor, ResNetStem, TokenAndAveragePooling
from tests.cases import (
    mostly_slow_elsewhere,
    random_array,
    tiny_vit,
)

BAD_ARGUMENTS = [
    ({"input_shape": (16, 20, 3)}, r"16x20 pixels.*patches of 8x8.*Resize to 16x16"),
    ({"input_shape": (16, 24)}, r"three positive ints.*\(16, 24\)"),
    ({"input_shape": (16, None, 3)}, "three positive ints"),
    ({"patch_size": 0}, "patch_size must be a positive int.*0"),
    ({"num_heads": 3}, "num_heads=3 does not divide hidden_dim=16.*nearest.*2"),
    ({"num_heads": 0}, "num_heads must be a positive int.*0"),
    ({"num_layers": 2.5}, r"num_layers must be a positive int.*2\.5"),
    ({"classes": -1}, "classes must be a positive int.*-1"),
    ({"registers": -1}, "registers must be an int, 0 or more.*-1"),
    ({"dropout_rate": 1.0}, r"dropout_rate must be.*at least 0 and below 1.*1\.0"),
    ({"stochastic_depth_rate": "much"}, "stochastic_depth_rate must be a number.*'much'"),
    ({"representation_size": 0}, "representation_size must be None or a positive.*0"),
    ({"layer_norm_epsilon": 0}, "layer_norm_epsilon must be a float between 0 and 1.*0"),
    ({"pooling": "mean"}, "Unknown pooling 'mean'.*'token', .*'sequence', None"),
    ({"positions": "rope"}, "Unknown positions 'rope'.*'learned', 'learned_2d'"),
    ({"final_norm": "never"}, "Unknown final_norm 'never'.*'before_pooling'"),
    ({"activation": "gelo"}, "Unknown activation 'gelo'.*'gelu_tanh'"),
    (
        {"classifier_activation": "softmacks"},
        "Unknown classifier_activation 'softmacks'; use None for logits",
    ),
    ({"classes": 1}, r"classes=1 and classifier_activation='softmax'.*'sigmoid'.*None"),
    ({"class_token": False}, "pooling='token' needs the class token"),
    (
        {"pooling": TokenAndAveragePooling(), "class_token": False},
        "pooling='token_gap' needs the class token",
    ),
    (
        {"distillation_token": True, "final_norm": "after_pooling"},
        "distillation_token=True needs final_norm='before_pooling'",
    ),
    ({"pooling": None}, "pooling=None gives tokens.*include_top=True"),
    (
        {"include_top": False, "representation_size": 8},
        "representation_size is part of the classification head.*8",
    ),
    (
        {"hidden_dim": 15, "num_heads": 3, "positions": "learned_2d"},
        "divisible by 2; received 15",
    ),
    (
        {"hidden_dim": 18, "num_heads": 3, "positions": "sincos_2d"},
        "divisible by 4; received 18",
    ),
    ({"preprocessor": "imagenet"}, r"must be a keras_vit\.layers\.Preprocessor"),
    (
        {"preprocessor": Preprocessor(image_size=(24, 16))},
        r"image_size=\(24, 16\), the model input_shape=\(16, 24, 3\).*"
        r"with_image_size\(\(16, 24\)\)",
    ),
    ({"input_shape": 224}, "three positive ints.*224"),
    ({"layer_scale": 0}, "layer_scale must be None or a positive number.*0"),
    ({"classifier_bias": float("nan")}, "classifier_bias must be a finite.*nan"),
    ({"qkv_bias": "no"}, "qkv_bias must be a bool.*'no'"),
    ({"head": "new"}, "head='new'.*received weights=None"),
    ({"head": "old"}, "Unknown head 'old'.*'keep', 'new'"),
    ({"resize": "nearest"}, "Unknown resize 'nearest'.*'google'"),
    ({"stem": "resnet"}, r"stem must be None or a Keras layer.*ResNetStem\(\).*'resnet'"),
    (
        {"stem": ResNetStem(()), "patch_size": 8, "input_shape": (100, 230, 3)},
        "100x230 pixels leaves the stem as a map of 25x58.*patches of 8x8.*"
        r"Resize to 96x224, input_shape=\(96, 224, 3\)",
    ),
    (
        {"stem": ResNetStem(()), "patch_size": 8},
        r"16x24 pixels leaves.*a map of 4x6.*Resize to 29x29",
    ),
    ({"patch_size": "16"}, "patch_size must be a positive int.*'16'"),
    ({"patch_size": True}, "patch_size must be a positive int.*True"),
    ({"input_shape": (True, 24, 3)}, "three positive ints"),
    ({"num_layers": 10**9}, r"num_layers must be .*at most 10000.*1000000000"),
    ({"num_layers": 10**6000}, "num_layers must be.*an int of more than 20 digits"),
    ({"num_heads": True}, "num_heads must be a positive int.*True"),
    ({"classes": [5]}, r"classes must be a positive int.*\[5\]"),
    ({"registers": 10**12}, "registers must be an int, 0 or more, at most 1000000"),
    ({"hidden_dim": 2**17, "num_layers": 100}, r"weights, more than 1e\+11: make hidden"),
    ({"input_shape": (2**20, 2**20, 3)}, "numbers an image: make it smaller"),
    ({"stem": keras.layers.Dense(10**9)}, "maps of .*numbers an image: make it smaller"),
    ({"dropout_rate": float("nan")}, "dropout_rate must be a number.*nan"),
    ({"dropout_rate": False}, "dropout_rate must be a number.*False"),
    ({"classifier_bias": 10**400}, "classifier_bias must be a finite number"),
    ({"layer_scale": float("inf")}, "layer_scale must be None or a positive.*inf"),
    ({"classifier_activation": "deserialize"}, "Unknown classifier_activation 'deseri"),
    ({"stem": ResNetStem(()), "patch_size": 0}, "patch_size must be a positive int.*0"),
    ({"stem": ResNetStem(()), "input_shape": (16, 24)}, "three positive ints"),
    (
        {"stem": keras.layers.GlobalAveragePooling2D()},
        r"stem must give maps.*gives \(None, 3\) for images of \(16, 24, 3\)",
    ),
    (
        {"stem": keras.layers.GlobalAveragePooling2D(keepdims=True), "patch_size": 2},
        r"map of 1x1 positions.*multiples of 2\. Change patch_size: the stem makes no",
    ),
    (
        {"stem": keras.layers.Conv2D(4, 12), "patch_size": 4},
        r"map of 5x13 positions.*Resize to 15x23",
    ),
]


@pytest.mark.any_backend
@pytest.mark.parametrize(("arguments", "message"), BAD_ARGUMENTS)
def test_bad_argument(arguments, message, monkeypatch):
    def built(*_, **__):
        raise AssertionError("something was allocated before the error")

    monkeypatch.setattr(keras.layers.Layer, "add_weight", built)
    with pytest.raises(ValueError, match=message):
        tiny_vit(**arguments)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("argument", "hint"),
    [
        ("num_classes", ": did you mean classes?"),
        ("num_layer", ": did you mean num_layers"),
        ("drop_path_rate", ": did you mean stochastic_depth_rate?"),
        ("xyz", "."),
    ],
)
@pytest.mark.parametrize("make", [keras_vit.ViT, keras_vit.ViTTi16, keras_vit.T2TViT7])
def test_an_unknown_argument(make, argument, hint):
    with pytest.raises(TypeError, match=re.escape(f"has no argument '{argument}'{hint}")):
        make(**{argument: 2})


def test_a_stem_that_has_weights():
    used = tiny_vit(stem=ResNetStem((), width=32), patch_size=2).get_layer("stem")
    with pytest.raises(
        ValueError, match=r"'stem' has weights already.*from_config.*set_"
    ):
        tiny_vit(stem=used, patch_size=2)
    # Follow the remedy that the error names.
    copy = tiny_vit(stem=type(used).from_config(used.get_config()), patch_size=2)
    copy.get_layer("stem").set_weights(used.get_weights())


BAD_IMAGES = [
    (
        random_array(2, 16, 24),
        r"batch of images.*16, 24\).*images\[None\], gray images need np\.repeat\(.* 3,",
    ),
    (random_array(2, 16, 24, 1), r"3 channels.*, 16, 24, 1\)"),
    (random_array(2, 3, 16, 24), r"3 channels, last axis.*, 3, 16, 24\)"),
    (random_array(2, 24, 16, 3), r"16x24 pixels.*resized\(\(24, 16, 3\)\)"),
    (np.zeros((2, 16, 24, 3), "uint8"), r"received uint8.*model\.preprocessor\(images\)"),
    (
        np.zeros((2, 16, 24, 3), "int64"),
        r"received int(32|64).*model\.preprocessor\(images\)",
    ),
]


CALLS = {
    "array": lambda model, images: model(images),
    "tensor": lambda model, images: model(keras.ops.convert_to_tensor(images)),
    "dictionary": lambda model, images: model({"images": images}),
    "fit": lambda model, images: model.fit(images, LABELS, verbose=0),
    "validation": lambda model, images: model.fit(
        GOOD, LABELS, validation_data=(images, LABELS), verbose=0
    ),
    "evaluate": lambda model, images: model.evaluate(images, LABELS, verbose=0),
    "predict": lambda model, images: model.predict(images, verbose=0),
    "train_on_batch": lambda model, images: model.train_on_batch(images, LABELS),
    "test_on_batch": lambda model, images: model.test_on_batch(images, LABELS),
    "predict_on_batch": lambda model, images: model.predict_on_batch(images),
}
GOOD, LABELS = random_array(2, 16, 24, 3), np.array([0, 1])


@pytest.fixture(scope="module")
def used():
    """Return a model that has trained and predicted, so that all steps are compiled."""
    model = tiny_vit()
    model.compile("sgd", "sparse_categorical_crossentropy")
    model.fit(GOOD, LABELS, verbose=0)
    model.evaluate(GOOD, LABELS, verbose=0)
    model.predict(GOOD, verbose=0)
    return model


@pytest.mark.parametrize(("images", "message"), BAD_IMAGES)
@pytest.mark.parametrize("call", mostly_slow_elsewhere(CALLS, "fit"))
def test_bad_images(used, images, message, call):
    before = used.get_weights()
    with pytest.raises(ValueError, match=message):
        CALLS[call](used, images)
    for old, new in zip(before, used.get_weights(), strict=True):
        np.testing.assert_array_equal(new, old)


@pytest.mark.parametrize(("images", "message"), BAD_IMAGES)
def test_bad_images_in_a_dataset(used, images, message, tensorflow):
    labels = np.zeros(len(images), int)
    data = tensorflow.data.Dataset.from_tensor_slices((images, labels))
    with pytest.raises(ValueError, match=message):
        used.fit(data.batch(2) if images.ndim == 4 else data, verbose=0)
    assert used.predict(GOOD, verbose=0).shape == (2, 5)
