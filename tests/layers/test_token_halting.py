"""Tokens that stop, against a NumPy formula that handles one token at a time."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import TokenHalting
from keras_vit.layers.token_halting import (
    HaltingBlock,
    depth_prior,
    kept_indices,
    ponder,
    prior_divergence,
)
from keras_vit.models.halting import _worth_dropping, computed_tokens
from tests.cases import (
    array,
    output_and_gradients,
    outputs,
    perturb,
    random_array,
    random_images,
    tiny_vit,
    weights_of,
)
from tests.formulas import attention as attention_formula
from tests.formulas import below, dense, layer_norm, mlp, softmax

SIZES = {"patch_size": 4, "input_shape": (12, 16, 3), "num_layers": 3}
# Some tokens stop after the first block, some after the second.
HALTING = {"scale": 6.0, "center": 2.0}


def model_of(**arguments):
    halting = TokenHalting(**HALTING)
    return perturb(tiny_vit(**SIZES, token_reduction=halting, **arguments))


def halting_formula(x, blocks, scale, center, heads=2):
    """Compute the output of the prefix token of one image, and the tokens' costs.

    Only tokens that have not stopped are in `x` at all.
    """
    length = len(x)
    left, sums = list(range(length)), np.zeros(length)
    output, cost = np.zeros_like(x[0]), np.zeros(length)
    computed, means = [], []
    for number, w in enumerate(blocks):
        computed.append(list(left))
        y = layer_norm(x, w["attention_norm/gamma"], w["attention_norm/beta"])
        x = x + attention_formula(y[None], below(w, "attention/"), heads)[0]
        y = layer_norm(x, w["mlp_norm/gamma"], w["mlp_norm/beta"])
        x = x + mlp(y, below(w, "mlp/"))
        scores = 1 / (1 + np.exp(center - scale * x[:, 0]))
        means.append(scores.sum() / length)
        if number + 1 == len(blocks):
            scores = np.ones_like(scores)
        stays = []
        for row, token in enumerate(left):
            stops = sums[token] + scores[row] >= 0.99
            share = 1 - sums[token] if stops else scores[row]
            cost[token] += 1 + (share if stops else 0)
            sums[token] += scores[row]
            if token == 0:
                output = output + share * x[row]
            if not stops:
                stays.append(row)
        x, left = x[stays], [left[row] for row in stays]
        if not left:
            break
    return output, cost, computed, means


def reference(model, images):
    encoded = keras.Model(model.input, model.get_layer("dropout").output)
    blocks = [weights_of(model.get_layer(f"block_{i}")) for i in range(3)]
    tokens = outputs(encoded, images).astype("float64")
    return [halting_formula(x, blocks, **HALTING) for x in tokens]


def test_masked_and_dropped_tokens_equal_the_formula():
    model = model_of()
    images = random_images(model, batch=3)
    expected = reference(model, images)
    norm, head = (weights_of(model.get_layer(n)) for n in ("norm", "classifier"))
    tokens = np.array([output for output, *_ in expected])
    pooled = layer_norm(tokens, norm["gamma"], norm["beta"])
    probabilities = softmax(dense(pooled, {f"c/{k}": v for k, v in head.items()}, "c"))
    np.testing.assert_allclose(outputs(model, images), probabilities, atol=1e-5)
    computed = computed_tokens(model, images)
    for found, (_, _, wanted, _) in zip(computed, expected, strict=True):
        for block, tokens in enumerate(wanted):
            assert np.flatnonzero(found[block]).tolist() == tokens
    counts = computed.sum(axis=2)
    assert (counts[:, 0] == 13).all()
    assert 1 < counts[:, 1].max() < 13, "tokens should stop after the first block"
    dropped = keras_vit.drop_halted_tokens(model, images)
    kept = dropped.get_layer("block_1").output[0].shape[1]
    assert kept == max(counts[:, 1].max(), 2)
    np.testing.assert_allclose(outputs(dropped, images), probabilities, atol=1e-5)
    assert list(dropped.weights_by_path()) == list(model.weights_by_path())


def test_costs():
    model = model_of()
    images = random_images(model, batch=3)
    expected = reference(model, images)
    blocks = [model.get_layer(f"block_{i}").output for i in range(3)]
    found = outputs(keras.Model(model.input, blocks), images)
    sums, active = [row[1] for row in found], [row[4] for row in found]
    costs = array(ponder(sums, active))
    np.testing.assert_allclose(costs, [cost for _, cost, *_ in expected], atol=1e-4)
    scores = [model.get_layer("block_0").scores(row[0]) for row in found]
    means = np.mean([means + [0] * (3 - len(means)) for *_, means in expected], axis=0)
    means = np.maximum(means, 1e-12)
    prior = np.exp(-0.5 * (np.array([1, 2, 3]) - 2) ** 2)
    prior /= prior.sum()
    divergence = (prior * np.log(prior / (means / means.sum()))).sum()
    np.testing.assert_allclose(depth_prior(3, 2.0), prior, rtol=1e-5)
    result = array(prior_divergence(scores, active, depth_prior(3, 2.0)))
    np.testing.assert_allclose(result, divergence, rtol=1e-3, atol=1e-5)


@pytest.mark.any_backend
def test_kept_indices():
    sums = np.array([[2, 0.5, 0.1, 0.9, 0.1, 0.3], [0, 9, 8, 7, 6, 5]], "float32")
    found = array(kept_indices(keras.ops.convert_to_tensor(sums), 4, 1))
    assert found.tolist() == [[0, 2, 4, 5], [0, 3, 4, 5]]


@pytest.mark.any_backend
def test_blocks_drop_many_tokens_or_none():
    assert _worth_dropping([64, 63, 40, 33, 30, 8], 64) == [64, 64, 40, 40, 30, 8]


def test_gradient_of_the_costs():
    first, second = random_array(2, 4, scale=0.1), random_array(2, 4, scale=0.1)
    active = [np.ones((2, 4), bool), np.array([[1, 0, 1, 0]] * 2, bool)]
    masks = [keras.ops.convert_to_tensor(mask) for mask in active]

    def cost(sums):
        return ponder([sums, keras.ops.convert_to_tensor(second)], masks)

    _, (gradient,) = output_and_gradients(cost, [first], np.ones((2, 4), "float32"))
    # The remainder of a token is 1 minus the sum before its last block.
    np.testing.assert_allclose(gradient, -active[1].astype("float32"))


@pytest.mark.any_backend
def test_files_and_precision(tmp_path):
    model = model_of(distillation_token=True)
    images = random_images(model)
    dropped = keras_vit.drop_halted_tokens(model, images)
    # The prefix tokens, some of which have stopped, take no places of patches.
    np.testing.assert_allclose(array(dropped(images)), array(model(images)), atol=1e-5)
    dropped.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again(images)), array(dropped(images)))
    config = {**model.get_config(), "classifier_activation": None}
    full, low = (
        keras_vit.ViT.from_config({**config, "dtype": dtype})
        for dtype in ("float32", "mixed_bfloat16")
    )
    for network in (full, low):
        network.set_weights(model.get_weights())
    assert low.get_layer("block_1").output[1].dtype == "float32"
    active = computed_tokens(full, images)
    assert 0 < active[:, 1:].mean() < 1
    # A score close to the threshold may round to its other side.
    assert (computed_tokens(low, images) != active).mean() < 0.05
    logits = array(full(images))
    np.testing.assert_allclose(array(low(images)), logits, atol=0.03)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"pooling": "gap"}, "needs pooling='token'; received 'gap'"),
        ({"positions": "relative"}, "received positions='relative'"),
        ({"token_reduction": TokenHalting(kept=[3])}, "each of the 3 blocks"),
        ({"token_reduction": TokenHalting(kept=[3, 2, 1])}, "1 prefix tokens"),
    ],
)
def test_refusals(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_vit(**SIZES, **{"token_reduction": TokenHalting(), **arguments})


@pytest.mark.any_backend
def test_errors():
    for arguments, message in (
        ({"kept": [1, 0]}, "list of positive ints"),
        ({"epsilon": 1.0}, "between 0 and 1"),
        ({"scale": "5"}, "must be a number"),
    ):
        with pytest.raises(ValueError, match=message):
            TokenHalting(**arguments)
    model = model_of()
    with pytest.raises(ValueError, match="tokens of this model stop"):
        model.features(random_images(model))
    with pytest.raises(ValueError, match="do not stop"):
        computed_tokens(tiny_vit(), random_images(tiny_vit()))
    with pytest.raises(ValueError, match="at most 1; received 2"):
        keras_vit.drop_halted_tokens(model, random_images(model), quantile=2)
    made = HaltingBlock(2, 12, kept=4, num_prefix_tokens=1)
    assert made.remaining(9) == 4
