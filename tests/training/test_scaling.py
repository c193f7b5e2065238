"""Fractions of data sets, power laws, and scaling studies."""

import json
import pathlib

import numpy as np
import pytest

from keras_vit.data import open_source
from keras_vit.data.subsets import subset
from keras_vit.training import config as configs
from keras_vit.training import power_law, runs, scaling
from keras_vit.training.power_law import fit
from keras_vit.training.scaling import study
from keras_vit.training.sweep import combinations
from tests.commands import run_command

pytestmark = pytest.mark.any_backend


def test_smaller_fractions_are_parts_of_larger_ones():
    whole = open_source("digits:train")
    ids = {}
    for fraction in (0.03, 0.1, 0.3):
        part = subset(whole, fraction)
        ids[fraction] = set(part.table["id"])
        assert len(ids[fraction]) == part.num_examples == len(part.listing())
        assert abs(part.num_examples - fraction * whole.num_examples) < 10
        assert min(part.class_counts) > 0
    assert ids[0.03] < ids[0.1] < ids[0.3]
    assert subset(whole, 1.0) is whole


def test_fractions_out_of_range():
    whole = open_source("digits:train")
    for fraction in (0.0, 1.5, -0.1):
        with pytest.raises(ValueError, match=r"data.fraction must be above 0.*at most 1"):
            subset(whole, fraction)
    tiny = subset(whole, 1e-6)  # Every class keeps one image.
    assert tiny.num_examples == whole.num_classes


def points(floor, scale, exponent, noise=0.0):
    x = np.repeat([100.0, 300.0, 1000.0, 3000.0, 10000.0], 3)
    y = floor + scale * (x / 1000) ** -exponent
    return x, y * (1 + noise * np.random.default_rng(0).normal(size=len(x)))


@pytest.fixture
def few_resamples(monkeypatch):
    """Spend less time on intervals that a test does not look at."""
    monkeypatch.setattr(power_law, "RESAMPLES", 10)


@pytest.mark.usefixtures("few_resamples")
@pytest.mark.parametrize("parameters", [(0.1, 0.5, 0.4), (0.0, 0.3, 0.25)])
def test_a_law_is_found_again(parameters):
    law = fit(*points(*parameters))
    floor, scale, exponent = parameters
    assert law.floor == pytest.approx(floor, abs=1e-4)
    assert law.exponent == pytest.approx(exponent, rel=1e-3)
    assert law(1000) == pytest.approx(floor + scale, rel=1e-4)
    assert np.abs(law.residuals).max() < 1e-5


def test_the_interval_covers_the_law_of_noisy_points():
    law = fit(*points(0.1, 0.5, 0.4, noise=0.03))
    for x, value in ((300, 0.1 + 0.5 * 0.3**-0.4), (1e5, 0.1 + 0.5 * 100**-0.4)):
        low, high = law.interval(x)
        assert low < value < high
    assert np.ptp(law.interval(1e5)) > 0.01  # It is wide where nothing was measured.
    assert np.ptp(law.interval(1000)) < np.ptp(law.interval(1e5))
    summary = json.loads(json.dumps(law.summary()))
    assert summary["exponent"]["interval"][0] < 0.4 < summary["exponent"]["interval"][1]
    assert len(summary["residuals"]) == 15


def test_points_that_no_law_fits():
    with pytest.raises(ValueError, match="needs 4 different x"):
        fit([1, 2, 3, 3], [3, 2, 1, 1])
    with pytest.raises(ValueError, match="positive finite x"):
        fit([0, 1, 2, 3], [4, 3, 2, 1])
    with pytest.raises(ValueError, match="finite y"):
        fit([1, 2, 3, 4], [4, 3, 2, np.nan])


IMAGES = {0.1: 126, 0.2: 251, 0.5: 629, 1.0: 1257}  # Of fractions of the digits.


def of_known_errors(config, grid, directory):
    """Return the rows of a sweep whose results follow two power laws exactly."""
    for name, combined in combinations(config, grid).items():
        error = 0.05 + IMAGES[combined.data.fraction] ** -0.3
        last = {"step": combined.steps, "val_loss": 1 + 3 * combined.steps**-0.5}
        values = {"val_accuracy": 1 - error, "test_accuracy": 1 - error}
        yield {"run": name, "last": last, **values}


