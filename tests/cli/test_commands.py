"""Commands for fine-tuning, evaluation, prediction, probing and sweeps."""

import csv
import dataclasses
import json
import pathlib
import shutil

import keras
import numpy as np
import pytest
from PIL import Image

import keras_vit
from keras_vit.cli import command_line
from keras_vit.data import sources
from keras_vit.data.host import tensorflow
from keras_vit.evaluation import accuracy, linear_probe
from keras_vit.training import config as configs
from keras_vit.training import image_sets, runs, sweep
from tests.cases import array, perturb, tiny_vit
from tests.commands import run_command
from tests.export.serving import exports_here

TINY = [
    "epochs=2",
    "batch_size=64",
    "jit_compile=False",  # XLA takes seconds to compile each model under TensorFlow.
    "optimization.learning_rate=3e-3",
    "augmentation.pad_and_crop=0",
    "model.arguments.input_shape=(8, 8, 1)",
    "model.arguments.patch_size=2",
    "model.arguments.hidden_dim=32",
    "model.arguments.mlp_dim=48",
    "model.arguments.num_layers=1",
    "model.arguments.pooling=gap",
]

SHORT = ["epochs=1", "jit_compile=False"]


def tiny(*settings):
    return configs.override(configs.load("digits_vit"), [*TINY, *settings])


def set_options(*settings):
    return [word for setting in settings for word in ("--set", setting)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    directory = tmp_path_factory.mktemp("tiny") / "run"
    runs.train(tiny(), directory)
    return directory


@pytest.mark.any_backend
def test_a_checkpoint_without_a_classifier(tmp_path):
    path, image = tmp_path / "model.keras", tmp_path / "image.png"
    tiny_vit(include_top=False).save(path)
    image.write_bytes(array(tensorflow().io.encode_png(np.zeros((8, 8, 3), "uint8"))))
    for command, arguments in (
        ("predict", [str(image)]),
        ("evaluate", ["--set", "data.test=digits:test"]),
    ):
        with pytest.raises(SystemExit, match=r"no classifier, only features.*vit probe"):
            run_command(command, [str(path), *arguments])


@pytest.mark.any_backend
def test_evaluate(run, tmp_path, capsys):
    run_command("evaluate", [str(run), "--workdir", str(tmp_path / "evaluation")])
    found = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    model = keras_vit.load_checkpoint(run / "best.keras")
    images, labels, _ = sources.digits()["test"]
    probabilities = model.predict(np.asarray(model.preprocessor(images)), verbose=0)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, atol=1e-5)
    logits = np.log(probabilities)
    assert found["images"] == 360
    assert found["accuracy"] == pytest.approx(np.mean(logits.argmax(1) == labels))
    first_five = np.argsort(-logits, axis=1)[:, :5]
    top5 = np.mean((first_five == labels[:, None]).any(1))
    assert found["top5"] == pytest.approx(top5)
    exact = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    assert found["loss"] == pytest.approx(float(exact(labels, logits)), rel=1e-4)
    assert (tmp_path / "evaluation" / "confusion.png").stat().st_size > 1000
    assert "360 (0 unreadable)" in capsys.readouterr().out


@pytest.mark.any_backend  # Exports do not depend on the backend that trained.
@pytest.mark.parametrize(
    ("file_format", "name", "package"),
    [
        pytest.param("saved_model", "served", "tensorflow", marks=pytest.mark.slow),
        ("onnx", "digits.onnx", "tf2onnx"),
        pytest.param("litert", "digits.tflite", "ai_edge_litert", marks=pytest.mark.slow),
    ],
)
def test_evaluate_an_export(file_format, name, package, run, tmp_path):
    pytest.importorskip(package, reason="writes the export")
    path = str(tmp_path / name)
    labels = [f"n{i}" for i in range(10)]
    write = getattr(keras_vit.export, file_format)
    with exports_here():
        write(run / "best.keras", path, verbose=False, labels=labels)
    config = command_line.config_of(path, command_line.UNSPECIFIED)
    config = configs.override(config, ["data.test=digits:test", "batch_size=64"])
    with pytest.raises(ValueError, match=r"only .* has 'n0'.*class_names=None"):
        accuracy.evaluate(config)
    config = configs.override(config, ["model.arguments.class_names=None"])
    exact = accuracy.evaluate(command_line.config_of(str(run), command_line.UNSPECIFIED))
    served = accuracy.evaluate(config)
    assert served["confusion"] == exact["confusion"]
    assert served["loss"] == pytest.approx(exact["loss"], rel=1e-4)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits_vit"], "config without model.weights"),
        (["nowhere"], "No config is called 'nowhere'"),
        (["somewhere/best.keras"], "has no test images"),
        (
            ["somewhere/best.keras", "--set", "data.test=digits:test"],
            "somewhere/best.keras",
        ),
    ],
)
def test_nothing_to_evaluate(arguments, message):
    with pytest.raises(SystemExit, match=message):
        run_command("evaluate", arguments)


