import keras
import numpy as np
import pytest

from keras_vit.export.attention import attention_rollout
from tests.cases import DENSE, array, perturb, random_images, tiny_t2t, tiny_vit


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("make", "arguments", "queries"),
    [
        (tiny_vit, {}, {0: 1}),
        (tiny_vit, {"distillation_token": True, "registers": 1}, {0: 1 / 2, 1: 1 / 2}),
        (tiny_vit, {"pooling": "gap", "registers": 2, "positions": "relative"}, None),
        (tiny_vit, {"pooling": "map", "dtype": "mixed_bfloat16"}, None),
        (tiny_t2t, {**DENSE}, {0: 1}),
        (tiny_vit, {"num_layers": 1}, {0: 1}),
    ],
    ids=["token", "distilled", "gap", "map", "t2t_dense", "one_block"],
)
def test_rollout_is_the_product_of_the_blocks(make, arguments, queries):
    model = perturb(make(**arguments))
    images = random_images(model, batch=3)
    product = identity = np.eye(model.num_prefix_tokens + 6)
    for layer in model.layers:
        if layer.name.startswith("block_"):
            tokens = keras.Model(model.input, layer.input)(images)
            weights = array(layer.attention_weights(tokens)).mean(axis=1)
            product = (identity + weights) / 2 @ product
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
