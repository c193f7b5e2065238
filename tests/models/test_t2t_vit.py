"""Features of T2TViT that ViT does not have."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import MLP, TokenPerformer, TokenTransformer
from tests.cases import (
    DENSE,
    array,
    perturb,
    random_images,
    tiny_t2t,
)

XLA = keras.backend.backend() != "torch"
# Compilation with XLA is slow under TensorFlow.
FAST = keras.backend.backend() == "jax"


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize(
    ("arguments", "dtype", "jit_compile"),
    [
        ({}, "float32", XLA),
        pytest.param(*({"remat": True}, "mixed_bfloat16", FAST), marks=pytest.mark.slow),
        pytest.param(
            *({"tokens": "transformer"}, "float32", FAST),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *({"tokens": "convolution", "pooling": "gap"}, "float32", FAST),
            marks=pytest.mark.any_backend,
        ),
        # In a narrower model, both units of the squeeze layer may be 0.
        pytest.param(
            *({"backbone": "se", "hidden_dim": 64}, "mixed_bfloat16", FAST),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *({"backbone": "ghost"}, "mixed_bfloat16", FAST),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            *({**DENSE, "num_layers": (1, 1)}, "float32", FAST),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["performer", "half", "transformer", "convolution", "se", "ghost", "dense"],
)
def test_a_step_reaches_every_trainable_variable(arguments, dtype, jit_compile):
    # Perturb the weights: with a zero head, no other weight has a gradient.
    arguments = {"num_layers": 1, "mlp_dim": 128, **arguments}
    model = perturb(tiny_t2t(**arguments, dtype=dtype))
    frozen = {w.path: array(w) for w in model.non_trainable_weights}
    before = {w.path: array(w) for w in model.trainable_weights}
    model.compile(
        keras.optimizers.SGD(1.0),
        "sparse_categorical_crossentropy",
        jit_compile=jit_compile,
    )
    labels = np.array([0, 1, 2, 3])
    assert np.isfinite(model.train_on_batch(random_images(model, 4), labels))
    for weight in model.trainable_weights:
        assert not np.array_equal(array(weight), before[weight.path]), weight.path
        assert np.all(np.isfinite(array(weight))), weight.path
    for weight in model.non_trainable_weights:
        if "seed" not in weight.path:
            np.testing.assert_array_equal(array(weight), frozen[weight.path])


@pytest.mark.slow_elsewhere
def test_weight_paths():
    model = tiny_t2t(backbone="ghost")
    paths = set(model.weights_by_path())
    assert {
        "stem/performer_0/attention_norm/gamma",
        "stem/performer_0/features",
        "stem/performer_0/qkv/kernel",
        "stem/performer_1/projection/bias",
        "stem/performer_1/mlp/contract/kernel",
        "patch_encoder/projection/kernel",
        "patch_encoder/class_token",
        "patch_encoder/positions/embedding",
        "block_1/attention/qkv/dense/kernel",
        "block_1/attention/qkv/scale",
        "block_1/mlp/expand/scale",
    } < paths
    dense = set(tiny_t2t(**DENSE).weights_by_path())
    assert {"block_0/growth/kernel", "transition_2/kernel"} < dense
    se = set(tiny_t2t(backbone="se").weights_by_path())
    assert "block_0/attention/squeeze_excitation/excite/kernel" in se


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "size",
    [
        (192, 256),
        pytest.param((224, 224), marks=pytest.mark.slow),
        pytest.param((384, 384), marks=pytest.mark.slow),
    ],
)
def test_published_sizes(size):
    """Check published image sizes; at 224 pixels the token layers see 3136 tokens."""
    model = tiny_t2t(input_shape=(*size, 3), tokens="transformer")
    grid = (size[0] // 16, size[1] // 16)
    assert model.grid_shape == grid
    assert model.get_layer("stem").output.shape == (None, *grid, 54)
    assert model.get_layer("patch_encoder").output.shape[1] == grid[0] * grid[1] + 1
    if size != (384, 384):
        assert np.all(np.isfinite(model.predict(random_images(model, 1), verbose=0)))


def test_resized_to_another_grid():
    model = perturb(tiny_t2t())
    larger = model.resized((48, 32, 3))
    assert larger.grid_shape == (3, 2)
    assert type(larger) is keras_vit.T2TViT
    for (path, old), new in zip(
        model.weights_by_path().items(), larger.weights, strict=True
    ):
        np.testing.assert_array_equal(array(new), array(old), err_msg=path)
    other = model.resized((48, 48, 3))
    fresh = tiny_t2t(input_shape=(48, 48, 3))
    np.testing.assert_array_equal(
        *(
            array(each.weights_by_path()["patch_encoder/positions/embedding"])
            for each in (other, fresh)
        )
    )
    with pytest.raises(ValueError, match=r"40x48 pixels.*Resize to 32x48"):
        model.resized((40, 48, 3))


def test_the_preprocessor_is_the_originals():
    preprocessor = tiny_t2t().preprocessor
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    assert preprocessor.crop_fraction == 0.9
    assert preprocessor.image_size == (32, 48)
    assert tiny_t2t(input_shape=(32, 32, 1)).preprocessor.image_size == (32, 32)


def test_arguments_reach_the_layers():
    model = tiny_t2t(
        activation="relu", layer_norm_epsilon=1e-2, token_dropout_rate=0.3, remat=True
    )
    for layer in model.get_layer("stem").token_layers:
        assert isinstance(layer, TokenPerformer)
        assert layer.get_config()["activation"] == "relu"
        assert layer.attention_norm.epsilon == 1e-2
        assert layer.dropout.rate == 0.3
        assert layer.remat
    (layer, _) = tiny_t2t(tokens="transformer").get_layer("stem").token_layers
    assert isinstance(layer, TokenTransformer)
    assert layer.dropout.rate == 0.0
    (layer, _) = tiny_t2t().get_layer("stem").token_layers
    assert layer.dropout.rate == 0.1


def test_widths_of_the_dense_backbone():
    model = tiny_t2t(
        backbone="dense", num_layers=(2, 1, 1), growth_rate=8, stochastic_depth_rate=0.3
    )
    # Blocks add 8 and transitions halve: 16 + 8 + 8, 16 + 8, 12 + 8.
    widths = [model.get_layer(f"block_{i}").input.shape[-1] for i in range(4)]
    assert widths == [16, 24, 16, 12]
    assert model.get_layer("classifier").input.shape[-1] == 20
    mlp_dims = [model.get_layer(f"block_{i}").mlp.hidden_dim for i in range(4)]
    assert mlp_dims == [32, 48, 32, 24]
    rates = [model.get_layer(f"block_{i}").stochastic_depth.rate for i in range(4)]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2, 0.3])


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (33, 48, 3)}, r"33x48 pixels.*multiples of 16.*to 32x48"),
        ({"input_shape": (16, 48)}, "three positive ints"),
        ({"tokens": "linear"}, "Unknown tokens 'linear'"),
        ({"token_dim": 0}, "token_dim must be an int, 2 or more; received 0"),
        ({"backbone": "resnext"}, "Unknown backbone 'resnext'.*'plain', 'se', 'ghost'"),
        ({"num_layers": (2, 1)}, "'plain' num_layers must be a positive int.*2, 1"),
        ({**DENSE, "num_layers": 3}, "'dense' num_layers must be positive ints.*3"),
        ({**DENSE, "num_layers": (2, 0)}, "num_layers must be positive ints"),
        ({**DENSE, "growth_rate": None}, "growth_rate must be a positive int.*None"),
        ({"growth_rate": 8}, "growth_rate must.*None with others; received 8"),
        ({**DENSE, "growth_rate": 5}, "num_heads=2 does not divide hidden_dim=21"),
        ({"backbone": "ghost", "mlp_dim": 24}, "two or more times.*received 24"),
        ({"backbone": "ghost", "num_heads": 1, "hidden_dim": 15}, "must be even"),
        ({"hidden_dim": 0}, "hidden_dim must be a positive int.*0"),
        (
            {"backbone": "ghost", "mlp": MLP()},
            r"must be a keras_vit\.layers\.backbones\.GhostMLP",
        ),
        ({"activation": "gelo"}, "Unknown activation 'gelo'"),
        ({"weights": None, "head": "new"}, "received weights=None"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_t2t(**arguments)


@pytest.mark.any_backend
@pytest.mark.parametrize("argument", ["patch_size", "stem", "token_reduction"])
def test_arguments_of_a_vit_that_it_has_not(argument):
    with pytest.raises(TypeError, match=f"no argument '{argument}'"):
        tiny_t2t(**{argument: None})
