"""Benchmark: alternation of the contestants, failures and reports."""

import importlib
import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import types

import keras
import numpy as np
import pytest

import keras_vit
from recipes.benchmark import contestants, flops, machine, original_t2t, report, runner
from recipes.benchmark.__main__ import argument_parser, chosen_options, main, titled
from recipes.benchmark.contestants import CONTESTANTS, Contestant
from recipes.benchmark.measurements import MEASUREMENTS
from recipes.benchmark.tasks import attention, features, files, on_device
from recipes.benchmark.torchvision_stub import install

pytestmark = pytest.mark.any_backend

BACKEND = keras.backend.backend()
TINY = ["--variant", "Ti16", "--batch", "1", "--repetitions", "1", "--image-size", "32"]
PLACES = ("", "-on-device")
SMALL = {
    "image_size": 32,
    "patch_size": 16,
    "hidden_dim": 64,
    "num_layers": 2,
    "num_heads": 1,
    "mlp_dim": 256,
}


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "recipes.benchmark", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )


@pytest.mark.slow
def test_inference_and_training(tmp_path):
    names = [f"{what}{where}" for what in ("inference", "training") for where in PLACES]
    result = run(
        *(*names, "--alternations", "2", *TINY),
        *("--contestants", f"keras_vit-{BACKEND}", "--out", str(tmp_path)),
    )
    assert result.returncode == 0, result.stderr
    for what in names:
        record = json.loads((tmp_path / f"{what}.json").read_text())
        (row,) = record["rows"]
        assert row["contestant"] == f"keras_vit-{BACKEND}"
        assert row["error"] is None
        assert len(row["values"]) == 2
        assert min(row["values"]) > 0
        assert (tmp_path / f"{what}.png").stat().st_size > 1000
        assert f"keras_vit-{BACKEND}" in (tmp_path / f"{what}.txt").read_text()


def test_batches_of_several_sizes():
    options = chosen_options(argument_parser(), ["--batch", "4", "16"])
    for what in ("inference", "training", "inference-on-device", "training-on-device"):
        cases = list(MEASUREMENTS[what](options))
        assert {case.parameters["batch"] for case in cases} == {4, 16}
        assert {case.group for case in cases} == {
            f"{variant}, 224 px, batch {n}" for variant in ("S16", "B16") for n in (4, 16)
        }
    assert {case.parameters["batch"] for case in MEASUREMENTS["depth"](options)} == {4}


@pytest.mark.skipif(BACKEND == "torch", reason="Keras compiles nothing on torch")
@pytest.mark.parametrize("task", [on_device.inference, on_device.training])
def test_batches_on_the_device(task):
    (value,) = task(f"keras_vit-{BACKEND}", SMALL, "float32", 2, 1)().values()
    assert 0 < value < 10


@pytest.mark.parametrize("forms", ["_STEPS", "_FORWARDS"])
def test_who_runs_on_the_device(forms, monkeypatch):
    called = []
    for form in getattr(on_device, forms):
        run = lambda *data, form=form: lambda: called.append(form)  # noqa: E731
        monkeypatch.setitem(getattr(on_device, forms), form, run)
    for name in ("t2t_vit", "jimm-jax", "keras_vit-jax"):
        on_device._warmed_up(getattr(on_device, forms), name, None, None)
    assert called == ["torch"] * 2 + ["jimm"] * 2 + ["jax"] * 2
    with pytest.raises(ValueError, match="Keras compiles nothing on torch"):
        on_device._warmed_up(getattr(on_device, forms), "keras_vit-torch", None, None)


def test_jimm_on_the_device():
    model = types.SimpleNamespace(
        put=lambda x: ("there", x),
        step=lambda images, labels: (images, labels),
        call=lambda images: types.SimpleNamespace(block_until_ready=lambda: images),
    )
    step = on_device.bare_step("jimm-jax", model, (1, 2))
    assert step() == (("there", 1), ("there", 2))
    assert on_device._FORWARDS["jimm"](model, 1)() == ("there", 1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "mixed_bfloat16"])
