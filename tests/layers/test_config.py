"""Round-trip of every layer through its config."""

import inspect

import keras
import numpy as np
import pytest

from keras_vit import layers
from keras_vit.layers.base import stored
from tests.cases import array, perturb, random_array

BLOCK = {
    "num_heads": 2,
    "mlp_dim": 12,
    "activation": "gelu",
    "layer_norm_epsilon": 1e-3,
    "qkv_bias": False,
    "layer_scale": 0.3,
    "dropout_rate": 0.1,
    "attention_dropout_rate": 0.2,
    "stochastic_depth_rate": 0.3,
    "positions": stored(layers.RelativePositions((2, 3))),
    "remat": True,
    "norm": "rms",
    "mlp": "plain",
    "attention": None,
    "order": "post_norm",
}
MODERN = {
    **BLOCK,
    "positions": stored(layers.RotaryPositions((2, 3))),
    "norm": stored(layers.LayerNorm(affine=False)),
    "mlp": stored(layers.GatedMLP(inner_norm=True)),
    "attention": stored(layers.SelfAttention(qk_norm=True)),
    "order": "parallel",
}
TOKENS = {
    "token_dim": 4,
    "activation": "relu",
    "layer_norm_epsilon": 1e-3,
    "dropout_rate": 0.3,
    "remat": True,
}
MLP = {
    "hidden_dim": 12,
    "activation": "gelu",
    "dropout_rate": 0.1,
    "inner_norm": True,
    "use_bias": False,
    "norm": "rms",
    "layer_norm_epsilon": 1e-3,
}
# Layer: arguments that differ from the defaults, and the shape of an input.
CASES = {
    "StandardizedConv2D": (
        {
            "filters": 5,
            "kernel_size": 3,
            "strides": 2,
            "epsilons": "timm",
            "padding": "symmetric",
        },
        (2, 7, 10, 3),
    ),
    "GroupNorm": (
        {"groups": 3, "epsilon": 1e-3, "initial_gamma": 0.0},
        (2, 5, 4, 6),
    ),
    "PreActivationUnit": (
        {"filters": 16, "strides": 2, "groups": 4, "epsilons": "timm"},
        (2, 5, 4, 8),
    ),
    "BottleneckUnit": ({"width": 32, "strides": 2, "epsilons": "timm"}, (2, 5, 4, 3)),
    "ResNetStem": (
        {"num_blocks": (1, 2), "width": 32, "epsilons": "timm"},
        (2, 19, 10, 3),
    ),
    "ConvTokenizer": ({"filters": (4, 6), "kernel_size": 5}, (2, 8, 12, 3)),
    "Patches": ({"patch_size": 4}, (2, 8, 12, 3)),
    "PatchesToImage": ({"patch_size": 4, "grid_shape": (2, 3)}, (2, 6, 48)),
    "PatchEncoder": (
        {
            "hidden_dim": 8,
            "grid_shape": (2, 3),
            "class_token": True,
            "registers": 2,
            "positions": "learned",
            "class_token_position": False,
            "distillation_token": True,
            "norm": "tokens",
            "norm_kind": "rms",
            "layer_norm_epsilon": 1e-3,
        },
        (2, 6, 12),
    ),
    "LearnedPositions": ({"grid_shape": (2, 3), "num_prefix_tokens": 1}, (2, 7, 8)),
    "LearnedPositions2D": ({"grid_shape": (2, 3), "num_prefix_tokens": 1}, (2, 7, 8)),
    "SinCosPositions2D": ({"grid_shape": (2, 3), "num_prefix_tokens": 1}, (2, 7, 8)),
    "SinCosPositions1D": ({"grid_shape": (2, 3), "num_prefix_tokens": 1}, (2, 7, 8)),
    "RelativePositions": ({"grid_shape": (2, 3), "num_prefix_tokens": 1}, (2, 4, 7, 8)),
    "Dense": ({"units": 4}, (2, 7, 8)),
    "RelativePositionBias": (
        {"grid_shape": (2, 3), "num_prefix_tokens": 1},
        (2, 4, 7, 8),
    ),
    "RelativePositionMLP": (
        {"grid_shape": (2, 3), "num_prefix_tokens": 1, "hidden_dim": 12},
        (2, 4, 7, 8),
    ),
    "RotaryPositions": (
        {
            "grid_shape": (2, 3),
            "num_prefix_tokens": 1,
            "temperature": 50.0,
            "coordinates": "index",
            "offset": 1.0,
            "reference_grid_shape": (3, 3),
            "axes": "xy",
            "layout": "interleaved",
        },
        (2, 7, 4, 8),
    ),
    "MixedRotaryPositions": (
        {
            "grid_shape": (2, 3),
            "num_prefix_tokens": 1,
            "temperature": 50.0,
            "layout": "half",
        },
        (2, 7, 4, 8),
    ),
    "LayerNorm": ({"epsilon": 1e-3, "affine": False}, (2, 7, 8)),
    "RMSNorm": ({"epsilon": 1e-3, "affine": True}, (2, 7, 8)),
    "SelfAttention": (
        {
            "num_heads": 2,
            "use_qkv_bias": False,
            "dropout_rate": 0.1,
            "positions": stored(layers.RelativePositions((2, 3))),
            "qk_norm": True,
            "inner_norm": True,
            "use_projection_bias": False,
            "norm": "rms",
            "layer_norm_epsilon": 1e-3,
            "causal": True,
        },
        (2, 7, 8),
    ),
    "MLP": (MLP, (2, 7, 8)),
    "GatedMLP": (MLP, (2, 7, 8)),
    "LayerScale": ({"initial_value": 0.3}, (2, 7, 8)),
    "StochasticDepth": ({"rate": 0.3}, (2, 7, 8)),
    "TransformerBlock": (MODERN, (2, 7, 8)),
    "SqueezeExcitation": ({"reduction": 4}, (2, 7, 8)),
    "SqueezeExcitationBlock": (BLOCK, (2, 7, 16)),
    "GhostDense": (
        {
            "units": 12,
            "copies": 2,
            "groups": 2,
            "activation": "gelu",
            "use_bias": False,
        },
        (2, 7, 8),
    ),
    "GhostBlock": ({**BLOCK, "mlp_dim": 24}, (2, 7, 8)),
    "DenseBlock": ({"growth_rate": 4, **BLOCK}, (2, 7, 8)),
    "SimpleFeaturePyramid": (
        {
            "filters": 6,
            "patch_size": 8,
            "strides": (2, 4, 8, 32),
            "layer_norm_epsilon": 1e-3,
        },
        (2, 3, 4, 8),
    ),
    "MaskTransformer": (
        {
            "classes": 3,
            "num_layers": 1,
            "hidden_dim": 12,
            "num_heads": 2,
            "mlp_dim": 10,
            "dropout_rate": 0.3,
            "layer_norm_epsilon": 1e-3,
        },
        (2, 3, 4, 8),
    ),
    "SoftSplit": ({"kernel_size": 3, "stride": 2, "padding": 1}, (2, 7, 10, 3)),
    "TokenTransformer": (TOKENS, (2, 7, 8)),
    "TokenPerformer": ({**TOKENS, "num_features": 5}, (2, 7, 8)),
    "TokensToToken": ({**TOKENS, "tokens": "transformer"}, (2, 16, 32, 3)),
    "TokenHalting": (
        {"scale": 2.0, "center": 1.0, "epsilon": 0.1, "kept": [7, 4]},
        (2, 7, 8),
    ),
    "TokenMerging": (
        {"r": 3, "inflection": -1.0, "proportional": False},
        (2, 7, 8),
    ),
    "TokenPooling": ({"index": 1}, (2, 7, 8)),
    "GlobalAveragePooling": ({"num_prefix_tokens": 1}, (2, 7, 8)),
    "SequencePooling": ({"num_prefix_tokens": 1}, (2, 7, 8)),
    "TokenAndAveragePooling": ({"num_prefix_tokens": 2}, (2, 7, 8)),
    "AttentionPooling": (
        {
            "num_heads": 2,
            "mlp_dim": 12,
            "num_prefix_tokens": 1,
            "activation": "gelu",
            "layer_norm_epsilon": 1e-3,
            "norm": "rms",
            "use_query_projection": False,
            "use_qkv_bias": False,
        },
        (2, 7, 8),
    ),
    "PixelPalette": ({"colors": 5}, (2, 3, 4, 3)),
    "PreLogits": ({"units": 6, "activation": "relu"}, (2, 8)),
    "Classifier": ({"units": 6, "activation": "softmax"}, (2, 8)),
    "SimilarityClassifier": (
        {
            "units": 6,
            "projection_dim": 5,
            "activation": "sigmoid",
            "initial_bias": -1.0,
        },
        (2, 8),
    ),
    "Preprocessor": (
        {
            "mean": 10.0,
            "std": [1.0, 2.0, 3.0],
            "image_size": (4, 6),
            "resize": "bicubic_antialias",
            "crop_fraction": None,
            "crop_to_aspect_ratio": True,
            "crop_rounding": "nearest",  # "floor" needs a crop_fraction.
        },
        (2, 8, 8, 3),
    ),
}

