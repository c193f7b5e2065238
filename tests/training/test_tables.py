"""Tables of photos: one class, several classes or values for each image."""

import csv
import json
import shutil
import sys

import numpy as np
import pytest

import keras_vit
from keras_vit.data import open_source, split_off
from keras_vit.data.recognize import recognize
from keras_vit.evaluation import label_metrics
from keras_vit.export.head import Head
from keras_vit.training import class_weights, own_images, regression
from keras_vit.training import config as configs
from keras_vit.training.objectives.other_labels import MeanAveragePrecision
from tests.cases import array, perturb, random_images, tiny_vit
from tests.commands import run_command
from tests.training.photos import BRIGHTNESS, settings, write_checkpoint, write_photos

ROWS = {
    "single": lambda name, i: name,
    "multi": lambda name, i: ";".join([name, *(["first"] if i < 4 else [])]),
    # Far from 0, and of another magnitude than the weights.
    "regression": lambda name, i: f"{50_000 + BRIGHTNESS[name] * 100:.1f}",
}


def write_table(path, label, names=("cat", "dog"), header=("path", "label"), count=8):
    rows = [(f"{name}/{i}.jpg", label(name, i)) for name in names for i in range(count)]
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    write_photos(folder)
    write_checkpoint(folder / "tiny.keras")
    for kind, label in ROWS.items():
        write_table(folder / f"{kind}.csv", label)
    return folder


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize(
    "kind", [pytest.param("multi", marks=pytest.mark.slow), "regression"]
)
def test_every_kind_trains_evaluates_predicts_and_exports(kind, root, tmp_path, capsys):
    run = tmp_path / "run"
    arguments = [str(root / "tiny.keras"), "--data", str(root / f"{kind}.csv")]
    run_command("finetune", [*arguments, *settings("epochs=3"), "--workdir", str(run)])
    config = configs.load(str(run / "config.json"))
    assert config.data.labels == kind
    results = json.loads((run / "results.json").read_text())
    printed = capsys.readouterr().out
    metrics = {"multi": "mean_average_precision", "regression": "mean_absolute_error"}
    metric = metrics[kind]
    assert f"val_{metric}: " in printed

    run_command("evaluate", [str(run), "--workdir", str(tmp_path / "evaluation")])
    measured = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    assert measured["loss"] == pytest.approx(results["val_loss"], rel=1e-4)
    if kind != "multi":  # Keras approximates the average precision by thresholds.
        assert measured[metric] == pytest.approx(results[f"val_{metric}"], rel=1e-4)

    image = root / "cat" / "0.jpg"
    run_command(
        "predict", [str(run), str(image), "--workdir", str(tmp_path / "predicted")]
    )
    with open(tmp_path / "predicted" / "predictions.csv") as file:
        rows = list(csv.DictReader(file))
    names = {"multi": {"cat", "dog", "first"}, "regression": {"label"}}
    assert {row["name"] for row in rows} == names[kind]

    model = keras_vit.load_checkpoint(run / "best.keras")
    head = Head.of(model.get_config())
    assert head.output == ("logits" if kind == "regression" else "probabilities")
    if kind == "multi":
        assert model.get_config()["classifier_activation"] == "sigmoid"


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_model_of_values_learns_them(root, tmp_path):
    """The mean absolute error falls far below that of predicting the mean, 3,600."""
    arguments = [str(root / "tiny.keras"), "--data", str(root / "regression.csv")]
    more = ["epochs=200", "optimization.learning_rate=0.01", "checkpoint_steps=100"]
    arguments += [*settings(*more), "--workdir", str(tmp_path / "run")]
    run_command("finetune", arguments)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["val_mean_absolute_error"] < 1800
    assert results["val_r2"] > 0.5


