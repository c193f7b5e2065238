"""T2T-ViT's variants of the Transformer block."""

import numpy as np
import pytest

from keras_vit.layers import (
    DenseBlock,
    GhostBlock,
    GhostDense,
    SqueezeExcitation,
    SqueezeExcitationBlock,
)
from keras_vit.layers.backbones import GhostMLP
from tests.cases import array, perturb, random_array, weights_of
from tests.formulas import attention, below, block, dense, gelu_exact, layer_norm, mlp


def built(layer, x):
    layer.build(x.shape)
    return weights_of(perturb(layer))


def excite(x, w):
    hidden = np.maximum(x.mean(1) @ w["squeeze/kernel"], 0)
    return x / (1 + np.exp(-hidden @ w["excite/kernel"]))[:, None]


def norm(x, w, name):
    return layer_norm(x, w[f"{name}/gamma"], w[f"{name}/beta"])


def test_squeeze_excitation():
    x = random_array(2, 5, 16)
    layer = SqueezeExcitation(reduction=4)
    w = built(layer, x)
    assert w["squeeze/kernel"].shape == (16, 4)
    np.testing.assert_allclose(array(layer(x)), excite(x, w), rtol=0, atol=1e-5)


def test_squeeze_excitation_block():
    x = random_array(2, 5, 32)
    layer = SqueezeExcitationBlock(num_heads=4, mlp_dim=24, activation="gelu")
    w = built(layer, x)
    y = attention(norm(x, w, "attention_norm"), below(w, "attention/"), 4)
    y = x + excite(y, below(w, "attention/squeeze_excitation/"))
    y = y + mlp(norm(y, w, "mlp_norm"), below(w, "mlp/"), gelu_exact)
    np.testing.assert_allclose(array(layer(x)), y, rtol=0, atol=1e-4)


def test_ghost_dense():
    x = random_array(2, 5, 7)
    layer = GhostDense(12, copies=2, groups=2, activation="gelu")
    w = built(layer, x)
    first, second = np.split(dense(x, w, "dense"), 2, axis=-1)
    scales = w["scale"].reshape(2, 2, 2)  # Axes: copy, group, entry.
    expected = [
        first,
        *(gelu_exact(first) * scales[copy, 0] for copy in range(2)),
        second,
        *(gelu_exact(second) * scales[copy, 1] for copy in range(2)),
    ]
    np.testing.assert_allclose(
        array(layer(x)), np.concatenate(expected, axis=-1), rtol=0, atol=1e-5
    )


@pytest.mark.slow_elsewhere
def test_ghost_block():
    """Compare with the original: half of q, k, v and two thirds of the MLP are copies."""
    x = random_array(2, 5, 8)
    layer = GhostBlock(num_heads=2, mlp_dim=24, activation="gelu", qkv_bias=False)
    w = built(layer, x)
    y = norm(x, w, "attention_norm")
    halves = np.split(y @ w["attention/qkv/dense/kernel"], 3, axis=-1)
    scales = np.split(w["attention/qkv/scale"], 3)
    qkv = [part for h, s in zip(halves, scales, strict=True) for part in (h, h * s)]
    as_plain = {**below(w, "attention/"), "qkv/kernel": np.eye(24)}
    # `attention` would project its input to q, k and v, which are given here.
    y = x + _attention_of(np.concatenate(qkv, axis=-1), as_plain, 2)
    hidden = gelu_exact(dense(norm(y, w, "mlp_norm"), w, "mlp/expand/dense"))
    copies = [gelu_exact(hidden * s) for s in np.split(w["mlp/expand/scale"], 2)]
    hidden = np.concatenate([hidden, *copies], axis=-1)
    y = y + dense(hidden, w, "mlp/contract")
    np.testing.assert_allclose(array(layer(x)), y, rtol=0, atol=1e-4)


def test_a_ghost_mlp_without_biases():
    layer = GhostMLP(24, use_bias=False)
    layer.build((None, 5, 8))
    assert sorted(w.name for w in layer.weights) == ["kernel", "kernel", "scale"]


def _attention_of(qkv, w, num_heads):
    """Return `attention` for given q, k and v."""
    d = qkv.shape[-1] // 3
    query, key, value = (qkv[..., i * d : (i + 1) * d] for i in range(3))
    out = np.zeros_like(value)
    size = d // num_heads
    for head in range(num_heads):
        part = slice(head * size, (head + 1) * size)
        logits = np.einsum("bid,bjd->bij", query[..., part], key[..., part])
        weights = np.exp(logits / np.sqrt(size))
        weights /= weights.sum(-1, keepdims=True)
        out[..., part] = weights @ value[..., part]
    return dense(out, w, "projection")


def test_dense_block():
    x = random_array(2, 5, 8)
    layer = DenseBlock(growth_rate=3, num_heads=2, mlp_dim=12)
    w = built(layer, x)
    expected = np.concatenate([x, dense(block(x, w, 2), w, "growth")], axis=-1)
    np.testing.assert_allclose(array(layer(x)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("layer", "width", "message"),
    [
        (GhostBlock(num_heads=1, mlp_dim=12), 7, "units=21 must be a multiple of 6"),
        (GhostBlock(num_heads=2, mlp_dim=10), 8, r"hidden_dim=8; received 10.*est: 16"),
        (GhostBlock(num_heads=2, mlp_dim=8), 8, r"received 8. The nearest: 16"),
        (
            GhostBlock(num_heads=2, mlp_dim=16, qkv_bias="qv"),
            8,
            "True or False; received 'qv'",
        ),
        (SqueezeExcitation(), 8, "reduction=16 needs tokens.*received 8"),
    ],
)
def test_errors(layer, width, message):
    with pytest.raises(ValueError, match=message):
        layer.build((None, 5, width))
    with pytest.raises(ValueError, match=r"units=9 must be a multiple of 6"):
        GhostDense(9, copies=1, groups=3)