@pytest.mark.usefixtures("few_resamples")
def test_a_study_of_known_errors(tmp_path, monkeypatch):
    monkeypatch.setattr(scaling, "sweep", of_known_errors)
    grid = list(IMAGES), (250, 500, 1000, 2000)
    config = configs.override(configs.load("digits_vit"), ["checkpoint_steps=50"])
    results = study({"small": config}, str(tmp_path), *grid)
    images, laws = [point["images"] for point in results["points"]], results["laws"]
    assert set(images) == set(IMAGES.values())
    assert len({point["operations_per_step"] for point in results["points"]}) == 1
    for law, floor, exponent in (("small", 0.05, 0.3), ("compute", 1, 0.5)):
        assert laws[law]["floor"]["value"] == pytest.approx(floor, rel=1e-3)
        assert laws[law]["exponent"]["value"] == pytest.approx(exponent, rel=1e-3)
    assert len(laws["small"]["residuals"]) == 4
    assert laws["small"]["extrapolation"]["x"] == 10 * max(images)
    assert json.loads((tmp_path / "scaling.json").read_text()) == results
    assert (tmp_path / "scaling.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("study")
    config = configs.override(
        configs.load("digits_vit"),
        [
            "steps=4",
            "checkpoint_steps=2",
            "batch_size=16",
            "trackers=()",
            "jit_compile=False",
            "model.arguments.num_layers=1",
        ],
    )
    families = {"small": config}
    arguments = families, str(workdir), (0.1, 0.2, 0.5, 1.0)
    return arguments, study(*arguments)


@pytest.mark.slow
def test_a_study(finished):
    _, results = finished
    assert results["laws"]["compute"] == (
        "1 different points; a power law needs 4 or more: add steps or networks."
    )
    assert [point["steps"] for point in results["points"]] == [4] * 4
    assert all(0 < point["error"] < 1 < point["loss"] for point in results["points"])


@pytest.mark.slow
def test_a_finished_study_trains_nothing(finished, monkeypatch):
    arguments, results = finished
    monkeypatch.setattr("keras_vit.training.runs.train", None)
    assert study(*arguments) == results


def test_a_study_names_a_run_that_diverges(tmp_path, monkeypatch):
    def train(config, workdir):
        pathlib.Path(workdir).mkdir(parents=True)
        if config.data.fraction == 0.5:
            raise runs.Diverged("The loss is inf at step 3: training stopped. Images")
        return {"val_accuracy": 0.5, "last": {"step": 4, "val_loss": 1.0}}

    monkeypatch.setattr(runs, "train", train)
    arguments = ["digits_vit", "--workdir", str(tmp_path), "--fractions", "0.5,1"]
    expected = r"^error: 1 of 2 runs in .*digits_vit failed\. fraction=0\.5,seed=0: The"
    with pytest.raises(SystemExit, match=expected):
        run_command("scaling", arguments)
    rows = json.loads((tmp_path / "digits_vit" / "sweep.json").read_text())
    assert [row["run"] for row in rows] == ["fraction=1.0,seed=0", "fraction=0.5,seed=0"]


def test_names_of_networks(tmp_path):
    config = configs.load("digits_vit")
    with pytest.raises(ValueError, match="cannot be called 'compute'"):
        study({"compute": config}, str(tmp_path), (1.0,))
    arguments = ["digits_vit", "digits_vit", "--workdir", str(tmp_path)]
    with pytest.raises(SystemExit, match="'digits_vit' is taken"):
        run_command("scaling", arguments)
    assert not list(tmp_path.iterdir())


def test_the_lowest_loss_of_several_seeds_counts(monkeypatch):
    monkeypatch.setattr(scaling, "fit", lambda x, y: (x, y))
    losses = {(1, 0): 9, (1, 1): 8, (2, 0): 9, (2, 1): 7, (3, 0): 5, (3, 1): 6, (4, 0): 4}
    points = [
        {"steps": steps, "operations_per_step": 1, "images": 10, "loss": loss}
        for (steps, _), loss in losses.items()
    ]
    for order in (points, points[::-1]):
        assert scaling._law_of_compute(order) == ([1, 2, 3, 4], [8, 7, 5, 4])


def test_durations_need_an_interval(tmp_path):
    with pytest.raises(ValueError, match="digits_vit evaluates after every epoch"):
        study({"digits_vit": configs.load("digits_vit")}, str(tmp_path), (1.0,), (10, 20))
    assert not list(tmp_path.iterdir())


def test_durations_are_multiples_of_the_interval(tmp_path):
    config = configs.override(configs.load("digits_vit"), ["checkpoint_steps=20"])
    with pytest.raises(ValueError, match="every 20 steps, so a run cannot have 30 steps"):
        study({"vit": config}, str(tmp_path), (1.0,), (20, 30))
    assert not list(tmp_path.iterdir())


def test_studies_of_other_objectives(tmp_path):
    with pytest.raises(ValueError, match="digits_mae has objective='mae'"):
        study({"digits_mae": configs.load("digits_mae")}, str(tmp_path), (1.0,))
    assert not list(tmp_path.iterdir())
