"""Layouts of weights over devices, and runs on several devices."""

import json
import math
import os
import subprocess
import sys
import types

import keras
import pytest

from keras_vit.cli import parse
from keras_vit.training import ModelParallel, distributed, layout_map

only_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="weights are split under JAX"
)


def mesh(**axes):
    names = [f"cpu:{n}" for n in range(math.prod(axes.values()))]
    return keras.distribution.DeviceMesh(tuple(axes.values()), tuple(axes), names)


def layout(path, shape, fully_sharded=False, **axes):
    """Return the axes that the dimensions of a variable are split over."""
    distribution = ModelParallel(
        layout_map=layout_map(mesh(**axes)), fully_sharded=fully_sharded
    )
    variable = types.SimpleNamespace(path=path, shape=shape)
    return distribution.get_variable_layout(variable).axes


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("block_11/attention/qkv/kernel", (64, 192), (None, "model")),
        ("block_11/attention/qkv/bias", (192,), ("model",)),
        ("block_0/attention/projection/kernel", (64, 64), ("model", None)),
        ("block_0/attention/projection/bias", (64,), (None,)),
        ("block_0/mlp/expand/kernel", (64, 256), (None, "model")),
        ("block_0/mlp/contract/kernel", (256, 64), ("model", None)),
        ("block_0/mlp/contract/bias", (64,), (None,)),
        ("block_0/mlp_norm/gamma", (64,), (None,)),
        ("pooling/key_value/kernel", (64, 128), (None, "model")),
        ("stem/performer_0/projection/kernel", (64, 64), ("model", None)),
        ("patch_encoder/projection/kernel", (768, 64), (None, None)),
        ("patch_encoder/positions/embedding", (1, 17, 64), (None, None, None)),
        ("distillation/teacher/block_0-mlp-expand-kernel", (64, 256), (None, None)),
        ("classifier/kernel", (64, 1000), (None, "model")),
        # Four devices cannot share ten classes evenly.
        ("classifier/kernel", (64, 10), (None, None)),
        ("adam_w/iteration", (), ()),
    ],
)
def test_layouts_over_the_axis_model(path, shape, expected):
    assert layout(path, shape, data=2, model=4) == expected


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("path", "shape", "expected"),
    [
        ("block_0/attention/qkv/kernel", (64, 192), ("data", "model")),
        ("block_0/mlp/contract/kernel", (256, 64), ("model", "data")),
        ("block_0/mlp_norm/gamma", (64,), ("data",)),
        ("patch_encoder/positions/embedding", (1, 17, 64), (None, None, "data")),
        ("classifier/bias", (5,), (None,)),
        ("adam_w/iteration", (), ()),
    ],
)
def test_fully_sharded_layouts(path, shape, expected):
    assert layout(path, shape, fully_sharded=True, data=4, model=2) == expected


@pytest.mark.any_backend
def test_an_axis_of_one_device_splits_nothing():
    path, shape = "block_0/mlp/contract/kernel", (256, 64)
    assert layout(path, shape, fully_sharded=True, data=8, model=1) == ("data", None)


@pytest.mark.any_backend
def test_axes_of_other_names_are_an_error():
    with pytest.raises(ValueError, match=r"must be .*'data'.* are .*'batch'"):
        layout_map(mesh(batch=2))


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], (None, False)),
        (["--devices", "8"], ({"data": 8}, False)),
        (["--mesh", "data=4,model=2"], ({"data": 4, "model": 2}, False)),
        (["--mesh", "model=2", "--fully-sharded"], ({"data": 1, "model": 2}, True)),
    ],
)
def test_options(words, expected):
    options = parse("evaluate", ["runs/digits", *words])
    assert (options.mesh, options.fully_sharded) == expected


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "0"], "must be 1 or more; received '0'"),
        (["--mesh", "data=4,heads=2"], "expected data=N, model=N or both"),
        (["--mesh", "data=4,data=2"], "expected data=N, model=N or both"),
        (["--mesh", "data=two"], "must be 1 or more; received 'two'"),
        (["--devices", "2", "--mesh", "data=2"], "not allowed with"),
        (["--fully-sharded"], "--fully-sharded needs --devices, --mesh or"),
    ],
)
def test_wrong_options(words, message, capsys):
    with pytest.raises(SystemExit) as stop:
        parse("pretrain", ["digits_vit", "--workdir", "run", *words])
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_too_many_devices_are_an_error():
    what = "64 devices are wanted, and there are"
    if keras.backend.backend() != "jax":
        what = "Several devices need KERAS_BACKEND=jax"
    with pytest.raises(ValueError, match=what), distributed({"data": 64}):
        pass


def on_virtual_devices(*words):
    """Run a module on eight virtual devices, and return the finished process."""
    flags = os.environ.get("XLA_FLAGS", "")
    flags += " --xla_force_host_platform_device_count=8"
    return subprocess.run(
        [sys.executable, "-m", *map(str, words)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )


EIGHT_SHARDED = {"mesh": {"data": 8}, "fully_sharded": True}


def check_meshes(directory, *meshes, settings=()):
    words = [*settings, *(json.dumps(axes) for axes in meshes)]
    done = on_virtual_devices("tests.training.on_meshes", directory, *words)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in done.stdout.splitlines() if row[:1] == "{"]
    assert len(rows) == len(meshes)
    for axes, row in zip(meshes, rows, strict=True):
        assert row["loss"] < 1e-5, (axes, row)
        assert row["variables"] < 1e-5, (axes, row)
        assert row["seeds"] == 0, (axes, row)