@pytest.mark.any_backend
def test_other_classes(run, tmp_path):
    for name in ("cats", "dogs"):
        (tmp_path / name).mkdir()
        Image.new("L", (8, 8)).save(tmp_path / name / "one.png")
    settings = set_options(f"data.test=folder:{tmp_path}")
    with pytest.raises(SystemExit, match="are not those of"):
        run_command("evaluate", [str(run), *settings])


@pytest.mark.any_backend
def test_list(capsys):
    run_command("list", ["deit_distilled"])
    assert "vit_b16.deit_distilled_in1k_384" in capsys.readouterr().out


@pytest.mark.any_backend
def test_published_accuracies():
    name = next(
        name for name, row in keras_vit.checkpoints().items() if row.imagenet_top1
    )
    row = keras_vit.checkpoints()[name]
    assert f"{row.imagenet_top1:.2f} %" in accuracy.published_accuracy(name)
    assert accuracy.published_accuracy("mine.keras") is None


@pytest.mark.any_backend
def test_predict(run, tmp_path, capsys):
    images = sources.digits()["test"][0][:3].round()
    folder = tmp_path / "photographs"
    folder.mkdir()
    tf = tensorflow()
    for i in range(3):
        png = tf.io.encode_png(images[i].astype("uint8"))
        (folder / f"{i}.png").write_bytes(png.numpy())
    (folder / "broken.png").write_bytes(b"\x89PNG broken")
    with pytest.raises(SystemExit, match="1 of 4 images could not be read"):
        run_command(
            "predict", [str(run), str(folder), "--workdir", str(tmp_path), "--top", "2"]
        )
    printed = capsys.readouterr().out
    assert "broken.png\n  cannot be read: " in printed
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    assert [row["image"] for row in rows if row["error"]] == [f"{folder}/broken.png"]
    page = (tmp_path / "predictions.html").read_text(encoding="utf-8")
    assert page.count('src="data:image/png;base64,') == page.count("<img") == 3
    assert "broken.png</th>" in page
    rows = [row for row in rows if not row["error"]]
    assert len(rows) == 3 * 2
    model = keras_vit.load_checkpoint(run / "best.keras")
    probabilities = model.predict(np.asarray(model.preprocessor(images)), verbose=0)
    best = [int(row["class"]) for row in rows[::2]]
    assert best == probabilities.argmax(1).tolist()
    assert all(row["name"] == row["class"] for row in rows)
    scores = probabilities.max(1)
    np.testing.assert_allclose(
        [float(row["score"]) for row in rows[::2]], scores, atol=1e-5
    )
    with pytest.raises(SystemExit, match="No image at"):
        run_command("predict", [str(run), str(tmp_path / "none")])


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("classes", "activation"),
    [
        (3, "softmax"),
        pytest.param(3, "sigmoid", marks=pytest.mark.slow),
        pytest.param(1, "sigmoid", marks=pytest.mark.slow),
        (1, None),
    ],
)
def test_predictions_are_the_models_own_outputs(classes, activation, tmp_path, capsys):
    model = perturb(tiny_vit(classes=classes, classifier_activation=activation))
    model.save(tmp_path / "model.keras")
    pixels = np.random.default_rng(0).integers(0, 255, model.input_shape[1:], "uint8")
    (tmp_path / "a.png").write_bytes(tensorflow().io.encode_png(pixels).numpy())
    run_command(
        "predict",
        [
            str(tmp_path / "model.keras"),
            str(tmp_path / "a.png"),
            "--workdir",
            str(tmp_path),
        ],
    )
    rows = list(csv.DictReader((tmp_path / "predictions.csv").open()))
    scores = [float(row["score"]) for row in rows]
    wanted = array(model(model.preprocessor(pixels[None].astype("float32"))))[0]
    np.testing.assert_allclose(scores, -np.sort(-wanted), atol=1e-5)
    printed = capsys.readouterr().out
    if activation is None:
        assert "%" not in printed
        assert f"{wanted[0]:.4f}" in printed
    else:
        assert f"{wanted.max():.2%}" in printed