@pytest.mark.parametrize("library", ["keras_vit", "keras", "timm"])
def test_attention(library, dtype):
    if library == "timm" and CONTESTANTS["timm"].missing:
        pytest.skip("timm is NOT TESTED: it is not installed")
    values = attention.attention(library, BACKEND, dtype, 1, 5, 1)()
    assert min(values.values()) > 0
    if library == "timm":
        (kind,) = {p.dtype for p in attention._timm_layer(dtype).parameters()}
        assert str(kind) == f"torch.{dtype if dtype == 'bfloat16' else 'float32'}"


def test_keras_on_torch_uses_tf32_like_the_others(monkeypatch):
    class Model(contestants.KerasModel):
        def network(self, sizes):
            return types.SimpleNamespace(compile=lambda **arguments: None)

    used = []
    monkeypatch.setattr(contestants, "torch_device", lambda: used.append("device"))
    for backend in ("jax", "torch"):
        monkeypatch.setattr(keras.backend, "backend", lambda backend=backend: backend)
        Model({"image_size": 32}, "float32", None)
        assert used == ["device"] * (backend == "torch")


def test_plain_formulas_take_part(monkeypatch):
    used = []
    monkeypatch.setattr(keras_vit.kernels, "use", used.append)
    CONTESTANTS["keras_vit-jax-plain"].build(SMALL, "float32")
    assert used == ["plain"]
    assert not CONTESTANTS["keras_vit-jax-plain"].is_default
    assert CONTESTANTS["keras_vit-jax"].is_default


@pytest.mark.parametrize("name", ["keras_hub", "timm"])
def test_dinov3_has_the_same_parts_everywhere(name):
    contestant = Contestant(name, "torch" if name == "timm" else BACKEND)
    if contestant.missing:
        pytest.skip(f"needs {', '.join(contestant.missing)}")
    sizes = {**SMALL, "family": "dinov3"}
    own = Contestant("keras_vit", BACKEND).build(sizes, "float32").model.count_params()
    model = contestant.build(sizes, "float32").model
    if name == "timm":
        assert sum(p.numel() for p in model.parameters()) == own
    else:
        assert model.count_params() == own + 64  # It has a mask token as well.


def test_jimm_has_the_size_of_a_vit():
    jimm = Contestant("jimm", "jax")
    if jimm.missing:
        pytest.skip("jimm is NOT TESTED: it is not installed")
    model = jimm.build(SMALL, "float32")
    images, labels = model.batch(2)
    assert model.forward(images).shape == (2, 1000)
    assert min(model.steps((images, labels), 2)) > 0
    nnx = importlib.import_module("flax.nnx")
    state = nnx.state(model.model, nnx.Param)
    count = sum(leaf.size for leaf in importlib.import_module("jax").tree.leaves(state))
    own = Contestant("keras_vit", BACKEND).build(SMALL, "float32").model
    assert count == own.count_params()


def test_t2t_vit_has_the_size_of_the_original():
    options = chosen_options(argument_parser(), ["--variant", "T2T7"])
    assert {c.library for c in options.contestants} == {"keras_vit"}
    sizes = {**options.sizes("T2T7"), "image_size": 32}
    own = Contestant("keras_vit", BACKEND).build(sizes, "float32").model.count_params()
    code = os.environ.get(original_t2t.CODE, "")
    original = Contestant("t2t_vit", "torch")
    if original.missing or not original_t2t.is_clone(code):
        pytest.skip(
            f"the authors' code is NOT TESTED: {original_t2t.CODE} names no clone"
        )
    model = original.build(sizes, "float32").model
    assert sum(p.numel() for p in model.parameters()) == own


