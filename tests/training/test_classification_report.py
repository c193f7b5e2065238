"""Report on a classifier: its figures, its page, and the commands that write it."""

import csv
import json
import os
import pathlib
from unittest import mock

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit import callbacks
from keras_vit.evaluation import classified, contact_sheet, report, report_sections
from keras_vit.evaluation.classification_figures import (
    confused_pairs,
    figures,
    wilson_interval,
)
from keras_vit.evaluation.classified import Collector
from keras_vit.training import config as configs
from tests.cases import mostly_slow, perturb, tiny_bit, tiny_vit
from tests.commands import run_command

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]
pytest.importorskip("matplotlib", reason="reports need matplotlib")
metrics = pytest.importorskip("sklearn.metrics", reason="reports need scikit-learn")
Image = pytest.importorskip("PIL.Image", reason="reports need Pillow")


def rows_of(path):
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def column(rows, name, kind=float):
    return np.array([kind(row[name]) for row in rows])


def collected(classes, activation="softmax", images=400, turn=slice(None)):
    """Return predictions that are right in about half of the images.

    `turn` selects the images of one of several processes.
    """
    generator = np.random.default_rng(0)
    # The last class has no images.
    labels = generator.integers(0, classes - 1, images)
    logits = generator.normal(size=(images, classes)) * 2
    logits[np.arange(images), labels] += 4 * generator.random(images)
    names = [f"class {number}, <&>" for number in range(classes)]
    collector = Collector(names, activation, kept=7)
    inputs = np.broadcast_to(np.arange(images)[:, None, None, None], (images, 2, 2, 1))
    numbers = np.arange(images)[turn]
    for start in range(0, len(numbers), 150):
        part = numbers[start : start + 150]
        ids = [f"image {number}" for number in part]
        collector.add(logits[part], labels[part], ids, inputs[part])
    return collector.predictions(), logits


def test_processes_that_read_in_turn_find_what_one_does(monkeypatch):
    expected, _ = collected(6)
    parts = []

    def from_all(value):
        parts.append(value)
        return parts

    # The last process gets the parts of all three; 400 images are 134, 133 and 133.
    monkeypatch.setattr(classified, "parts_of_all", from_all)
    for index in range(3):
        found, _ = collected(6, turn=slice(index, None, 3))
    assert found.ids == expected.ids
    for name in ("labels", "predicted", "losses", "ranks", "probabilities", "hardest"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.inputs, expected.inputs)


@pytest.mark.parametrize(
    ("classes", "activation"), [(6, "softmax"), (6, "sigmoid"), (130, "softmax")]
)
def test_the_figures_are_those_of_scikit_learn_for_the_file(
    classes, activation, tmp_path
):
    found, logits = collected(classes, activation)
    found.write(tmp_path / "predictions.csv")
    rows = rows_of(tmp_path / "predictions.csv")
    labels, predicted = column(rows, "label", str), column(rows, "prediction", str)
    names = list(found.class_names)
    measured = figures(found)
    assert measured.images == len(rows) == 400
    assert 0.05 < measured.accuracy < 0.9
    assert measured.accuracy == metrics.accuracy_score(labels, predicted)
    expected = metrics.precision_recall_fscore_support(
        labels, predicted, labels=names, zero_division=0
    )
    ours = (measured.precision, measured.recall, measured.f1, measured.support)
    np.testing.assert_array_equal(ours, expected)
    assert measured.loss == pytest.approx(column(rows, "loss").mean(), abs=1e-12)
    top5 = metrics.top_k_accuracy_score(
        column(rows, "label_index", int), logits, k=5, labels=np.arange(classes)
    )
    assert measured.top5 == top5

    confidence, correct = column(rows, "probability"), labels == predicted
    calibration_curve = pytest.importorskip("sklearn.calibration").calibration_curve
    accuracy, mean = calibration_curve(correct, confidence, n_bins=15)
    np.testing.assert_allclose(measured.calibration.accuracy, accuracy)
    np.testing.assert_allclose(measured.calibration.confidence, mean)
    gaps = measured.calibration.counts * np.abs(accuracy - mean)
    assert measured.calibration.error == pytest.approx(gaps.sum() / 400)

    matrix = metrics.confusion_matrix(labels, predicted, labels=names)
    np.fill_diagonal(matrix, 0)
    pairs = confused_pairs(found, 5)
    assert [count for *_, count in pairs] == sorted(matrix.ravel().tolist())[:-6:-1]
    assert all(matrix[label, other] == count for label, other, count in pairs)


