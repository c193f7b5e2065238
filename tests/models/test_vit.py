import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import ResNetStem
from keras_vit.models.variants import HYBRID_SIZES, VIT_SIZES
from tests.cases import (
    TINY,
    array,
    mostly_slow,
    perturb,
    random_images,
    tiny_vit,
    weights_of,
)
from tests.formulas import below, block, dense, layer_norm, softmax


def vit_formula(images, w, num_heads=2, patch=8, prefix=1):
    """Compute probabilities from images by equations 1 to 4 of the paper."""
    b, height, width, _ = images.shape
    patches = [
        images[:, y : y + patch, x : x + patch].reshape(b, -1)
        for y in range(0, height, patch)
        for x in range(0, width, patch)
    ]
    encoder = below(w, "patch_encoder/")
    x = dense(np.stack(patches, axis=1), encoder, "projection")
    if prefix:
        class_token = np.broadcast_to(encoder["class_token"], (b, 1, x.shape[-1]))
        x = np.concatenate([class_token, x], axis=1)
    x = x + encoder["positions/embedding"]
    for i in range(2):
        x = block(x, below(w, f"block_{i}/"), num_heads)
    return layer_norm(x, w["norm/gamma"], w["norm/beta"])


def all_weights(model):
    return {w.path: array(w).astype("float64") for w in model.weights}


@pytest.mark.parametrize("pooling", ["token", "gap"])
@pytest.mark.parametrize("representation_size", [None, 12])
def test_formula(pooling, representation_size):
    model = tiny_vit(pooling=pooling, representation_size=representation_size)
    w = all_weights(perturb(model))
    images = random_images(model)
    tokens = vit_formula(images, w, prefix=int(pooling == "token"))
    x = tokens[:, 0] if pooling == "token" else tokens.mean(axis=1)
    if representation_size:
        x = np.tanh(dense(x, w, "pre_logits"))
    expected = softmax(dense(x, w, "classifier"))
    np.testing.assert_allclose(array(model(images)), expected, atol=1e-5)


@pytest.mark.slow_elsewhere
def test_final_norm_after_pooling():
    model = perturb(tiny_vit(pooling="gap", class_token=True, final_norm="after_pooling"))
    w = all_weights(model)
    images = random_images(model)
    last = keras.Model(model.input, model.get_layer("block_1").output)
    pooled = array(last(images)).astype("float64")[:, 1:].mean(axis=1)
    x = layer_norm(pooled, w["norm/gamma"], w["norm/beta"])
    expected = softmax(dense(x, w, "classifier"))
    np.testing.assert_allclose(array(model(images)), expected, atol=1e-5)


def test_features():
    images = random_images(tiny_vit())
    tokens = perturb(tiny_vit(include_top=False, pooling=None, class_token=True))
    pooled = tiny_vit(include_top=False)
    pooled.set_weights(tokens.get_weights())
    expected = vit_formula(images, all_weights(tokens))
    assert tuple(tokens(images).shape) == (2, 7, 16)
    np.testing.assert_allclose(array(tokens(images)), expected, atol=1e-5)
    np.testing.assert_allclose(array(pooled(images)), expected[:, 0], atol=1e-5)


def test_prefix_tokens_and_grid():
    model = tiny_vit(registers=4)
    assert model.grid_shape == (2, 3)
    assert model.num_prefix_tokens == 5
    assert tuple(model.get_layer("block_1").output.shape) == (None, 11, 16)


def test_a_fresh_model_predicts_its_bias():
    model = tiny_vit(classifier_activation=None, classifier_bias=-10.0)
    np.testing.assert_array_equal(
        array(model(random_images(model))), np.full((2, 5), -10)
    )


def test_stochastic_depth_grows_linearly():
    model = tiny_vit(num_layers=3, stochastic_depth_rate=0.2)
    rates = [model.get_layer(f"block_{i}").stochastic_depth.rate for i in range(3)]
    np.testing.assert_allclose(rates, [0.0, 0.1, 0.2])


def test_logits_are_float32_and_the_blocks_low_under_mixed_precision():
    model = tiny_vit(dtype="mixed_bfloat16")
    dtypes = {
        "block": model.get_layer("block_1").output.dtype,
        "output": model.output.dtype,
    }
    assert dtypes == {"block": "bfloat16", "output": "float32"}


def test_a_functional_model_like_any_other(capsys):
    model = tiny_vit()
    model.summary()
    assert "block_1" in capsys.readouterr().out
    head = keras.layers.Dense(3)(model.get_layer("block_0").output)
    assert keras.Model(model.input, head).output_shape == (None, 7, 3)
    nested = keras.Sequential([keras.Input((16, 24, 3)), model])
    assert nested.output_shape == (None, 5)


@pytest.mark.any_backend
@pytest.mark.parametrize("batch", [0, 1, 3])
def test_any_batch(batch):
    model = tiny_vit()
    assert tuple(model(random_images(model, batch)).shape) == (batch, 5)