@pytest.mark.slow
def test_export_formats(tmp_path):
    result = run(
        *("export", "--alternations", "1", *TINY),
        *("--contestants", f"keras_vit-{BACKEND}", "--out", str(tmp_path)),
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "export.json").read_text())["rows"]
    assert not [row["error"] for row in rows if row["error"]]
    # Each of six formats has a size and an export time. For each of three batch sizes,
    # the six formats and the model have two figures.
    assert len(rows) == 6 * 2 + 3 * 2 * 7
    assert all(min(row["values"]) > 0 for row in rows)


@pytest.mark.slow
def test_features_of_onnx_files(tmp_path):
    if CONTESTANTS["timm"].missing:
        pytest.skip("files of timm are NOT TESTED")
    result = run(
        *("features", "--alternations", "1", *TINY),
        *("--contestants", "keras_vit-tensorflow", "timm", "--out", str(tmp_path)),
    )
    assert result.returncode == 0, result.stderr
    rows = json.loads((tmp_path / "features.json").read_text())["rows"]
    assert not [row["error"] for row in rows if row["error"]]
    names = ["keras_vit-ONNX", "keras_vit-ONNX-resize", "timm"]
    assert sorted({row["contestant"] for row in rows}) == names
    assert len(rows) == 2 * 3 * 2  # Batch sizes, contestants and figures.
    assert "keras_vit-ONNX / timm" in (tmp_path / "features.txt").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["speed"], "unknown WHAT: speed; choose from matmul, inference"),
        (["features", "--family", "dinov3"], "plain ViTs; received --family dinov3 and"),
        (["attention", "--contestants", "keras_vit-tensorflow-xla"], "nothing to meas"),
        (["inference", "--image-size", "30"], "the patch of S16, 16, must divide"),
        (["width", "--widths", "100"], "multiples of 64"),
        (["--variant", "T2T14", "--family", "dinov3"], "T2T-ViT is a family of its own"),
        (["--variant", "T2T14", "--contestants", "timm"], "timm: no T2T-ViT there"),
        (["--contestants", "t2t_vit"], "t2t_vit has the variants T2T7, T2T10"),
        (["--variant", "T2T14", "--contestants", "t2t_vit"], "t2t_vit needs --t2t-code"),
        (
            ["build", "--contestants", "keras_vit-jx"],
            "unknown --contestants: keras_vit-jx (did you mean keras_vit-jax?); choose",
        ),
        (
            ["build", "--contestants", f"keras_vit-{BACKEND}", "--reference", "tim"],
            f"unknown --reference: tim; choose from keras_vit-{BACKEND}.",
        ),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    arguments, message, tmp_path, capsys
):
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--out", str(tmp_path / "out")])
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_only_the_own_temporary_directory_is_deleted(tmp_path, monkeypatch):
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("recipes.benchmark.__main__.measure", lambda *arguments: [])
    with pytest.raises(SystemExit, match="Nothing could be measured"):
        main(["input", "--out", str(tmp_path)])
    assert (tmp_path / "scratch").is_dir()
    one, other = (chosen_options(argument_parser(), []).scratch for _ in range(2))
    assert one != other


@pytest.mark.parametrize(
    ("arguments", "endings"),
    [
        ([], {".npz", ".safetensors", ".keras"}),
        (["--family", "dinov3"], {".safetensors", ".keras"}),
        (["--variant", "T2T7"], {".keras"}),
    ],
)
def test_what_a_family_does_not_have_is_left_out(arguments, endings):
    options = chosen_options(
        argument_parser(), [*arguments, "--contestants", f"keras_vit-{BACKEND}"]
    )
    cases = MEASUREMENTS["loading"](options)
    assert {case.parameters["ending"] for case in cases} == endings
    assert bool(list(MEASUREMENTS["features"](options))) == (not arguments)


def test_titles_name_the_dtype_where_it_is_used():
    options = chosen_options(argument_parser(), ["--dtype", "bfloat16"])
    titles = [
        titled(what, list(MEASUREMENTS[what](options)), options.dtype)
        for what in ("inference", "export", "features", "input")
    ]
    assert titles == [
        "inference, bfloat16",
        "export, models in bfloat16",
        "features",
        "input",
    ]


