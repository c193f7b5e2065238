import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import RelativePositionBias, RotaryPositions, SelfAttention
from keras_vit.visualize import (
    attention_rollout,
    attention_weights,
    head_maps,
    mean_attention_distance,
    pooling_weights,
)
from tests.cases import (
    DENSE,
    array,
    mostly_slow,
    perturb,
    random_images,
    tiny_t2t,
    tiny_vit,
)
from tests.formulas import softmax

MODELS = {
    "token": (tiny_vit, {"registers": 2}),
    "rotary": (tiny_vit, {"positions": RotaryPositions(), "pooling": "gap"}),
    "bias": (tiny_vit, {"positions": RelativePositionBias(), "block": "post_norm"}),
    "qk_norm": (tiny_vit, {"attention": SelfAttention(qk_norm=True), "pooling": "map"}),
    "t2t_dense": (tiny_t2t, {**DENSE}),
}


# With a smaller last batch, JAX would compile everything twice.
BATCH, BATCH_SIZE = (2, 2) if keras.backend.backend() == "jax" else (3, 2)


def weights_by_hand(block, tokens):
    """Return the weights from the queries and keys that the layer's parts compute."""
    if block.order != "post_norm":
        tokens = block.attention_norm(tokens)
    layer = block.attention
    heads = array(layer._transformed(layer.qkv(tokens))).astype("float64")
    heads = heads.reshape(*heads.shape[:2], 3, layer.num_heads, -1)
    query, key = heads[:, :, 0], heads[:, :, 1]
    logits = np.einsum("bikd,bjkd->bkij", query, key) / np.sqrt(query.shape[-1])
    positions = layer.attention_positions()
    if isinstance(positions, RelativePositionBias):
        table = array(positions.table)
        logits += np.moveaxis(table[positions._index], -1, 0)
    return softmax(logits)