@pytest.mark.any_backend
def test_the_head_of_an_older_run(run, tmp_path):
    """Check a run of an older version, whose models output logits."""
    older = tmp_path / "run"
    shutil.copytree(run, older)
    model = keras_vit.load_checkpoint(run / "best.keras", classifier_activation=None)
    model.save(older / "best.keras")
    assert command_line.head_of(str(older)) == {"classifier_activation": "softmax"}
    assert command_line.head_of(str(older / "best.keras"))
    model.save(older / "mine.keras")
    assert command_line.head_of(str(older / "mine.keras")) == {}


@pytest.mark.slow
@pytest.mark.any_backend
def test_finetune_at_another_size(run, tmp_path):
    directory = tmp_path / "larger"
    run_command(
        "finetune",
        [
            str(run),
            "--workdir",
            str(directory),
            *set_options("model.arguments.input_shape=(12, 12, 1)", *SHORT),
        ],
    )
    config = configs.load(str(directory / "config.json"))
    assert config.optimization.optimizer == "sgd"
    assert config.data.train == "digits:train"
    model = keras_vit.load_checkpoint(directory / "last.keras")
    assert model.grid_shape == (6, 6)
    kernel = array(model.weights_by_path()["block_0/mlp/expand/kernel"])
    before = keras_vit.load_checkpoint(run / "best.keras")
    before = array(before.weights_by_path()["block_0/mlp/expand/kernel"])
    # Fine-tuning started from the weights of the run and changed them.
    assert 0 < np.abs(kernel - before).max() < 0.5 * np.abs(before).max()


@pytest.mark.any_backend
def test_finetune_needs_weights(tmp_path):
    with pytest.raises(SystemExit, match=r"set model\.weights=PATH"):
        run_command("finetune", ["digits_vit", "--workdir", str(tmp_path / "none")])
    assert not (tmp_path / "none").exists()


@pytest.mark.any_backend
def test_few():
    labels = np.array([0, 1, 0, 1, 1, 0, 1])
    chosen = linear_probe.few(labels, 2, seed=0)
    assert sorted(labels[chosen]) == [0, 0, 1, 1]
    assert len(set(chosen)) == 4
    with pytest.raises(ValueError, match="Class 0 has 3 images; 4"):
        linear_probe.few(labels, 4, seed=0)


@pytest.mark.slow
@pytest.mark.any_backend
def test_probe_of_trained_and_random_features(tmp_path):
    runs.train(tiny("epochs=4"), tmp_path / "trained")

    def probed(what, *settings):
        directory = tmp_path / what.replace("/", "_")
        run_command("probe", [what, "--workdir", str(directory), *set_options(*settings)])
        found = json.loads((directory / "linear_probe.json").read_text())
        return {name: found[name]["accuracy"] for name in ("5-shot", "10-shot", "all")}

    trained = probed(str(tmp_path / "trained"))
    random = probed("digits_vit", *TINY)
    assert trained["all"] > random["all"]
    assert trained["5-shot"] > random["5-shot"] > 0.2


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize(
    "objective",
    ["masked_patch_prediction", pytest.param("mae", marks=pytest.mark.slow)],
)
def test_pretraining_without_labels(objective, tmp_path):
    config = tiny(
        f"objective={objective}",
        "epochs=2",
        "masking.decoder_dim=16",
        "masking.decoder_layers=1",
        "masking.decoder_heads=2",
    )
    results = runs.train(config, tmp_path / "run")
    assert results["val_loss"] < results["loss"] * 1.5
    # The run saves the backbone, which can be fine-tuned.
    features = keras_vit.load_checkpoint(tmp_path / "run" / "last.keras")
    assert features.output_shape == (None, 32)
    if objective == "mae":
        return
    run_command(
        "finetune",
        [
            str(tmp_path / "run"),
            "--workdir",
            str(tmp_path / "tuned"),
            *set_options(*SHORT),
        ],
    )
    tuned = keras_vit.load_checkpoint(tmp_path / "tuned" / "last.keras")
    assert tuned.output_shape == (None, 10)