def test_the_file_has_the_probabilities_of_the_classes(tmp_path):
    found, logits = collected(6)
    found.write(tmp_path / "few.csv")
    rows = rows_of(tmp_path / "few.csv")
    columns = [column(rows, f"probability of {name}") for name in found.class_names]
    written = np.stack(columns, axis=1).astype("float32")
    np.testing.assert_array_equal(written, found.probabilities)
    exact = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(written, exact, rtol=1e-6)
    wanted = metrics.log_loss(column(rows, "label_index", int), written, labels=range(6))
    assert figures(found).loss == pytest.approx(wanted, rel=1e-5)

    found, logits = collected(130)
    found.write(tmp_path / "many.csv")
    rows = rows_of(tmp_path / "many.csv")
    best = np.argsort(-logits, axis=1)
    for place in (1, 5):
        named = [found.class_names[number] for number in best[:, place - 1]]
        assert [row[f"class_{place}"] for row in rows] == named
    assert "class_6" not in rows[0]


def test_the_inputs_with_the_highest_losses_are_kept():
    found, _ = collected(6)
    np.testing.assert_array_equal(found.hardest, np.argsort(-found.losses)[:7])
    np.testing.assert_array_equal(found.inputs[:, 0, 0, 0], found.hardest)
    assert found.inputs.base is None or found.inputs.base.size < 100


@pytest.mark.parametrize(("successes", "trials"), [(0, 5), (5, 5), (350, 360), (1, 2)])
def test_the_interval_is_wilsons(successes, trials):
    stats = pytest.importorskip("scipy.stats")
    exact = stats.binomtest(successes, trials).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson_interval(successes, trials), exact, atol=1e-12)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    keras.utils.set_random_seed(0)
    names = [f"class {number}" for number in range(10)]
    sizes = {"input_shape": (8, 8, 1), "patch_size": 4, "classes": 10}
    path = tmp_path_factory.mktemp("checkpoint") / "model.keras"
    perturb(tiny_vit(**sizes, class_names=names)).save(path)
    return str(path)


@pytest.fixture(scope="module")
def evaluated(checkpoint, tmp_path_factory):
    """Evaluate a model on a folder with an unreadable image, and write the report."""
    folder = tmp_path_factory.mktemp("data") / "it's a folder"
    generator = np.random.default_rng(0)
    for number in range(10):
        (folder / f"class {number}").mkdir(parents=True)
        for name in ("a", "b & c", "z"):
            pixels = generator.integers(0, 256, (9, 12), "uint8")
            Image.fromarray(pixels).save(folder / f"class {number}" / f"{name}.png")
    (folder / "class 3" / "b & c.png").write_bytes(b"no image")
    workdir = tmp_path_factory.mktemp("evaluated")
    data = [f"data.test=folder:{folder}", "data.unreadable=skip", "batch_size=8"]
    options = [word for setting in data for word in ("--set", setting)]
    run_command("evaluate", [checkpoint, *options, "--report", "--workdir", str(workdir)])
    return workdir


def test_the_report_of_a_checkpoint(evaluated):
    results = json.loads((evaluated / "evaluation.json").read_text())
    rows = rows_of(evaluated / "predictions.csv")
    assert len(rows) == results["images"] == 29
    assert {row["image"].split("/")[0] for row in rows} == {row["label"] for row in rows}
    assert "class 3/b & c.png" not in {row["image"] for row in rows}
    correct = column(rows, "label", str) == column(rows, "prediction", str)
    assert results["accuracy"] == correct.mean()
    assert results["loss"] == pytest.approx(column(rows, "loss").mean())
    page = (evaluated / "report.html").read_text(encoding="utf-8")
    assert f"{correct.mean():.2%}" in page
    assert "<td>1, left out</td>" in page
    assert "Relevance: attention weighted" in page
    assert "b &amp; c.png" in page
    assert "keras-vit report " in page


def test_a_checkpoint_needs_a_directory(checkpoint):
    with pytest.raises(SystemExit, match="is not the best model of a run; add --workdir"):
        run_command("evaluate", [checkpoint, "--report"])