@pytest.mark.any_backend
def test_weight_paths():
    """Check the weight paths, on which sharding, weight decay and checkpoints rely."""
    model = tiny_vit(
        num_layers=1,
        registers=2,
        layer_scale=0.1,
        representation_size=12,
        pooling="map",
        class_token=True,
    )
    dense_paths = [
        "patch_encoder/projection",
        "block_0/attention/qkv",
        "block_0/attention/projection",
        "block_0/mlp/expand",
        "block_0/mlp/contract",
        "pooling/query",
        "pooling/key_value",
        "pooling/projection",
        "pooling/mlp/expand",
        "pooling/mlp/contract",
        "pre_logits",
        "classifier",
    ]
    norm_paths = ["block_0/attention_norm", "block_0/mlp_norm", "norm", "pooling/norm"]
    expected = {f"{p}/{w}" for p in dense_paths for w in ("kernel", "bias")}
    expected |= {f"{p}/{w}" for p in norm_paths for w in ("gamma", "beta")}
    expected |= {
        "patch_encoder/class_token",
        "patch_encoder/registers",
        "patch_encoder/positions/embedding",
        "block_0/attention_scale/gamma",
        "block_0/mlp_scale/gamma",
        "pooling/probe",
    }
    assert {w.path for w in model.weights} == expected
    relative = tiny_vit(num_layers=1, positions="relative")
    assert {w.path for w in relative.weights} >= {
        "block_0/attention/relative_positions/rows",
        "block_0/attention/relative_positions/columns",
    }
    table = weights_of(tiny_vit(positions="learned_2d").get_layer("patch_encoder"))
    assert {"positions/rows", "positions/columns"} <= set(table)


@pytest.mark.any_backend
def test_weight_paths_of_a_hybrid():
    model = tiny_vit(stem=ResNetStem((1, 2), width=32), patch_size=1)
    units = {
        "stage_0/unit_0": ("projection", "projection_norm"),
        "stage_1/unit_0": ("projection", "projection_norm"),
        "stage_1/unit_1": (),
    }
    convs, norms = ["root"], ["root_norm"]
    for unit, projection in units.items():
        convs += [f"{unit}/conv_{i}" for i in (1, 2, 3)]
        norms += [f"{unit}/norm_{i}" for i in (1, 2, 3)]
        convs += [f"{unit}/{name}" for name in projection[:1]]
        norms += [f"{unit}/{name}" for name in projection[1:]]
    expected = {f"stem/{path}/kernel" for path in convs}
    expected |= {f"stem/{path}/{w}" for path in norms for w in ("gamma", "beta")}
    plain = {w.path for w in tiny_vit().weights}
    assert {w.path for w in model.weights} == expected | plain


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("name", mostly_slow(VIT_SIZES, "ViTS14", "ViTB16", "ViTg14"))
def test_a_variant_passes_its_overrides_on(name):
    model = getattr(keras_vit, name)(**TINY, registers=1, name="mine")
    assert model.get_config() == tiny_vit(registers=1, name="mine").get_config()


@pytest.mark.slow_elsewhere
def test_a_variant_fills_the_sizes_in():
    config = keras_vit.ViTTi16(input_shape=(32, 32, 3)).get_config()
    sizes = ("patch_size", "hidden_dim", "num_layers", "num_heads", "mlp_dim")
    assert tuple(config[size] for size in sizes) == VIT_SIZES["ViTTi16"]


@pytest.mark.any_backend
@pytest.mark.parametrize("name", HYBRID_SIZES)
def test_a_hybrid_passes_its_overrides_on(name):
    small = {**TINY, "stem": ResNetStem((1,), width=32), "patch_size": 2}
    model = getattr(keras_vit, name)(**small, name="mine")
    assert model.get_config() == keras_vit.ViT(**small, name="mine").get_config()


@pytest.mark.any_backend
def test_a_hybrid_fills_the_sizes_in():
    config = keras_vit.ViTRTi16(input_shape=(64, 32, 3)).get_config()
    stem = keras.saving.deserialize_keras_object(config["stem"])
    sizes = ("patch_size", "hidden_dim", "num_layers", "num_heads", "mlp_dim")
    found = (stem.num_blocks, *(config[size] for size in sizes))
    assert found == HYBRID_SIZES["ViTRTi16"]


@pytest.mark.slow_elsewhere
def test_a_hybrid_is_a_vit_on_the_map_of_its_stem():
    model = perturb(tiny_vit(stem=ResNetStem((), width=32), patch_size=2))
    assert model.grid_shape == (2, 3)
    images = random_images(model)
    features = array(model.get_layer("stem")(images))
    w = {p: v for p, v in all_weights(model).items() if not p.startswith("stem/")}
    tokens = vit_formula(features, w, patch=2)
    expected = softmax(dense(tokens[:, 0], w, "classifier"))
    np.testing.assert_allclose(array(model(images)), expected, atol=1e-5)


def test_the_stem_is_the_models_own():
    stem = ResNetStem((), width=32, name="given")
    low, full = (
        tiny_vit(stem=stem, patch_size=2, dtype=dtype)
        for dtype in ("mixed_bfloat16", "float32")
    )
    assert not stem.built
    assert stem.name == "given"
    dtypes = [model.get_layer("stem").output.dtype for model in (low, full)]
    assert dtypes == ["bfloat16", "float32"]
    # A copy with another dtype uses that dtype in its stem too.
    again = keras_vit.ViT.from_config({**low.get_config(), "dtype": "float32"})
    assert again.get_layer("stem").output.dtype == "float32"


@pytest.mark.slow_elsewhere
def test_any_keras_layer_may_be_the_stem():
    def conv(filters):
        return keras.layers.Conv2D(filters, 3, 2, padding="same", activation="relu")

    model = tiny_vit(stem=keras.Sequential([conv(4), conv(6)]), patch_size=2)
    assert model.grid_shape == (2, 3)
    perturb(model)
    again = keras_vit.ViT.from_config(model.get_config())
    again.set_weights(model.get_weights())
    images = random_images(model)
    np.testing.assert_array_equal(array(again(images)), array(model(images)))
    larger = model.resized((24, 32, 3))
    assert larger.grid_shape == (3, 4)