@pytest.mark.any_backend
def test_an_unknown_objective(tmp_path):
    with pytest.raises(ValueError, match="objective must be one of 'classification'"):
        runs.train(tiny("objective=guessing"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.any_backend
def test_sweep(tmp_path, capsys):
    arguments = ["digits_vit", "--workdir", str(tmp_path / "sweep")]
    arguments += ["--grid", "model.arguments.positions=none,learned", "--grid", "seed=0"]
    arguments += set_options(*TINY, "epochs=1")
    run_command("sweep", arguments)
    rows = json.loads((tmp_path / "sweep" / "sweep.json").read_text())
    assert {row["run"] for row in rows} == {
        "positions=none,seed=0",
        "positions=learned,seed=0",
    }
    assert rows[0]["val_accuracy"] >= rows[1]["val_accuracy"]
    marks = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("state.npz")}
    run_command("sweep", arguments)  # All runs are complete.
    assert marks == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("state.npz")}
    assert "positions=learned,seed=0" in capsys.readouterr().out
    with pytest.raises(SystemExit, match=r"seed=0 holds the run of another config .*0.5"):
        run_command("sweep", [*arguments, "--set", "augmentation.mixup=0.5"])
    run_command("sweep", [*arguments, "--set", "epochs=2"])  # Each run becomes longer.
    for path in tmp_path.rglob("log.csv"):
        assert len(path.read_text().splitlines()) == 3


@pytest.mark.any_backend
def test_a_sweep_returns_only_results_of_its_config(tmp_path, monkeypatch):
    trained = []

    def train(config, workdir):
        trained.append(config.seed)
        path = pathlib.Path(workdir)
        path.mkdir(parents=True)
        (path / "config.json").write_text(json.dumps(configs.to_dict(config)))
        (path / "state.npz").touch()
        (path / "results.json").write_text(json.dumps({"val_accuracy": config.seed / 9}))
        return json.loads((path / "results.json").read_text())

    monkeypatch.setattr(runs, "train", train)
    config, grid = tiny(), {"seed": [1, 2]}
    rows = sweep.sweep(config, grid, tmp_path)
    other = dataclasses.replace(config, about="Another description.", trackers=())
    assert sweep.sweep(other, grid, tmp_path) == rows
    changed = dataclasses.replace(config, batch_size=7)
    with pytest.raises(FileExistsError, match=r"batch_size: .* there, 7 here.*remove"):
        sweep.sweep(changed, {"seed": [3, 2]}, tmp_path)
    assert trained == [1, 2]


@pytest.mark.any_backend
def test_a_sweep_ranks_by_the_metric_of_its_objective(tmp_path, monkeypatch):
    def train(config, workdir):
        n = config.seed if config.seed else float("nan")
        return {"val_loss": n, "val_mean_average_precision": n, "val_accuracy": -n}

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(sweep, "_check_plans", lambda combined: None)
    for labels, best in (("multi", 3), ("single", 1)):
        config = configs.override(tiny(), [f"data.labels={labels}"])
        pathlib.Path(tmp_path, labels).mkdir()
        rows = sweep.sweep(config, {"seed": [2, 0, 3, 1]}, tmp_path / labels)
        assert rows[0]["run"] == f"seed={best}"
        assert rows[-1]["run"] == "seed=0"


@pytest.mark.any_backend
def test_a_run_that_diverges_does_not_end_its_sweep(tmp_path, monkeypatch, capsys):
    reason = "The loss is nan at step 3: training stopped. Images of the batch: a."

    def train(config, workdir):
        if config.seed != 2:
            raise runs.Diverged(reason)
        return {"val_accuracy": 0.5, "val_loss": 1.0}

    monkeypatch.setattr(runs, "train", train)
    arguments = ["digits_vit", "--workdir", str(tmp_path), "--grid"]
    run_command("sweep", [*arguments, "seed=1,2,3"])
    rows = json.loads((tmp_path / "sweep.json").read_text())
    assert [row["run"] for row in rows] == ["seed=2", "seed=1", "seed=3"]
    assert [row.get("failed") for row in rows] == [None, reason, reason]
    table = capsys.readouterr().out.splitlines()[-3:]
    assert table[0].split() == ["seed=2", "0.5000", "1.0000"]
    assert table[2] == "seed=3  failed: The loss is nan at step 3: training stopped"
    with pytest.raises(SystemExit, match=r"^error: 2 of 2 runs in .* seed=3: The loss"):
        run_command("sweep", [*arguments, "seed=1,3"])
    assert len(json.loads((tmp_path / "sweep.json").read_text())) == 2
    with pytest.raises(ValueError, match=r"1 of 2 runs in .* failed\. seed=1: The loss"):
        sweep.sweep(tiny(), {"seed": [1, 2]}, tmp_path)