def test_a_failure_leaves_the_results(monkeypatch, tmp_path, capsys):
    config = configs.load("digits_vit")
    sources = {"validation": keras_vit.data.open_source("digits:validation")}
    assert not report.write_run_report(tmp_path / "a b", config, sources)
    printed = capsys.readouterr().out
    assert "warning: the report was not written (" in printed
    assert f"keras-vit evaluate '{tmp_path}/a b' --report" in printed
    config = configs.load("digits_mae")
    assert not report.write_run_report(tmp_path, config, sources)
    assert "no report: there is none for objective='mae'" in capsys.readouterr().out


def test_a_report_needs_no_teacher(monkeypatch, tmp_path):
    """A warm start is that of the training, and best.keras is trained."""
    seen = []
    monkeypatch.setattr(
        report.accuracy, "classifier_of", lambda config, source: seen.append(config)
    )
    config = configs.override(
        configs.load("digits_vit"), ["distillation.warm_start=True"]
    )
    sources = {"validation": keras_vit.data.open_source("digits:validation")}
    report.write_run_report(tmp_path, config, sources)
    assert seen[0].distillation == configs.Distillation()


def test_paths_are_words_of_a_shell():
    assert report.quoted("runs/it's") == "'runs/it'\"'\"'s'"
    assert report.quoted("-run") == "./-run"


def test_the_page_in_a_browser(evaluated, browser):
    context = browser.new_context(viewport={"width": 420, "height": 800})
    page = context.new_page()
    problems, requests = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and problems.append(m.text))
    page.on("request", lambda request: requests.append(request.url))
    page.goto((evaluated / "report.html").as_uri())
    grounds = {}
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        ground = "getComputedStyle(document.body).backgroundColor"
        grounds[scheme] = page.evaluate(ground)
    assert grounds == {"light": "rgb(255, 255, 255)", "dark": "rgb(22, 22, 22)"}
    assert problems == []
    assert [url for url in requests if not url.startswith("data:")] == requests[:1]
    pictures = "images => images.map((i) => [i.naturalWidth > 0, i.alt != ''])"
    found = page.eval_on_selector_all("img", pictures)
    assert len(found) == 24 + 3 * 6
    assert all(map(all, found))
    svgs = "svgs => svgs.every((s) => s.parentElement.getAttribute('aria-label'))"
    assert page.eval_on_selector_all("svg", svgs)
    # Wide tables scroll by themselves.
    assert page.evaluate("document.documentElement.scrollWidth") <= 420

    rows = rows_of(evaluated / "predictions.csv")
    labels, predicted = column(rows, "label", str), column(rows, "prediction", str)
    matrix = metrics.confusion_matrix(labels, predicted)
    cells = page.locator("table.matrix tbody td, table.matrix tr td[class]")
    shown = [int(text or 0) for text in cells.all_inner_texts()]
    np.testing.assert_array_equal(np.reshape(shown, (10, 10)), matrix)
    wanted = metrics.f1_score(labels, predicted, average=None, zero_division=0)
    body = page.inner_text("h2:has-text('Classes') ~ .scroll")
    table = [line.split("\t") for line in body.splitlines()]
    assert [row[3] for row in table[1:11]] == [f"{value:.4f}" for value in wanted]
    code = page.locator(".command code").first.inner_text()
    assert code.startswith("keras-vit predict ")
    assert "it'\"'\"'s a folder' --workdir predictions" in code


def classifier(*layers):
    return keras.Sequential([keras.Input((4, 4, 2)), keras.layers.Flatten(), *layers])


@pytest.fixture
def examples():
    images = np.random.default_rng(0).random((30, 4, 4, 2)).astype("float32")
    return images, np.arange(30) % 3