@only_jax
def test_weights_on_all_axes_train_as_on_one_device(tmp_path):
    mesh = {"mesh": {"data": 4, "model": 2}, "fully_sharded": True}
    check_meshes(tmp_path, mesh, settings=["steps=8", "checkpoint_steps=4"])


@only_jax
@pytest.mark.slow
def test_meshes_train_as_one_device(tmp_path):
    check_meshes(
        tmp_path,
        {"mesh": {"data": 8}},
        {"mesh": {"data": 4, "model": 2}},
        {"mesh": {"data": 2, "model": 4}},
        EIGHT_SHARDED,
    )


@only_jax
@pytest.mark.slow
def test_runs_resume_on_other_meshes(tmp_path):
    one = {"mesh": None}
    check_meshes(
        tmp_path,
        {**EIGHT_SHARDED, "then": {"mesh": {"data": 4}, "fully_sharded": True}},
        {**EIGHT_SHARDED, "then": {"mesh": {"data": 1, "model": 2}}},
        {**EIGHT_SHARDED, "then": one},
        {**one, "then": EIGHT_SHARDED},
    )
    check_under_tensorflow(tmp_path / "0", tmp_path / "one")


def check_under_tensorflow(directory, expected):
    """Check that the saved models of two runs have the same weights under TensorFlow."""
    code = (
        "import sys, keras_vit\n"
        "from tests.training.on_meshes import difference\n"
        "models = [keras_vit.load_checkpoint(p + '/last.keras') for p in sys.argv[1:]]\n"
        "found, expected = (model.weights_by_path() for model in models)\n"
        "assert found.keys() == expected.keys()\n"
        "print(max(difference(found[p].numpy(), w.numpy()) for p, w in expected.items()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(directory), str(expected)],
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.splitlines()[-1]) < 1e-5


def step_on(mesh):
    """Return what eight devices exchange in a step; see `on_compiled_steps`."""
    done = on_virtual_devices("tests.training.on_compiled_steps", json.dumps(mesh))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["compiled"] == 0  # By all steps after the first two.
    return found["exchanges"], found["weights"]


def elements(shapes):
    return sum(map(math.prod, shapes))


@only_jax
@pytest.mark.slow
def test_a_fully_sharded_step_gathers_each_weight_by_itself():
    exchanges, weights = step_on({"data": 8, "fully_sharded": True})
    logits = [16, 16]
    gathered = [shape for shape in exchanges["all-gather"] if shape != logits]
    assert max(map(elements, [[shape] for shape in gathered])) == 64 * 256
    # Once in a step, but for a few biases.
    assert elements(weights) <= elements(gathered) <= 1.01 * elements(weights)
    assert elements(exchanges["all-reduce"]) == elements(weights) + 1  # And the loss.


@only_jax
@pytest.mark.slow
def test_a_step_over_the_axis_model_gathers_nothing():
    exchanges, weights = step_on({"data": 4, "model": 2})
    assert "all-gather" not in exchanges
    reduced = exchanges["all-reduce"]
    # Two sums in the forward and two in the backward pass of each of three blocks, over
    # the tokens of the 4 images of a device.
    assert reduced.count([4 * 17, 64]) == 3 * 4
    # The gradients of heads, hidden units and classes are in two parts.
    halves = 3 * (64 * 192 + 192 + 64 * 64 + 64 * 256 + 256 + 256 * 64) + 64 * 16 + 16
    gradients = elements(weights) - halves // 2
    exchanged = elements(reduced) - 3 * 4 * elements([[4 * 17, 64]])
    assert gradients <= exchanged <= 1.02 * gradients  # And numbers for each image.


@only_jax
@pytest.mark.slow
def test_an_evaluation_on_eight_devices_counts_each_image_once():
    check_evaluation(on_virtual_devices("tests.training.on_many_images", "", 1, 0))


def check_evaluation(done):
    """Check the results of `on_many_images` against those on one device."""
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("top1", "top5"):
        counts = [10_007 * found[key][name] for key in ("all", "one")]
        assert abs(counts[0] - counts[1]) < 0.1, (name, counts)
    assert found["all"]["loss"] == pytest.approx(found["one"]["loss"], rel=1e-5)


@only_jax
@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--devices", "9"], "9 devices are wanted, and there are 8"),
        (["--devices", "8", "--set", "batch_size=36"], "set batch_size=32 or 40"),
        (["--mesh", "model=8"], "model=8 devices cannot share the 4 heads of"),
    ],
)
def test_a_mesh_that_does_not_fit_is_one_line(words, message, tmp_path):
    words = ["keras_vit", "pretrain", "digits_vit", "--workdir", tmp_path / "run", *words]
    done = on_virtual_devices(*words)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert not (tmp_path / "run" / "config.json").exists()