@pytest.mark.any_backend
def test_kinds_that_are_guessed(root, tmp_path):
    for kind in ROWS:
        assert recognize(root / f"{kind}.csv").labels == kind
    write_photos(tmp_path)
    numbers = write_table(tmp_path / "numbers.csv", lambda name, i: i % 2)
    assert recognize(numbers).labels == "single"
    source = open_source(f"table:{numbers}")
    assert source.class_names == ("0", "1")
    assert source.class_counts == (8, 8)


@pytest.mark.any_backend
def test_columns_of_zeros_and_ones_and_of_splits(root):
    path = root / "columns.csv"
    parts = ["train", "train", "Valid", "testing"]
    lines = ["file,furry,small,split"]
    lines += [f"cat/{i}.jpg,1,{i % 2},{parts[i % 4]}" for i in range(8)]
    path.write_text("\n".join(lines))
    columns = {"path_column": "file", "label_column": "furry,small"}
    source = open_source(f"table:{path}:validation", labels="multi", **columns)
    assert source.class_names == ("furry", "small")
    np.testing.assert_array_equal(source.table["label"], [[1, 0], [1, 0]])
    assert [i.decode() for i in source.table["id"]] == ["cat/2.jpg", "cat/6.jpg"]
    with pytest.raises(ValueError, match="no column 'path', only 'file'"):
        recognize(path)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\ncat/0.jpg\n", "line 2 has 1 values, the header has 2"),
        ("path,label\ncat/0.jpg,\n", "line 2 has no label"),
        ("path,label\n,cat\n", "line 2 has no path"),
        ("path,label\n", "a header and no rows"),
        ("path,class\ncat/0.jpg,cat\n", "no column 'label'.*--label-column"),
        ("paths,label\ncat/0.jpg,cat\n", "Did you mean 'paths'"),
        ("path,label\ncat/99.jpg,cat\n", r"1 of 1 images .* missing \(cat/99\.jpg\)"),
        ("path,label\ncat/0.jpg,a\ncat/0.jpg,b\n", "line 3 lists cat/0.jpg again"),
        (
            "path,label,split\ncat/0.jpg,a,train\n./cat/0.jpg,a,val\n",
            r"line 3 lists \./cat/0.jpg again, after .*line 2",
        ),
        ("path,label\ncat/0.jpg,a\n{root}/cat/0.jpg,b\n", "line 3 lists .* again"),
        (
            "path,label\ncat/0.jpg,0.5\ncat/1.jpg,nan\n",
            "line 3 must have a finite number in the column 'label'; received 'nan'",
        ),
        ("path,label,split\ncat/0.jpg,a,later\n", "the split 'later'; it must be one of"),
        ("path,label\ncat/0.txt,cat\n", r"no images, only 1 \.txt file"),
    ],
)
def test_tables_with_errors(text, message, root):
    path = root / "wrong.csv"
    path.write_text(text.replace("{root}", str(root)))

    def opened():
        found = recognize(path)
        return open_source(found.train, labels=found.labels)

    with pytest.raises((ValueError, FileNotFoundError), match=message):
        opened()


@pytest.mark.any_backend
def test_labels_that_do_not_fit_their_kind(root):
    with pytest.raises(ValueError, match=r"line 2 must have a finite number .*'cat'"):
        open_source(f"table:{root / 'single.csv'}", labels="regression")
    with pytest.raises(ValueError, match=r"data\.labels must be one of 'single'"):
        open_source(f"table:{root / 'single.csv'}", labels="several")
    with pytest.raises(ValueError, match="is for tables"):
        open_source("digits", labels="multi")


@pytest.mark.any_backend
def test_parquet(root, monkeypatch):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = root / "table.parquet"
    columns = {"path": ["cat/0.jpg", "dog/0.jpg"], "label": [["a", "b"], ["b"]]}
    parquet.write_table(pyarrow.table(columns), path)
    assert recognize(path).labels == "multi"
    source = open_source(f"table:{path}", labels="multi")
    np.testing.assert_array_equal(source.table["label"], [[1, 1], [0, 1]])
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.delitem(sys.modules, "pyarrow.parquet")
    with pytest.raises(ImportError, match="pip install pyarrow"):
        recognize(path)