@pytest.mark.parametrize(
    "kind", mostly_slow(["arrays", "one-hot", "dataset", "binary"], "one-hot")
)
def test_the_callback_with_another_model(kind, examples, tmp_path, tensorflow):
    images, labels = examples
    loss, units, last = "sparse_categorical_crossentropy", 3, "softmax"
    data = (images, labels)
    if kind == "one-hot":
        data, loss = (images, np.eye(3)[labels]), "categorical_crossentropy"
    elif kind == "dataset":
        data = tensorflow.data.Dataset.from_tensor_slices(data).batch(7)
        last = None
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    elif kind == "binary":
        labels = labels % 2
        data, loss, units, last = (images, labels), "binary_crossentropy", 1, "sigmoid"
    model = classifier(keras.layers.Dense(units, last))
    callback = keras_vit.callbacks.Report(
        data, tmp_path / "new" / "page.html", "abc"[: max(units, 2)], last is None
    )
    model.compile("sgd", loss)
    arguments = {} if kind == "dataset" else {"y": data[1]}
    x = data if kind == "dataset" else images
    model.fit(x, **arguments, validation_data=data, callbacks=[callback], verbose=0)
    rows = rows_of(tmp_path / "new" / "page.csv")
    assert [int(row["image"]) for row in rows] == list(range(30))
    assert column(rows, "label_index", int).tolist() == labels.tolist()
    wanted = model.evaluate(data if kind == "dataset" else images, **arguments, verbose=0)
    assert column(rows, "loss").mean() == pytest.approx(wanted, rel=1e-4)
    page = (tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    assert "Learning curves" in page
    assert "Not shown: the model has no attention." in page


def test_the_callback_leaves_padding_out(examples, tmp_path):
    images, labels = examples
    model = classifier(keras.layers.Dense(3, "softmax"))
    weights = (np.arange(30) < 25).astype("float32")
    batches = [
        (images[i : i + 10], labels[i : i + 10], weights[i : i + 10])
        for i in range(0, 30, 10)
    ]
    callback = keras_vit.callbacks.Report(batches, tmp_path / "page.html")
    callback.set_model(model)
    callback.write()
    rows = rows_of(tmp_path / "page.csv")
    assert column(rows, "label_index", int).tolist() == labels[:25].tolist()


def test_an_activation_is_that_of_all_batches():
    """Rows of sigmoids that happen to add up to 1 are no softmax."""
    sigmoid = classifier(keras.layers.Dense(2, activation="sigmoid"))
    assert callbacks._activation(sigmoid) == "sigmoid"
    outputs = np.array([[0.99, 0.01]])
    logits, activation = callbacks._logits(outputs, False, "sigmoid")
    assert activation == "sigmoid"
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), outputs, rtol=1e-6)
    assert callbacks._logits(outputs, False, None)[1] == "softmax"


def test_outputs_that_are_no_numbers_are_refused():
    collector = Collector(["a", "b"], "softmax")
    logits, inputs = np.array([[0.0, 1.0], [np.nan, 0.0]]), np.zeros((2, 1, 1, 1))
    with pytest.raises(ValueError, match="NaN for the image second: its training"):
        collector.add(logits, np.zeros(2, int), ["first", "second"], inputs)


def test_curves_of_every_second_epoch():
    times = report_sections._times(np.arange(1, 11), 5)
    assert times.tolist() == [2, 4, 6, 8, 10]
    assert report_sections._times(np.arange(1, 11), 10).tolist() == [*range(1, 11)]


def test_a_callback_that_cannot_write_warns(examples, tmp_path):
    images, labels = examples
    model = classifier(keras.layers.Dense(3))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for arguments, reason in (
        (
            {"class_names": ["a"], "from_logits": True},
            "class_names has 1 names; the model has 3 classes",
        ),
        ({"class_names": "abc"}, "no probabilities: pass from_logits=True"),
    ):
        path = tmp_path / "page.html"
        callback = keras_vit.callbacks.Report(examples, path, **arguments)
        with pytest.warns(UserWarning, match=reason):
            model.fit(images, labels, callbacks=[callback], verbose=0)
        assert not path.exists()
    with pytest.raises(ValueError, match="30 images and 29 labels"):
        keras_vit.callbacks.Report((images, labels[1:]))


@pytest.mark.any_backend
def test_the_next_commands_of_an_export_and_of_a_network_without_attention():
    source = mock.Mock()
    source.name = "folder:~/photos"
    (only,) = report._commands("model.onnx", object(), source).values()
    assert only.startswith("keras-vit evaluate model.onnx ")
    commands = report._commands("runs/x", tiny_bit(), source)
    assert not any("keras-vit report" in command for command in commands.values())
    assert str(pathlib.Path.home() / "photos") in next(iter(commands.values()))


@pytest.mark.any_backend
def test_paths_that_are_not_utf_8(tmp_path):
    path = pathlib.Path(os.fsdecode(b"caf\xe9.jpg"))
    contact_sheet.write_table([contact_sheet.Entry(path, error="x")], tmp_path / "t.csv")
    assert "caf\\udce9.jpg" in (tmp_path / "t.csv").read_text(encoding="utf-8")
