import keras
import numpy as np
import pytest

from keras_vit.export.attention import attention_rollout
from keras_vit.layers import AttentionPooling, GlobalAveragePooling
from keras_vit.visualize import pooling_weights
from tests.cases import DENSE, array, perturb, random_images, tiny_t2t, tiny_vit


def product_of_blocks(model, images):
    """Return the contribution of each token to each token: `(b, n, n)`."""
    product = identity = np.eye(model.num_prefix_tokens + 6)
    for layer in model.layers:
        if layer.name.startswith("block_"):
            tokens = keras.Model(model.input, layer.input)(images)
            weights = array(layer.attention_weights(tokens)).mean(axis=1)
            product = (identity + weights) / 2 @ product
    return product


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("make", "arguments", "queries"),
    [
        (tiny_vit, {}, {0: 1}),
        (tiny_vit, {"distillation_token": True, "registers": 1}, {0: 1 / 2, 1: 1 / 2}),
        (tiny_vit, {"pooling": "gap", "registers": 2, "positions": "relative"}, None),
        (tiny_vit, {"pooling": "gap", "dtype": "mixed_bfloat16"}, None),
        (
            tiny_vit,
            {"pooling": GlobalAveragePooling(1), "class_token": True, "registers": 1},
            dict.fromkeys(range(1, 8), 1 / 7),
        ),
        (tiny_t2t, {**DENSE}, {0: 1}),
        (tiny_vit, {"num_layers": 1}, {0: 1}),
    ],
    ids=["token", "distilled", "gap", "bfloat16", "prefix", "t2t_dense", "one_block"],
)
def test_rollout_is_the_product_of_the_blocks(make, arguments, queries):
    model = perturb(make(**arguments))
    images = random_images(model, batch=3)
    product = product_of_blocks(model, images)
    np.testing.assert_allclose(product.sum(axis=2), 1, atol=1e-5)
    grid = range(model.num_prefix_tokens, len(product[0]))
    queries = queries or dict.fromkeys(grid, 1 / 6)
    expected = sum(share * product[:, i] for i, share in queries.items())
    served = array(attention_rollout(model)(images))
    assert served.dtype == np.float32
    assert served.shape == (3, 2, 3)
    atol = 1e-3 if "dtype" in arguments else 1e-6
    np.testing.assert_allclose(
        served.reshape(3, 6), expected[:, grid[0] :], rtol=0, atol=atol
    )


@pytest.mark.any_backend
@pytest.mark.parametrize("hidden", [0, 2])
def test_rollout_begins_with_the_attention_of_the_probe(hidden):
    pooling = AttentionPooling(num_heads=2, mlp_dim=8, num_prefix_tokens=hidden)
    model = perturb(tiny_vit(pooling=pooling, class_token=True, registers=1))
    images = random_images(model, batch=3)
    layer = model.get_layer("pooling")
    tokens = keras.Model(model.input, layer.input)(images)
    shares = array(layer.attention_weights(tokens)).mean(axis=1)
    expected = shares @ product_of_blocks(model, images)[:, hidden:]
    served = array(attention_rollout(model)(images))
    np.testing.assert_allclose(
        served.reshape(3, 6), expected[:, 0, 2:], rtol=0, atol=1e-6
    )
    maps = pooling_weights(model, images).mean(axis=1).reshape(3, 6)
    np.testing.assert_allclose(maps, shares[:, 0, -6:], rtol=0, atol=1e-6)