PUBLIC_LAYERS = [
    name for name in layers.__all__ if inspect.isclass(getattr(layers, name))
]


def test_every_layer_has_a_case():
    # The detection head takes a list of maps: tests/models/test_detection.py saves it.
    # The embedding of pixels takes ints: tests/models/test_image_gpt.py saves it.
    elsewhere = ["DetectionHead", "PixelEmbedding"]
    assert sorted([*CASES, *elsewhere]) == sorted(PUBLIC_LAYERS)


@pytest.mark.any_backend
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    "dtype", [pytest.param("float32", marks=pytest.mark.slow), "mixed_bfloat16"]
)
def test_round_trip(name, dtype):
    arguments, shape = CASES[name]
    # Models pass a policy object to their layers.
    policy = keras.DTypePolicy(dtype)
    layer = getattr(layers, name)(**arguments, name="given", dtype=policy)
    x = random_array(*shape)
    layer.build(shape)
    perturb(layer)
    revived = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert type(revived) is type(layer)
    config = layer.get_config()
    assert revived.get_config() == config
    assert {key: config[key] for key in arguments} == arguments
    assert config["name"] == "given"
    assert revived.dtype_policy.name == dtype
    if not revived.built:
        revived.build(shape)
    assert [w.path for w in revived.weights] == [w.path for w in layer.weights]
    revived.set_weights(layer.get_weights())
    shapes = layer.compute_output_shape(shape)
    shapes = shapes if isinstance(shapes, list) else [shapes]
    pairs = zip(keras.tree.flatten(layer(x)), keras.tree.flatten(revived(x)), strict=True)
    for pair, expected in zip(pairs, shapes, strict=True):
        outputs = [array(keras.ops.cast(output, "float32")) for output in pair]
        np.testing.assert_array_equal(*outputs)
        assert tuple(outputs[0].shape) == tuple(expected)


@pytest.mark.any_backend
def test_outputs_have_the_dtype_of_the_spec():
    for name, (arguments, shape) in CASES.items():
        layer = getattr(layers, name)(**arguments, dtype="mixed_bfloat16")
        specs = layer.compute_output_spec(keras.KerasTensor(shape, "float32"))
        outputs = layer(random_array(*shape))
        for output, spec in zip(*map(keras.tree.flatten, (outputs, specs)), strict=True):
            assert keras.backend.standardize_dtype(output.dtype) == spec.dtype, name


@pytest.mark.any_backend
@pytest.mark.parametrize("name", CASES)
def test_every_argument_is_in_the_config(name):
    arguments, _ = CASES[name]
    layer = getattr(layers, name)
    if layer.__init__ is keras.layers.Layer.__init__:
        assert not arguments
    elif not issubclass(layer, keras.layers.Dense):  # Keras's own config.
        parameters = inspect.signature(layer.__init__).parameters
        if layer in (layers.DenseBlock, layers.GatedMLP):
            inherited = inspect.signature(layer.__base__.__init__).parameters
            parameters = {**inherited, **parameters}
        assert set(parameters) - {"self", "kwargs", "dtype"} == set(arguments)