def test_devices_of_what_runs_on_the_cpu(tmp_path):
    options = chosen_options(argument_parser(), [])
    for what in ("features", "input"):
        assert {case.device for case in MEASUREMENTS[what](options)} == {"cpu"}
    served = [case for case in MEASUREMENTS["export"](options) if "serving" in case.group]
    on_cpu = {case.contestant for case in served if case.device == "cpu"}
    assert on_cpu == {"ONNX", "ONNX-int8", "LiteRT", "LiteRT-int8"}
    task = "tests.recipes.unreliable_tasks.sound"
    case = runner.Case("group", "sound", task, {}, BACKEND, device="an abacus")
    rows = []
    runner.run([case], 1, 30, tmp_path / "log", rows, lambda line: None)
    assert {row.device for row in rows} == {"an abacus"}


def test_the_record_has_the_settings_of_the_workers(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "mine")
    found = {"jax": {"XLA_FLAGS": "the worker's"}, "torch": {}}
    monkeypatch.setattr(machine.matrix_products, "settings", found.__getitem__)
    monkeypatch.setattr(machine.huge_pages, "settings", lambda backend: {})
    assert machine.settings(["torch"])["XLA_FLAGS"] == "mine"
    assert machine.settings(["torch", "jax"])["XLA_FLAGS"] == "the worker's"


def test_features_that_are_no_numbers_differ(tmp_path):
    right = np.ones((1, 4)), np.ones((1, 2, 2, 4))
    features._check_same(right, "one", 1, tmp_path)
    features._check_same(right, "other", 1, tmp_path)
    with pytest.raises(ValueError, match=r"pooled of third and of .* differ by nan"):
        features._check_same((np.nan * right[0], right[1]), "third", 1, tmp_path)


@pytest.mark.filterwarnings("ignore:The classifier in")
@pytest.mark.parametrize("family", ["vit", "dinov3"])
def test_loading_a_file_of_timm(family, tmp_path):
    name, path = f"keras_vit-{BACKEND}", tmp_path / "model.safetensors"
    sizes = {**SMALL, "family": family}
    files._write(path, name, sizes, "float32")
    loaded = files._loader(path, name, sizes, "float32")()
    own = CONTESTANTS[name].build(sizes, "float32").model
    assert loaded.count_params() == own.count_params()


def run_tasks(tmp_path, *tasks, timeout=30):
    cases = [
        runner.Case("group", name, f"tests.recipes.unreliable_tasks.{name}", {}, BACKEND)
        for name in tasks
    ]
    rows, lines = [], []
    runner.run(cases, 3, timeout, tmp_path / "log", rows, lines.append)
    return rows, lines


