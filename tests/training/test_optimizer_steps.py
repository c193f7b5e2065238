"""Single steps of the optimizers against NumPy, with given gradients."""

import keras
import numpy as np
import pytest

from keras_vit.training import (
    SGD,
    AdamW,
    Lamb,
    Lion,
    Muon,
    WarmupSchedule,
    parameter_table,
)
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    perturb,
    random_array,
    tiny_t2t,
    tiny_vit,
)


def adam_formula(weights, gradients, rates, decays, beta_1=0.8, beta_2=0.95, eps=1e-8):
    m = v = 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        weights = weights * (1 - rate * decays)
        m = beta_1 * m + (1 - beta_1) * gradient
        v = beta_2 * v + (1 - beta_2) * gradient**2
        correction = np.sqrt(1 - beta_2**t)
        m_hat, v_hat = m / (1 - beta_1**t), v / correction**2
        weights = weights - rate * m_hat / (np.sqrt(v_hat) + eps / correction)
    return weights


def sgd_formula(weights, gradients, rates, decays):
    velocity = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        weights = weights * (1 - rate * decays)
        velocity = 0.9 * velocity - rate * gradient
        weights = weights + velocity
    return weights


def lion_formula(weights, gradients, rates, decays):
    momentum = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        weights = weights * (1 - rate * decays)
        weights = weights - rate * np.sign(0.8 * momentum + 0.2 * gradient)
        momentum = 0.95 * momentum + 0.05 * gradient
    return weights


def lamb_formula(weights, gradients, rates, decays):
    m = v = 0.0
    for t, (gradient, rate) in enumerate(zip(gradients, rates, strict=True), start=1):
        m = 0.8 * m + 0.2 * gradient
        v = 0.95 * v + 0.05 * gradient**2
        update = m / (1 - 0.8**t) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        update = update + decays * weights
        ratio = np.linalg.norm(weights) / np.linalg.norm(update) if decays else 1.0
        weights = weights - rate * ratio * update
    return weights


def orthogonalized(matrix):
    """Map the singular values of a matrix by the polynomial of Muon, five times."""
    u, values, v = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(5):
        values = 3.4445 * values - 4.775 * values**3 + 2.0315 * values**5
    return u @ np.diag(values) @ v


def muon_formula(weights, gradients, rates, decays, matrices):
    momentum = 0.0
    for gradient, rate in zip(gradients, rates, strict=True):
        weights = weights * (1 - rate * decays)
        momentum = 0.9 * momentum + gradient
        parts = np.split(gradient + 0.9 * momentum, matrices, axis=1)
        factor = 0.2 * np.sqrt(max(parts[0].shape))
        update = np.concatenate([orthogonalized(part) for part in parts], axis=1)
        weights = weights - rate * factor * update
    return weights


BETAS = {"beta_1": 0.8, "beta_2": 0.95}
MUON = {"momentum": 0.9, "adam_beta_1": 0.8, "adam_beta_2": 0.95}
FORMULAS = {
    "adam": (AdamW, BETAS, adam_formula, 0.0),
    "adamw": (AdamW, BETAS, adam_formula, 0.3),
    "lion": (Lion, BETAS, lion_formula, 0.3),
    "lamb": (Lamb, BETAS, lamb_formula, 0.3),
    "muon": (Muon, MUON, adam_formula, 0.3),
    "sgd": (SGD, {}, sgd_formula, 0.3),
}


def apply(optimizer, model, gradients):
    variables = model.trainable_variables
    for step in gradients:
        step = [keras.ops.convert_to_tensor(gradient) for gradient in step]
        optimizer.apply(step, variables)
    return [array(variable) for variable in variables]


def random_gradients(model, steps):
    return [
        [
            random_array(*v.shape, seed=1000 * step + i)
            for i, v in enumerate(model.trainable_variables)
        ]
        for step in range(steps)
    ]


def matrices(path):
    """Return the number of hidden matrices in a kernel of `tiny_vit`."""
    if not (path.startswith("block_") and path.endswith("kernel")):
        return 0
    return 3 if "qkv" in path else 1


@pytest.mark.parametrize(
    "name", mostly_slow_elsewhere(FORMULAS, *(FORMULAS.keys() - {"lion", "lamb", "sgd"}))
)
def test_steps_equal_the_formula_for_every_variable(name):
    cls, arguments, formula, weight_decay = FORMULAS[name]
    model = perturb(tiny_vit())
    table = parameter_table(
        model, weight_decay, layer_decay=0.5, rates={"^classifier/": 10.0}
    )
    before = [array(v).astype("float64") for v in model.trainable_variables]
    gradients = random_gradients(model, steps=2)
    schedule = WarmupSchedule(0.1, 10, warmup_steps=2, start=0.02)  # Rates 0.02, 0.06.
    after = apply(cls(schedule, table, **arguments), model, gradients)
    blocks = {"patch_encoder": 0.125, "block_0": 0.25, "block_1": 0.5, "norm": 1.0}
    for i, (path, new) in enumerate(zip(model.weights_by_path(), after, strict=True)):
        rate = {**blocks, "classifier": 10.0}[path.split("/")[0]]
        decay = weight_decay if path.endswith("kernel") else 0.0
        rates = [0.02 * rate, 0.06 * rate]
        arguments = before[i], [g[i] for g in gradients], rates, decay
        number = matrices(path) if name == "muon" else 0
        expected = muon_formula(*arguments, number) if number else formula(*arguments)
        np.testing.assert_allclose(new, expected, rtol=1e-5, atol=2e-6, err_msg=path)