@pytest.mark.any_backend
@pytest.mark.parametrize("kind", ["multi", "regression"])
def test_splits_of_every_kind(kind, root):
    source = open_source(f"table:{root / f'{kind}.csv'}", labels=kind)
    train, validation = split_off(source, "split:0.25")
    assert train.num_examples + validation.num_examples == 16
    for part in (train, validation):
        assert len(np.unique(part.table["label"][:, 0])) == 2


@pytest.mark.any_backend
def test_balanced_weights(tmp_path):
    write_photos(tmp_path, ("cat",), 6)
    write_photos(tmp_path, ("dog",), 2)
    source = open_source(f"folder:{tmp_path}")
    weights = class_weights.balanced(source)
    np.testing.assert_allclose(weights, [8 / 12, 2])
    assert np.dot(weights, source.class_counts) == pytest.approx(8)
    base = configs.load("digits_vit")
    for changed, message in (
        (["data.class_weights=even"], "must be None or 'balanced'"),
        (["data.sampling=even"], "must be None or 'balanced'"),
        (["data.class_weights=balanced", "data.sampling=balanced"], "both 'balanced'"),
        (["data.class_weights=balanced", "objective=mae"], "requires objective="),
    ):
        with pytest.raises(ValueError, match=message):
            class_weights.check(configs.override(base, changed), source)


def test_mean_average_precision_while_training():
    """Classes that do not occur are left out, and small probabilities told apart."""
    generator = np.random.default_rng(0)
    logits = generator.normal(size=(60, 3)).astype("float32")
    labels = (generator.random((60, 3)) < 0.3).astype("float32")

    def measured(logits, labels):
        metric = MeanAveragePrecision(labels.shape[1])
        metric.update_state(labels, logits)
        return float(metric.result())

    expected = label_metrics.multi_label(logits, labels)["mean_average_precision"]
    assert measured(logits, labels) == pytest.approx(expected, abs=0.03)
    assert measured(logits - 8, labels) == pytest.approx(expected, abs=0.04)
    labels[:, 1] = 0
    others = measured(logits[:, ::2], labels[:, ::2])
    assert measured(logits, labels) == pytest.approx(others, rel=1e-6)
    assert measured(logits, np.zeros_like(labels)) == 0.0


@pytest.mark.any_backend
def test_metrics_equal_those_of_scikit_learn():
    from sklearn import metrics

    generator = np.random.default_rng(0)
    logits = generator.normal(size=(50, 3)).round(1)  # With ties.
    labels = (generator.random((50, 3)) < 0.3).astype("float32")
    found = label_metrics.multi_label(logits, labels)
    expected = metrics.average_precision_score(labels, logits, average=None)
    np.testing.assert_allclose(found["average_precision"], expected)
    f1 = metrics.f1_score(labels, logits > 0, average="macro")
    assert found["macro_f1"] == pytest.approx(f1)
    values = generator.normal(size=(50, 3))
    errors = label_metrics.regression(values, logits)
    assert errors["r2"] == pytest.approx(metrics.r2_score(logits, values))


@pytest.mark.slow
def test_class_weights_train(root, tmp_path):
    images, losses = tmp_path / "images", []
    for name, count in (("cat", 8), ("dog", 3)):  # Of equal classes, all weights are 1.
        (images / name).mkdir(parents=True)
        for path in sorted((root / name).iterdir())[:count]:
            shutil.copy(path, images / name)
    for weights in ("None", "balanced"):
        run = tmp_path / weights
        words = [str(root / "tiny.keras"), "--data", str(images), "--workdir", str(run)]
        changes = [f"data.class_weights={weights}", "optimization.learning_rate=0.03"]
        more = settings(*changes, "epochs=4")
        run_command("finetune", [*words, *more])
        model = keras_vit.load_checkpoint(run / "last.keras")
        assert all(np.isfinite(array(weight)).all() for weight in model.weights)
        *_, last = csv.DictReader((run / "log.csv").open())
        losses.append(float(last["loss"]))
    assert losses[0] != pytest.approx(losses[1], rel=1e-3)