@pytest.mark.any_backend
def test_a_sweep_with_values_that_cannot_be(tmp_path, monkeypatch):
    trained = []

    def train(config, workdir):
        trained.append(config.optimization.optimizer)
        if config.optimization.optimizer == "admw":
            raise ValueError("Unknown optimizer 'admw'.")
        return {"val_accuracy": 0.5, "val_loss": 1.0}

    monkeypatch.setattr(runs, "train", train)
    with pytest.raises(ValueError, match=r"batch_size=5000: .* is larger than the 1257"):
        sweep.sweep(tiny(), {"batch_size": [8, 5000]}, tmp_path)
    assert trained == []
    grid = {"optimization.optimizer": ["admw", "adamw"]}
    with pytest.raises(ValueError, match=r"1 of 2 runs .* Unknown optimizer 'admw'"):
        sweep.sweep(tiny(), grid, tmp_path)
    assert trained == ["admw", "adamw"]


@pytest.mark.any_backend
def test_a_command_ends_with_one_line_about_a_loss_that_diverges(tmp_path):
    wild = ["optimizer=sgd", "learning_rate=1e6", "clip_norm=None", "warmup_steps=0"]
    wild = [f"optimization.{setting}" for setting in wild]
    arguments = ["digits_vit", "--workdir", str(tmp_path / "run")]
    with pytest.raises(SystemExit, match=r"^The loss is .* checkpoint: none\.") as stop:
        run_command("pretrain", [*arguments, *set_options(*TINY, *wild)])
    assert isinstance(stop.value, runs.Diverged)
    assert stop.value.code.count("\n") == 0


@pytest.mark.any_backend
def test_grids():
    assert sweep.parse(["a.b=1,2", "c=x"]) == {"a.b": ["1", "2"], "c": ["x"]}
    with pytest.raises(ValueError, match="key=value,value"):
        sweep.parse(["seed"])
    with pytest.raises(ValueError, match="has no grid"):
        sweep.combinations(tiny(), {})
    found = sweep.combinations(tiny(), {"seed": [1, 2], "epochs": [3]})
    assert list(found) == ["seed=1,epochs=3", "seed=2,epochs=3"]
    assert [one.seed for one in found.values()] == [1, 2]


@pytest.mark.any_backend
def test_dry_run(tmp_path, capsys):
    run_command("pretrain", ["digits_vit", "--dry-run", *set_options(*TINY)])
    printed = capsys.readouterr().out
    config = tiny()
    model = runs.make_plan(config).objective.build()
    assert f"{model.count_params():,}" in printed
    assert "38 of 64 images" in printed
    for path in model.weights_by_path():
        assert path in printed
    assert "images/s" in printed
    with pytest.raises(SystemExit):
        run_command("pretrain", ["digits_vit"])
    assert "--workdir is required" in capsys.readouterr().err


@pytest.mark.any_backend
@pytest.mark.parametrize("name", ["predict", "neighbors", "robustness"])
def test_a_config_without_weights_is_refused(name, tmp_path):
    Image.new("L", (8, 8)).save(tmp_path / "one.png")
    images = [] if name == "robustness" else [str(tmp_path)]
    options = ["--workdir", str(tmp_path / "pages")] if name == "neighbors" else []
    with pytest.raises(
        SystemExit, match=r"digits_vit is a config without model\.weights"
    ):
        run_command(name, ["digits_vit", *images, *options])


@pytest.mark.any_backend
def test_only_the_parts_in_use_must_change_together():
    config, settings = configs.load("digits_vit"), ["data.train=folder:a"]
    config = configs.override(config, [*settings, "data.test=folder:b"])
    changed = [*settings, "data.test=folder:b"]
    image_sets.check_data(config, changed, ("train", "test"))
    with pytest.raises(ValueError, match=r"data\.validation is still"):
        image_sets.check_data(config, changed)
