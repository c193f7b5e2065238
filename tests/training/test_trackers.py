"""Trackers of runs: ids, active runs, and libraries that are missing."""

import json
import sys

import pytest

from keras_vit.training import config as configs
from keras_vit.training import runs, trackers
from tests.training import wandb_stub

pytestmark = pytest.mark.any_backend
CONFIG = configs.override(configs.load("digits_vit"), ["trackers=tensorboard,wandb"])


def test_a_run_resumes_under_its_id(tmp_path, monkeypatch):
    wandb = wandb_stub.install(monkeypatch)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for _ in range(2):
        with trackers.tracking(tmp_path, CONFIG) as found:
            assert len(found) == 2
            assert not wandb.runs[-1].closed
        assert wandb.runs[-1].closed
    assert [run.arguments["id"] for run in wandb.runs] == [None, "made-up"]
    assert {run.arguments["project"] for run in wandb.runs} == {"mine"}
    assert {run.arguments["name"] for run in wandb.runs} == {tmp_path.name}
    assert wandb.runs[0].arguments["config"]["seed"] == CONFIG.seed
    assert json.loads((tmp_path / "trackers.json").read_text()) == {"wandb": "made-up"}


def test_an_active_run_is_used_and_left_open(tmp_path, monkeypatch):
    wandb = wandb_stub.install(monkeypatch)
    wandb.run = wandb_stub.Run(id="of the notebook")
    with trackers.tracking(tmp_path, CONFIG):
        pass
    assert wandb.runs == []
    assert not wandb.run.closed
    assert not (tmp_path / "trackers.json").exists()


def test_a_tracker_that_cannot_start(tmp_path, monkeypatch):
    wandb = wandb_stub.install(monkeypatch)

    def init(**arguments):
        raise wandb.Error("api_key not configured")

    wandb.init = init
    with (
        pytest.raises(ValueError, match="'wandb' cannot start: api_key not configured"),
        trackers.tracking(tmp_path, CONFIG),
    ):
        pass


@pytest.mark.parametrize(
    ("name", "module", "message"),
    [
        ("wandb", "wandb", r"run pip install wandb, or remove 'wandb' from trackers"),
        ("mlflow", "mlflow", r"run pip install mlflow, or remove 'mlflow' from"),
        ("comet", "json", r"Unknown tracker 'comet'; choose one of 'mlflow', "),
    ],
)
def test_a_missing_library_is_noticed_first(name, module, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    config = configs.override(CONFIG, [f"trackers={name}"])
    with pytest.raises((ImportError, ValueError), match=message):
        runs.train(config, tmp_path / "run")
    assert list(tmp_path.iterdir()) == []