@pytest.mark.any_backend
def test_a_regression_that_is_repeated_keeps_the_settings_of_its_run(root, tmp_path):
    """The config of a run has the scale of its values; that of a command has not."""
    base = own_images.base_config(str(root / "tiny.keras"))
    first = own_images.prepare(base, root / "regression.csv", ["batch_size=3"])
    config = regression.with_scale(first.config, first.sources)
    (tmp_path / "config.json").write_text(json.dumps(configs.to_dict(config)))
    (tmp_path / "state.npz").touch()
    again = own_images.prepare(base, root / "regression.csv", workdir=tmp_path)
    assert again.config.batch_size == 3


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "scale", ["((40.0, 9.0),)", "((0.0, 0.0),)", "((0.0, 1.0), (0.0, 1.0))"]
)
def test_a_scale_of_other_values_is_refused(scale, root):
    base = own_images.base_config(str(root / "tiny.keras"))
    table = root / "regression.csv"
    with pytest.raises(ValueError, match=r"does not fit the values.*data\.scale=None"):
        own_images.prepare(base, table, [f"data.scale={scale}"])


@pytest.mark.any_backend
def test_a_run_leaves_only_its_way_of_reading_to_other_images(root, tmp_path):
    belongs = ["scale=((40.0, 9.0),)", "fraction=0.5", "repeats=2", "unreadable=skip"]
    belongs += ["labels=regression", "train=table:ages.csv"]
    reads = ["exif=False", "label_column=label", "data_dir=sets"]
    changes = [f"data.{setting}" for setting in (*belongs, *reads)]
    config = configs.override(configs.load("digits_vit"), changes)
    (tmp_path / "config.json").write_text(json.dumps(configs.to_dict(config)))
    (tmp_path / "environment.json").write_text("{}")
    shutil.copy(root / "tiny.keras", tmp_path / "best.keras")
    base = own_images.base_config(str(tmp_path))
    # Without --data, it trains on the images of the run, whose scale it computes.
    kept = configs.override(config, ["data.scale=None"])
    assert configs.to_dict(base)["data"] == configs.to_dict(kept)["data"]
    data = own_images.prepare(base, root / "regression.csv").config.data
    assert (data.scale, data.fraction, data.repeats) == (None, 1.0, 1)
    assert (data.unreadable, data.exif, data.data_dir) == ("error", False, "sets")
    chosen = ["data.fraction=0.5", "data.scale=((55_000.0, 3_000.0),)"]
    data = own_images.prepare(base, root / "regression.csv", chosen).config.data
    assert (data.scale, data.fraction) == (((55_000.0, 3_000.0),), 0.5)
    # A config that a user names keeps its settings.
    config = configs.override(config, chosen)
    data = own_images.prepare(config, root / "regression.csv", suggest=False).config.data
    assert (data.scale, data.fraction) == (((55_000.0, 3_000.0),), 0.5)


@pytest.mark.any_backend
def test_heads_return_values_in_their_own_units():
    scale = [(40_000.0, 900.0), (-3.0, 0.01)]
    model = tiny_vit(classes=2, classifier_activation=None, distillation_token=True)
    images = random_images(perturb(model))
    standardized = array(model(images))
    regression.in_own_units(model, scale)
    expected = standardized * [900.0, 0.01] + [40_000.0, -3.0]
    np.testing.assert_allclose(array(model(images)), expected, rtol=1e-6)
    regression.standardized(model, scale)
    np.testing.assert_allclose(array(model(images)), standardized, atol=1e-4)
