"""Gradual unfreezing: phases of a run in which more and more weights train."""

import re

import keras
import numpy as np
import pytest

from keras_vit.training import AdamW, compilation, parameter_table, runs
from keras_vit.training import config as configs
from keras_vit.training.phases import next_model
from tests.cases import array, perturb, tiny_vit
from tests.training.interruptions import train_to_next_checkpoint
from tests.training.test_optimizer_steps import adam_formula, apply, random_gradients
from tests.training.test_runs import SETTINGS, assert_same_state

UNFREEZE = "((0.34, 'head'), (0.33, 'block_1'), (0.33, 'all'))"
CHANGES = [
    "checkpoint_steps=4",
    "steps=12",
    "epochs=1",
    "data.sampling=None",
    "augmentation.mixup=0",
    "optimization.warmup_steps=0",
    "optimization.weight_decay=0.1",
    "model.arguments.num_layers=2",
    "model.arguments.hidden_dim=16",
    f"optimization.unfreeze={UNFREEZE}",
]


def settings(*changes):
    return configs.override(configs.load("digits_vit"), [*SETTINGS, *CHANGES, *changes])


def values(model):
    return {path: array(w).copy() for path, w in model.weights_by_path().items()}


def groups(before, after):
    """Return the layers of the weights that differ."""
    return {path.split("/")[0] for path in before if np.any(before[path] != after[path])}


def test_more_weights_train_in_each_phase():
    plan = runs.make_plan(settings())
    assert [(p.first, p.last, p.lowest) for p in plan.phases] == [
        (0, 1, "head"),
        (1, 2, "block_1"),
        (2, 3, "all"),
    ]
    model = plan.objective.build()
    above = {"block_1", "norm", "classifier"}
    compilation.compile(model, plan, plan.phases[1])
    assert {row.group for row in model.optimizer.parameters} == above
    plan = runs.make_plan(
        settings("steps=8", "optimization.unfreeze=((0.5, 'head'), (0.5, 'all'))")
    )
    model = plan.objective.build()
    compilation.compile(model, plan, plan.phases[0])
    everything = {"patch_encoder", "block_0", *above}
    for phase, trained in zip(plan.phases, ({"classifier"}, everything), strict=True):
        if phase.first:
            moments = {
                v.path.split("/", 1)[1]: array(v) for v in model.optimizer.variables
            }
            assert next_model(model, phase, plan) is model
            carried = {
                v.path.split("/", 1)[1]: array(v) for v in model.optimizer.variables
            }
            assert set(moments) < set(carried)
            for name, value in moments.items():
                np.testing.assert_array_equal(carried[name], value)
            new = set(carried) - set(moments)
            assert not any(carried[n].any() for n in new if not n.endswith("average"))
            assert int(model.optimizer.iterations) == 4 * phase.first
        before = values(model)
        data = runs.training_data(plan, model, 4 * phase.first)
        model.fit(data, steps_per_epoch=4, verbose=0)
        assert groups(before, values(model)) == trained
        starts = {row.group: row.first_update for row in model.optimizer.parameters}
        assert starts == {group: 4 * (group != "classifier") for group in trained}


def test_skipped_updates_before_a_later_variable():
    """In float16, a loss that overflows skips an update."""
    model = perturb(tiny_vit(num_layers=1))
    rows = [row._replace(first_update=3) for row in parameter_table(model)]
    optimizer = AdamW(0.1, rows)
    optimizer.build(model.trainable_variables)
    optimizer._iterations.assign(2)
    after = apply(optimizer, model, random_gradients(model, steps=1))
    assert all(np.isfinite(value).all() for value in after)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("accumulated", [None, 2])
def test_the_moments_of_a_later_variable_are_corrected_from_its_start(accumulated):
    """The variables start at update 3, with moments of zero."""
    keras.utils.set_random_seed(0)
    model = perturb(tiny_vit(num_layers=1))
    rows = [row._replace(first_update=3) for row in parameter_table(model)]
    steps = {} if accumulated is None else {"gradient_accumulation_steps": accumulated}
    optimizer = AdamW(0.1, rows, beta_1=0.8, beta_2=0.95, ema_decay=0.5, **steps)
    optimizer.build(model.trainable_variables)
    optimizer._iterations.assign(3 * (accumulated or 1))
    before = [array(v).astype("float64") for v in model.trainable_variables]
    gradients = random_gradients(model, steps=2)
    repeated = [g for g in gradients for _ in range(accumulated or 1)]
    after = apply(optimizer, model, repeated)
    assert int(optimizer.iterations) == 5
    both = zip(before, after, strict=True)
    for i, (old, new) in enumerate(both):
        expected = adam_formula(old, [g[i] for g in gradients], [0.1, 0.1], 0.0)
        np.testing.assert_allclose(new, expected, rtol=1e-5, atol=2e-6)
        first = adam_formula(old, [gradients[0][i]], [0.1], 0.0)
        average = array(optimizer._averages[i])
        np.testing.assert_allclose(average, (first + expected) / 2, rtol=1e-5, atol=2e-6)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_a_run_that_is_killed_at_every_checkpoint(optimizer, tmp_path, monkeypatch):
    config = settings(f"optimization.optimizer={optimizer}")
    runs.train(config, tmp_path / "whole")
    for _ in range(3):
        train_to_next_checkpoint(config, tmp_path / "run", monkeypatch)
    runs.train(config, tmp_path / "run")
    assert_same_state(tmp_path / "run", tmp_path / "whole")
    longer = configs.override(config, ["steps=24"])
    with pytest.raises(FileExistsError, match=r"optimization\.unfreeze depend"):
        runs.train(longer, tmp_path / "run")


@pytest.mark.any_backend
def test_phases_of_sizes_and_of_weights():
    plan = runs.make_plan(settings("resolutions=((0.34, 8), (0.66, 16))"))
    assert [(p.last, p.side, p.lowest) for p in plan.phases] == [
        (1, 8, "head"),
        (2, 16, "block_1"),
        (3, 16, "all"),
    ]
    plan = runs.make_plan(settings("resolutions=((0.67, 8), (0.33, 16))"))
    assert [(p.last, p.side, p.lowest) for p in plan.phases] == [
        (1, 8, "head"),
        (2, 8, "block_1"),
        (3, 16, "all"),
    ]


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("optimization.unfreeze=((0.5, 'head'),)", "must be above 0 and add up to 1"),
        ("optimization.unfreeze=(0.5, 0.5)", "must be pairs of a fraction and a value"),
        (
            "optimization.unfreeze=((0.9, 'head'), (0.1, 'all'))",
            "0.1 of 3 checkpoints rounds to none",
        ),
        ("early_stopping=2", "set early_stopping or optimization.unfreeze, not both"),
    ],
)
def test_bad_schedules(change, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        runs.make_plan(settings(change))


@pytest.mark.any_backend
def test_an_unknown_layer_leaves_no_directory(tmp_path):
    wrong = settings("optimization.unfreeze=((0.5, 'head'), (0.5, 'blok_1'))")
    with pytest.raises(
        ValueError, match=r"optimization\.unfreeze: no weight .* 'block_1'"
    ):
        runs.train(wrong, tmp_path / "run")
    assert not (tmp_path / "run").exists()
