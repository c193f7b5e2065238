"""Token merging against a NumPy formula that handles one image at a time."""

import keras
import numpy as np
import pytest

from keras_vit.layers import TokenMerging
from keras_vit.layers.token_merging import (
    MergingBlock,
    bipartite_matching,
    merge_tokens,
    unmerge_tokens,
)
from tests.cases import array, output_and_gradients, perturb, random_array, weights_of
from tests.formulas import attention, below, layer_norm, mlp


def groups_of(keys, merged, prefix):
    """Return a list of the old tokens of each new token, by the paper's section 3."""
    length = len(keys)
    keys = keys / np.linalg.norm(keys, axis=-1, keepdims=True)
    edges = []
    for source in range(0, length, 2):
        if source >= prefix:
            targets = [t for t in range(1, length, 2) if t >= prefix]
            best = max(targets, key=lambda t: keys[source] @ keys[t])
            edges.append((keys[source] @ keys[best], source, best))
    edges.sort(key=lambda edge: -edge[0])
    groups = {token: [token] for token in range(length)}
    for _, source, target in edges[:merged]:
        groups[target].append(source)
        del groups[source]
    left = [source for _, source, _ in edges[merged:]]
    left = sorted(left) if prefix else left
    odd = [token for token in range(1, length, 2) if token >= prefix]
    return [groups[token] for token in (*range(prefix), *left, *odd)]


def merge(x, sizes, groups):
    """Return the means of groups of tokens, weighted by their sizes, and their sizes."""
    means = [(x[g] * sizes[g, None]).sum(0) / sizes[g].sum() for g in groups]
    return np.array(means), np.array([sizes[g].sum() for g in groups])


@pytest.mark.parametrize("length", [9, 12])
@pytest.mark.parametrize("prefix", [0, 1, 2, 3])
def test_matching_and_means(length, prefix):
    keys = random_array(3, length, 4)
    x, sizes = random_array(3, length, 5, seed=1), np.arange(1, length + 1)
    for merged in (1, (length - prefix) // 2):
        places = bipartite_matching(keras.ops.convert_to_tensor(keys), merged, prefix)
        both = np.broadcast_to(sizes, (3, length)).astype("int32")
        tokens, new_sizes = merge_tokens(
            keras.ops.convert_to_tensor(x), both, places, length - merged
        )
        for image in range(3):
            groups = groups_of(keys[image].astype("float64"), merged, prefix)
            expected, expected_sizes = merge(x[image], sizes, groups)
            np.testing.assert_allclose(array(tokens)[image], expected, atol=1e-5)
            np.testing.assert_array_equal(array(new_sizes)[image], expected_sizes)
            found = array(places)[image]
            for place, group in enumerate(groups):
                assert sorted(np.flatnonzero(found == place)) == sorted(group)
        again = array(unmerge_tokens(tokens, places))
        np.testing.assert_array_equal(
            again[1, -1], array(tokens)[1, array(places)[1, -1]]
        )


def block_formula(x, w, sizes, merged, prefix, heads=2):
    """Compute a block of one image by the paper's section 3, in float64."""
    y = layer_norm(x, w["attention_norm/gamma"], w["attention_norm/beta"])
    own = below(w, "attention/")
    x = x + attention(y[None], own, heads, bias=lambda _: np.log(sizes))[0]
    key = np.split(y @ own["qkv/kernel"] + own["qkv/bias"], 3, axis=-1)[1]
    key = key.reshape(len(x), heads, -1).mean(axis=1)
    if merged:
        x, sizes = merge(x, sizes, groups_of(key, merged, prefix))
    y = layer_norm(x, w["mlp_norm/gamma"], w["mlp_norm/beta"])
    return x + mlp(y, below(w, "mlp/")), sizes


def block(**arguments):
    made = MergingBlock(2, 12, merged=2, num_prefix_tokens=1, name="block", **arguments)
    made.build((2, 9, 8))
    return perturb(made)


def test_block():
    made, x = block(), random_array(2, 9, 8)
    sizes = np.array([[1, 1, 2, 3, 1, 1, 4, 1, 1], [1, 5, 1, 1, 1, 2, 1, 1, 1]], "int32")
    places = np.tile(np.arange(9, dtype="int32"), (2, 1))
    tokens, new_sizes, new_places = map(array, made(x, sizes=sizes, places=places))
    w = weights_of(made)
    for image in range(2):
        expected, expected_sizes = block_formula(
            x[image].astype("float64"), w, sizes[image].astype("float64"), 2, 1
        )
        np.testing.assert_allclose(tokens[image], expected, atol=1e-5)
        np.testing.assert_array_equal(new_sizes[image], expected_sizes)
    assert new_places.shape == (2, 9)
    assert new_places.max() == 6
    once = map(array, made(x))
    ones = map(array, made(x, sizes=np.ones_like(sizes), places=places))
    for one, other in zip(once, ones, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_without_proportional_attention():
    x, sizes = random_array(2, 9, 8), np.full((2, 9), 3, "int32")
    sizes[:, 0] = 1
    with_, without = block(), block(proportional=False)
    without.set_weights(with_.get_weights())
    plain = array(without(x)[0])
    np.testing.assert_allclose(
        array(without(x, sizes=sizes)[0])[:, 0], plain[:, 0], atol=1e-5
    )
    assert np.abs(array(with_(x, sizes=sizes)[0])[:, 0] - plain[:, 0]).max() > 1e-3


def test_gradient():
    made, x = block(), random_array(1, 9, 8)
    upstream = random_array(1, 7, 8, seed=1)
    _, (gradient,) = output_and_gradients(lambda x: made(x)[0], [x], upstream)
    w, ones = weights_of(made), np.ones(9)

    def loss(x):
        return (block_formula(x, w, ones, 2, 1)[0] * upstream[0]).sum()

    x = x[0].astype("float64")
    for place in [(0, 0), (3, 5), (8, 7)]:
        step = np.zeros_like(x)
        step[place] = 1e-5
        expected = (loss(x + step) - loss(x - step)) / 2e-5
        np.testing.assert_allclose(gradient[0][place], expected, rtol=1e-3, atol=1e-4)


@pytest.mark.any_backend
def test_mixed_precision_keeps_sizes_exact():
    made = MergingBlock(2, 12, merged=2, num_prefix_tokens=1, dtype="mixed_bfloat16")
    sizes = np.full((2, 9), 1001, "int32")
    tokens, sizes, places = made(random_array(2, 9, 8), sizes=sizes)
    assert keras.backend.standardize_dtype(tokens.dtype) == "bfloat16"
    assert int(array(sizes).sum()) == 2 * 9 * 1001
    assert places.shape == (2, 9)


@pytest.mark.any_backend
def test_schedules():
    # The authors' parse_r(12, (16, -1)) and parse_r(12, 16).
    falling = TokenMerging(16, inflection=-1.0).counts(12)
    assert falling == [32, 29, 26, 23, 20, 17, 14, 11, 8, 5, 2, 0]
    assert TokenMerging(16).counts(12) == [16] * 12
    assert TokenMerging([3, 2]).counts(4) == [3, 2, 0, 0]
    assert TokenMerging(2, inflection=1.0).counts(1) == [0]


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": -1}, "0 or more, or a list of such ints; received -1"),
        ({"r": [1, True]}, "received .1, True."),
        ({"r": 1, "inflection": 2}, "from -1 to 1; received 2"),
        ({"r": [1], "inflection": -1.0}, "is for one r"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        TokenMerging(**arguments)
    with pytest.raises(ValueError, match="r has 3 entries, and the model 2 blocks"):
        TokenMerging([1, 1, 1]).counts(2)