def test_who_fails_is_told_and_the_others_go_on(tmp_path):
    killed = "runs_out_of_memory_in_its_second_measurement"
    rows, lines = run_tasks(tmp_path, "missing", "ends", killed, "sound")
    found = {(row.contestant, row.figure): row for row in rows}
    for figure, value in (("length (m)", 2.0), ("step (s)", 0.5)):
        row = found.pop(("sound", figure))
        assert row.values == [value] * 3
        assert row.error is None
    assert found["missing", ""].error.startswith("ModuleNotFoundError: No module named")
    assert found["ends", ""].error == f"ends ended with status 3; see {tmp_path / 'log'}."
    assert found[killed, "step (s)"].values == [1.5]
    assert f"{killed} was killed by SIGKILL" in found[killed, "step (s)"].error
    assert len(found) == 3
    assert sum("FAILED" in line for line in lines) == 3

    table = report.table("title", rows, None, "sound")
    (steps,) = [b for b in table.split("\n\n") if b.startswith("group: step (s)")]
    for name in ("missing", "ends"):
        (line,) = [line for line in steps.splitlines() if line.startswith(f"  {name} ")]
        assert line.split() == [name, "FAILED"]
    assert "1.5 (1.5 to 1.5) FAILED" in steps
    assert f"{killed} / sound" in steps
    assert "Use a smaller --batch" in table
    report.chart("title", rows, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").stat().st_size > 1000


def test_who_hangs_is_killed_at_the_time_limit(tmp_path):
    start = time.monotonic()
    rows, _ = run_tasks(tmp_path, "hangs", "sound", timeout=3)
    assert time.monotonic() - start < 60
    assert rows[0].error == (
        "hangs gave no answer within 3 s and was killed. Use a larger --timeout if it "
        "is only slow, or exclude it with --contestants."
    )
    assert rows[-1].values == [0.5] * 3


@pytest.mark.slow
def test_nothing_measured_is_an_error(tmp_path):
    result = run(
        *("build", "--variant", "B16", "--timeout", "1", "--out", str(tmp_path)),
        *("--contestants", f"keras_vit-{BACKEND}"),
    )
    assert result.returncode == 1
    assert f"Nothing could be measured; the reasons are in {tmp_path}" in result.stderr
    (row,) = json.loads((tmp_path / "build.json").read_text())["rows"]
    assert "no answer within 1 s" in row["error"]
    assert row["values"] == []
    assert "FAILED" in (tmp_path / "build.txt").read_text()
    assert (tmp_path / "build.png").stat().st_size > 1000


@pytest.mark.slow
def test_ctrl_c_keeps_what_was_measured(tmp_path):
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "recipes.benchmark", "matmul", *TINY),
            *("--contestants", f"keras_vit-{BACKEND}", "--out", str(tmp_path)),
            *("--alternations", "1000"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell makes background processes ignore Ctrl-C; restore the default.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        for line in process.stdout:
            if "numpy, 2 of 1000" in line:
                break
        workers = children(process.pid)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=180)
    finally:
        process.kill()
    assert process.returncode == 130
    assert f"Interrupted; the results so far are in {tmp_path}" in errors
    record = json.loads((tmp_path / "matmul.json").read_text())
    assert record["interrupted"] is True
    assert {row["contestant"] for row in record["rows"]} == {BACKEND, "numpy"}
    assert all(len(row["values"]) >= 2 for row in record["rows"])
    assert "matmul, float32, interrupted" in (tmp_path / "matmul.txt").read_text()
    assert len(workers) == 2
    assert not any(pathlib.Path(f"/proc/{pid}").exists() for pid in workers)


def children(parent):
    found = []
    for status in pathlib.Path("/proc").glob("[0-9]*/stat"):
        pid, _, rest = status.read_text().partition(" (")
        if int(rest.rpartition(") ")[2].split()[1]) == parent:
            found.append(int(pid))
    return found


def test_flops_are_twice_the_multiply_adds_that_timm_tells():
    """Check the FLOPs: timm states 4.6 G multiply-adds for S/16 and 17.6 G for B/16."""
    s16 = flops.forward(224, 16, 384, 12, 1536)
    b16 = flops.forward(224, 16, 768, 12, 3072)
    assert s16 / 2e9 == pytest.approx(4.6, abs=0.05)
    assert b16 / 2e9 == pytest.approx(17.6, abs=0.05)
    sizes = {"image_size": 224, "patch_size": 16, "hidden_dim": 384}
    sizes |= {"num_layers": 12, "mlp_dim": 1536, "num_heads": 6}
    assert flops.training(**sizes) == 3 * s16
    # DINOv3 has 201 instead of 197 tokens.
    dinov3 = flops.forward(**sizes, family="dinov3")
    assert dinov3 / s16 == pytest.approx(201 / 197, rel=2e-3)


def test_the_stub_is_for_where_torchvision_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    before = list(sys.meta_path)
    install()
    assert sys.meta_path == before
