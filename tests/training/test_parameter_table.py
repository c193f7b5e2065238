"""The table of rates and decays of a model's variables."""

import keras
import pytest

from keras_vit.layers import ResNetStem
from keras_vit.training import AdamW, parameter_table
from tests.cases import tiny_vit

pytestmark = pytest.mark.any_backend

MODELS = {
    "token": {"representation_size": 12},
    "gap": {"pooling": "gap", "positions": "learned_2d"},
    "map": {"pooling": "map", "positions": "relative", "registers": 2},
    "distilled": {"distillation_token": True, "layer_scale": 0.1, "qkv_bias": False},
    "fixed": {"positions": "sincos_2d", "include_top": False},
    "hybrid": {"stem": ResNetStem((1,), width=32), "patch_size": 2},
}


UNDECAYED = {
    "bias",
    "gamma",
    "beta",
    "class_token",
    "distillation_token",
    "registers",
    "embedding",
    "rows",
    "columns",
    "probe",
}


@pytest.mark.parametrize("name", MODELS)
def test_every_variable_is_in_the_table(name):
    model = tiny_vit(**MODELS[name])
    table = parameter_table(model, weight_decay=0.05)
    assert [row.path for row in table] == [v.path for v in model.trainable_variables]
    assert [row.shape for row in table] == [v.shape for v in model.trainable_variables]
    assert {row.rate for row in table} == {1.0}
    decayed = {row.path.rsplit("/", 1)[1] for row in table if row.weight_decay == 0.05}
    others = {row.path.rsplit("/", 1)[1] for row in table if row.weight_decay == 0.0}
    assert decayed == {"kernel"}
    assert others <= UNDECAYED


@pytest.mark.parametrize("name", MODELS)
def test_layer_decay_goes_by_depth(name):
    model = tiny_vit(**MODELS[name], num_layers=3)
    rates = {}
    for row in parameter_table(model, layer_decay=0.5):
        rates.setdefault(row.group, set()).add(row.rate)
    expected = {
        "stem": 0.5**4,
        "patch_encoder": 0.5**4,
        "block_0": 0.5**3,
        "block_1": 0.5**2,
        "block_2": 0.5,
    }
    top = dict.fromkeys(
        ("norm", "pooling", "pre_logits", "classifier", "distillation_classifier"), 1.0
    )
    assert rates == {group: {({**expected, **top})[group]} for group in rates}
    assert {"patch_encoder", "block_0", "block_1", "block_2", "norm"} <= set(rates)


def test_depths_are_those_of_the_whole_model_also_when_its_top_is_frozen():
    model = tiny_vit()
    whole = {row.path: row for row in parameter_table(model, layer_decay=0.5)}
    model.get_layer("block_1").trainable = False
    part = parameter_table(model, layer_decay=0.5)
    assert part == tuple(r for r in whole.values() if r.group != "block_1")


def test_the_first_rule_counts_and_multiplies_the_layers_rate():
    table = parameter_table(
        tiny_vit(),
        layer_decay=0.5,
        rates={"^block_1/.*kernel": 10, "^(block_1|classifier)/": 4},
    )
    rates = {row.path: row.rate for row in table}
    assert rates["block_1/mlp/expand/kernel"] == 5.0
    assert rates["block_1/mlp/expand/bias"] == 2.0
    assert rates["classifier/bias"] == 4.0
    assert rates["block_0/mlp/expand/kernel"] == 0.25


def test_norms_alone_are_trained_without_decay():
    model = tiny_vit(num_layers=1)
    for weight in model.weights:
        weight.trainable = weight.path.endswith(("gamma", "beta"))
    assert len(parameter_table(model)) == 6
    with pytest.raises(ValueError, match="'kernel\\$' of decayed finds no trainable"):
        parameter_table(model, weight_decay=0.1)


def test_the_table_prints_every_row():
    table = parameter_table(tiny_vit(), weight_decay=0.05, layer_decay=0.75)
    title, *lines = str(table).splitlines()
    assert " ".join(title.split()) == "variable shape group rate weight decay matrices"
    assert [line.split()[0] for line in lines] == [row.path for row in table]
    line = next(line for line in lines if line.startswith("block_0/mlp/expand/kernel"))
    assert line.split()[1:] == ["16x24", "block_0", "0.5625", "0.05", "1"]


def test_a_model_in_a_name_scope_has_the_same_table():
    with keras.name_scope("outer"):
        inner = tiny_vit(num_layers=1)
    table = parameter_table(inner, weight_decay=0.05, layer_decay=0.5)
    plain = parameter_table(tiny_vit(num_layers=1), weight_decay=0.05, layer_decay=0.5)
    assert table == plain
    AdamW(parameters=table).build(inner.trainable_variables)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"weight_decay": 1.0, "decayed": ("kernel$", "kernal")}, "'kernal' of decayed"),
        ({"weight_decay": 1.0, "decayed": "kernal"}, "'kernal' of decayed finds no"),
        ({"rates": {"^head/": 10.0}}, "'\\^head/' of rates finds no trainable"),
        ({"rates": {"kernel": 2.0, "^classifier/kernel": 3.0}}, "no rule before it"),
        ({"rates": {"^norm/": 0.0}}, "above 0; received 0.0. To freeze"),
        ({"peak_learning_rate": 0.0}, "peak_learning_rate must be a number above 0"),
        ({"weight_decay": -1.0}, "weight_decay must be a number, 0 or more"),
        ({"layer_decay": 1.5}, "above 0 and at most 1; received 1.5"),
    ],
)
def test_bad_rules(arguments, message):
    with pytest.raises(ValueError, match=message):
        parameter_table(tiny_vit(num_layers=1), **arguments)


def test_models_for_which_there_is_no_table():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="layer_decay needs a model of blocks"):
        parameter_table(model, layer_decay=0.5)
    model.trainable = False
    with pytest.raises(ValueError, match="has no trainable variables"):
        parameter_table(model)