@pytest.mark.parametrize(
    "case",
    [
        *mostly_slow(list(MODELS)[:-1], "bias"),
        pytest.param("t2t_dense", marks=pytest.mark.any_backend),
    ],
)
def test_the_weights_of_every_block_are_those_of_the_formula(case):
    make, arguments = MODELS[case]
    model = perturb(make(**arguments))
    images = random_images(model, batch=BATCH)
    before = array(model(images))
    weights = attention_weights(model, images, batch_size=BATCH_SIZE)
    blocks = [layer for layer in model.layers if layer.name.startswith("block_")]
    n = model.num_prefix_tokens + 6
    assert weights.shape == (BATCH, len(blocks), 2, n, n)
    assert weights.dtype == np.float32
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-5)
    for index, block in enumerate(blocks):
        tokens = keras.Model(model.input, block.input)(images)
        expected = weights_by_hand(block, tokens)
        np.testing.assert_allclose(weights[:, index], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(array(model(images)), before)


@pytest.mark.any_backend
def test_blocks_are_chosen_by_their_numbers():
    model = perturb(tiny_vit(num_layers=3))
    images = random_images(model)
    every = attention_weights(model, images)
    np.testing.assert_allclose(
        attention_weights(model, images, [2, -3]), every[:, [2, 0]], rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        attention_weights(model, images, 2), every[:, 1:], rtol=0, atol=1e-6
    )
    for blocks, message in (
        ([0, 3], "has no block 3. The model has 3 blocks"),
        (np.array([-4]), "has no block -4"),
        ([], "the list is empty"),
        ([1.5], "int or a list of ints"),
        ("1", "int or a list of ints"),
    ):
        with pytest.raises(ValueError, match=message):
            attention_weights(model, images, blocks)
    with pytest.raises(ValueError, match="batch_size must be 1 or more; received 0"):
        attention_weights(model, images, batch_size=0)
    with pytest.raises(ValueError, match=r"16x24 pixels; received shape \(2, 8, 8, 3\)"):
        attention_weights(model, images[:, :8, :8])
    with pytest.raises(ValueError, match="one image or more"):
        attention_weights(model, images[:0])


@pytest.mark.any_backend
def test_maps_of_heads_show_the_class_token_or_the_mean_patch():
    token, mean = tiny_vit(registers=1), tiny_vit(pooling="gap", registers=1)
    weights = np.random.default_rng(0).random((2, 2, 2, 8, 8))
    maps = head_maps(weights, token)
    assert maps.shape == (2, 2, 2, 2, 3)
    np.testing.assert_array_equal(maps[1, 0, 1].ravel(), weights[1, 0, 1, 0, 2:])
    with pytest.raises(ValueError, match="2x3 and 1 prefix tokens has 7 tokens"):
        head_maps(weights, mean)
    weights = weights[..., 1:, 1:]
    np.testing.assert_allclose(
        head_maps(weights, mean)[1, 0, 1].ravel(), weights[1, 0, 1, 1:, 1:].mean(axis=0)
    )


@pytest.mark.slow_elsewhere
def test_weights_of_attention_pooling():
    model = perturb(tiny_vit(pooling="map", registers=1))
    images = random_images(model, batch=3)
    weights = pooling_weights(model, images, batch_size=2)
    assert weights.shape == (3, 2, 2, 3)
    pooling = model.get_layer("pooling")
    tokens = keras.Model(model.input, pooling.input)(images)[:, 1:]
    query = array(pooling.query(pooling.probe)).reshape(2, 8)
    key = array(pooling.key_value(tokens))[..., :16].reshape(3, 6, 2, 8)
    expected = softmax(np.einsum("kd,bjkd->bkj", query, key) / np.sqrt(8))
    np.testing.assert_allclose(weights.reshape(3, 2, 6), expected, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="this one has pooling='token'"):
        pooling_weights(tiny_vit(), images)


@pytest.mark.any_backend
def test_rollout_in_batches_is_that_of_all_images():
    model = perturb(tiny_vit(pooling="gap"))
    images = random_images(model, batch=3)
    whole = attention_rollout(model, images)
    assert whole.shape == (3, 2, 3)
    np.testing.assert_allclose(whole.sum(axis=(1, 2)), 1, atol=1e-5)
    np.testing.assert_allclose(attention_rollout(model, images, 2), whole, atol=1e-6)


@pytest.mark.any_backend
def test_attention_distance():
    identity = np.broadcast_to(np.eye(6), (1, 1, 1, 6, 6))
    assert mean_attention_distance(identity, (2, 3)).tolist() == [[0.0]]
    uniform = np.full((1, 1, 1, 4, 4), 1 / 4)
    expected = (0 + 1 + 1 + np.sqrt(2)) / 4 * 16
    np.testing.assert_allclose(mean_attention_distance(uniform, (2, 2), 16), expected)
    # Attention to prefix tokens has no distance, and does not shorten the mean.
    prefixed = np.full((1, 1, 1, 5, 5), 1 / 8)
    prefixed[..., 0] = 1 / 2
    np.testing.assert_allclose(
        mean_attention_distance(prefixed, (2, 2), 16, num_prefix_tokens=1), expected
    )
    with pytest.raises(ValueError, match="2x2 and 0 prefix tokens has 4 tokens"):
        mean_attention_distance(prefixed, (2, 2))


@pytest.mark.any_backend
def test_maps_need_a_vit():
    backbone = tiny_vit()
    images = random_images(backbone)
    head = keras_vit.layers.Classifier(3)
    segmentation = keras_vit.SegmentationModel(backbone, head, name="digits")
    for function in (
        attention_rollout,
        keras_vit.visualize.gradient_attention,
        keras_vit.visualize.patch_colors,
    ):
        with pytest.raises(
            ValueError, match=r"SegmentationModel 'digits'\. Pass its `backbone`"
        ):
            function(segmentation, images)
    dense = keras.Sequential([keras.Input((16, 24, 3)), keras.layers.Flatten()])
    with pytest.raises(ValueError, match="has no Transformer blocks"):
        attention_weights(dense, images)


def test_a_headless_model_has_maps():
    model = perturb(tiny_vit(include_top=False, pooling=None))
    images = random_images(model)
    assert attention_weights(model, images).shape == (2, 2, 2, 6, 6)
    assert attention_rollout(model, images).shape == (2, 2, 3)
    assert keras_vit.visualize.patch_colors(model, images).shape == (2, 2, 3, 3)
