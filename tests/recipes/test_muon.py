"""The comparison of Muon with AdamW."""

import json

import pytest

from keras_vit.training import config as configs
from recipes import muon

pytestmark = pytest.mark.any_backend


def row(loss, **settings):
    return {"step": 400, "val_loss": loss, "val_accuracy": 0.5, **settings}


def test_the_table_has_all_seeds_and_the_relative_time():
    settings = {"learning_rate": 1e-3, "weight_decay": 0.05}
    seeds = range(len(muon.SEEDS))
    results = {
        "step_times": {"adamw": 0.1, "muon": 0.125},
        "steps": {"adamw": 400, "muon": 256},
        "tuning": {name: [row(1.5, **settings)] for name in muon.OPTIMIZERS},
        "seeds": {
            "adamw": [row(1.5 + 0.1 * seed) for seed in seeds],
            "muon": [row(1.4) for _ in seeds],
        },
    }
    lines = muon.table(results).splitlines()
    assert "| time, relative | 1.00 | 0.80 |" in lines
    assert "| step, processor time | 100 ms | 125 ms |" in lines
    assert "| validation loss, seed 4 | 1.9000 | 1.4000 |" in lines
    assert "| mean of validation loss | 1.7000 ± 0.1581 | 1.4000 ± 0.0000 |" in lines
    assert "| muon | 0.001 | 0.05 | 1.5000 |" in lines


def test_only_a_finished_run_of_the_same_config_is_not_trained(tmp_path, monkeypatch):
    def train(settings, directory, sources):
        trained.append(settings.steps)
        path = tmp_path / "run"
        path.mkdir(exist_ok=True)
        (path / "config.json").write_text(json.dumps(configs.to_dict(settings)))
        (path / "results.json").write_text(json.dumps({"last": row(1.5)}))

    trained = []
    monkeypatch.setattr(muon.runs, "train", train)
    for steps in (400, 400, 256):
        config = muon.config("adamw", steps, 1e-3, 0.05, 0, "tfds")
        assert muon.trained(tmp_path / "run", config, {}) == row(1.5)
    assert trained == [400, 256]


def test_the_configs():
    config = muon.config("muon", 256, 2e-3, 0.3, 1, "tfds")
    assert (config.steps, config.checkpoint_steps, config.seed) == (256, 64, 1)
    settings = config.optimization
    assert (settings.optimizer, settings.momentum) == ("muon", 0.95)
    assert (settings.learning_rate, settings.weight_decay) == (2e-3, 0.3)
    assert muon.config("adamw", 400, 1e-3, 0.05, 1, "tfds").optimization.momentum == 0.9
