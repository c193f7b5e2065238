import numpy as np
import pytest

from keras_vit.layers import MaskTransformer
from tests import formulas
from tests.cases import array, perturb, random_array, weights_of

EPSILON = 1e-5


def norm(x, weights, name):
    return formulas.layer_norm(
        x, weights[f"{name}/gamma"], weights[f"{name}/beta"], EPSILON
    )


def block(x, w, num_heads):
    y = norm(x, w, "attention_norm")
    x = x + formulas.attention(y, formulas.below(w, "attention/"), num_heads)
    y = norm(x, w, "mlp_norm")
    return x + formulas.mlp(y, formulas.below(w, "mlp/"), formulas.gelu_exact)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.slow_elsewhere
def test_the_decoder_is_that_of_segmenter():
    layer = MaskTransformer(classes=4, hidden_dim=12, num_heads=3)
    grid = random_array(2, 3, 5, 8)
    layer.build(grid.shape)
    perturb(layer)
    w = weights_of(layer)
    x = formulas.dense(grid.reshape(2, 15, 8).astype("float64"), w, "projection")
    x = np.concatenate([x, np.repeat(w["class_tokens"], 2, axis=0)], axis=1)
    for index in range(2):
        x = block(x, formulas.below(w, f"block_{index}/"), 3)
    x = norm(x, w, "norm")
    patches = unit(x[:, :15] @ w["patch_projection/kernel"])
    classes = unit(x[:, 15:] @ w["class_projection/kernel"])
    scores = np.einsum("bnd,bcd->bnc", patches, classes)
    expected = norm(scores, w, "class_norm").reshape(2, 3, 5, 4)
    np.testing.assert_allclose(array(layer(grid)), expected, rtol=0, atol=2e-4)


@pytest.mark.any_backend
def test_width_heads_and_mlp_follow_the_input():
    layer = MaskTransformer(classes=3)
    layer.build((None, 2, 2, 192))
    first = layer.blocks[0]
    assert (first.num_heads, first.mlp_dim, len(layer.blocks)) == (3, 768, 2)
    assert layer.class_tokens.shape == (1, 3, 192)


@pytest.mark.any_backend
def test_tokens_that_are_not_a_map():
    with pytest.raises(ValueError, match=r"needs maps .* shape \(None, 6, 8\)"):
        MaskTransformer(classes=3).build((None, 6, 8))