def test_the_decay_of_big_vision_is_scaled_by_the_schedules_shape_only():
    model = perturb(tiny_vit(num_layers=1))
    table = parameter_table(
        model, weight_decay=0.2, layer_decay=0.5, peak_learning_rate=0.04
    )
    before = [array(v).astype("float64") for v in model.trainable_variables]
    zeros = [[np.zeros(v.shape, "float32") for v in model.trainable_variables]] * 2
    # The learning rate is at its peak, then at half of the peak.
    schedule = WarmupSchedule(0.04, 2, "linear")
    after = apply(AdamW(schedule, table), model, zeros)
    for old, new, row in zip(before, after, table, strict=True):
        factor = 0.8 * 0.9 if row.path.endswith("kernel") else 1.0
        np.testing.assert_allclose(new, factor * old, rtol=1e-5, err_msg=row.path)


KERAS = {
    "lion": (Lion, keras.optimizers.Lion, {}),
    "lamb": (Lamb, keras.optimizers.Lamb, {"epsilon": 1e-8}),
}


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("name", KERAS)
def test_without_decay_they_equal_those_of_keras(name):
    cls, theirs, arguments = KERAS[name]
    results = []
    for optimizer in (cls(0.1), theirs(0.1, **arguments)):
        keras.utils.set_random_seed(0)
        model = perturb(tiny_vit(num_layers=1))
        results.append(apply(optimizer, model, random_gradients(model, steps=2)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.slow_elsewhere
def test_muon_equals_that_of_keras_where_no_kernel_is_fused():
    hidden = r"^block_0/(attention/projection|mlp/\w+)/kernel$"
    results = []
    for own in (True, False):
        keras.utils.set_random_seed(0)
        model = perturb(tiny_vit(num_layers=1))
        others = ["qkv", "patch_encoder", "classifier"]
        optimizer = keras.optimizers.Muon(
            0.1,
            exclude_layers=others,
            weight_decay=0.3,
            adam_weight_decay=None,
            epsilon=1e-8,
        )
        if own:
            table = parameter_table(model, 0.3, hidden, matrices={hidden: 1})
            optimizer = Muon(0.1, table)
        results.append(apply(optimizer, model, random_gradients(model, steps=2)))
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


def test_lamb_leaves_zeros_to_adam():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    table = parameter_table(model, weight_decay=0.1)
    zero = [np.zeros(v.shape, "float32") for v in model.trainable_variables]
    for variable in model.trainable_variables:
        variable.assign(np.zeros(variable.shape))
    optimizer = Lamb(0.5, table)
    assert not any(map(np.any, apply(optimizer, model, [zero])))
    ones = [np.ones(v.shape, "float32") for v in model.trainable_variables]
    optimizer = Lamb(0.5, table)
    for value in apply(optimizer, model, [ones]):
        np.testing.assert_allclose(value, -0.5, rtol=1e-5)


@pytest.mark.any_backend
def test_hidden_matrices():
    def found(model, **rules):
        rows = parameter_table(model, **rules)
        return {row.path: row.matrices for row in rows if row.matrices}

    block = {
        "block_0/attention/qkv/kernel": 3,
        "block_0/attention/projection/kernel": 1,
        "block_0/mlp/expand/kernel": 1,
        "block_0/mlp/contract/kernel": 1,
    }
    assert found(tiny_vit(num_layers=1, representation_size=12)) == block
    assert found(tiny_t2t(num_layers=1)) == block
    gated = tiny_vit(num_layers=1, mlp="swiglu", positions="relative_bias")
    assert found(gated) == {**block, "block_0/mlp/expand/kernel": 2}
    pooled = {
        "pooling/query/kernel": 1,
        "pooling/key_value/kernel": 2,
        "pooling/projection/kernel": 1,
        "pooling/mlp/expand/kernel": 1,
        "pooling/mlp/contract/kernel": 1,
    }
    assert found(tiny_vit(num_layers=1, pooling="map")) == {**block, **pooled}
    rules = {"qkv/kernel$": 1, "classifier/kernel$": 1}
    own = found(tiny_vit(num_layers=1), matrices=rules)
    assert own == {"block_0/attention/qkv/kernel": 1, "classifier/kernel": 1}
    with pytest.raises(
        ValueError, match=r"qkv/kernel' \(16, 48\) cannot be split into 5"
    ):
        parameter_table(tiny_vit(num_layers=1), matrices={"qkv/kernel$": 5})


@pytest.mark.any_backend
def test_muon_needs_a_table():
    with pytest.raises(ValueError, match="received parameters=None"):
        Muon(0.1)
    table = parameter_table(tiny_vit(num_layers=1))
    for argument in ({"adam_weight_decay": 0.1}, {"exclude_layers": ["block_0"]}):
        with pytest.raises(ValueError, match=f"instead of {next(iter(argument))}"):
            Muon(0.1, table, **argument)
