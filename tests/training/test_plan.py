"""Plans: memory and exchanges of training steps, hardware files, and the command."""

import dataclasses
import json
import os
import subprocess
import sys

import keras
import pytest

import keras_vit
from keras_vit.cli import matrix_products, parse
from keras_vit.cli import plan as command
from keras_vit.cli.command_line import UNSPECIFIED
from keras_vit.training import config as configs
from keras_vit.training import cost, hardware
from keras_vit.training.abstract_model import abstract_model, abstract_optimizer
from keras_vit.training.known_sets import known_set
from keras_vit.training.plan import candidates, choose, mesh_plans
from keras_vit.training.step_exchange import (
    Mesh,
    forward_operations_by_formula,
    step_exchange,
    step_operations,
)
from keras_vit.training.step_memory import bytes_of, describe
from tests.commands import run_command

H100 = hardware.load("h100x8")
TINY = {"input_shape": (32, 32, 3), "num_layers": 2, "classes": 10}
only_jax = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="the memory is that of JAX's programs"
)


def config_of(variant, *settings, **arguments):
    settings = [f"model.architecture={variant}", *settings]
    settings += [f"model.arguments.{key}={value}" for key, value in arguments.items()]
    return configs.override(UNSPECIFIED, settings)


@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        ("ViTTi16", {}),
        ("ViTS16", {"pooling": "map", "positions": "sincos_2d"}),
        ("ViTB32", {"representation_size": 96, "distillation_token": False}),
        ("DINOv3ViTS16", {}),
        ("DINOv2ViTS14", {}),
        ("ViTTi16", {"mlp": "swiglu", "norm": "rms", "layer_scale": 0.1}),
    ],
)
def test_abstract_models_have_the_weights_and_no_values(variant, arguments):
    side = 28 if variant.endswith("14") else 32
    arguments = {**TINY, "input_shape": (side, side, 3), **arguments}
    config = config_of(variant, "optimization.ema=0.9", **arguments)
    model = abstract_model(config)
    real = getattr(keras_vit, variant)(**arguments)
    assert model.count_params() == real.count_params()
    shapes = {path: tuple(w.shape) for path, w in real.weights_by_path().items()}
    found = {path: tuple(w.shape) for path, w in model.weights_by_path().items()}
    assert found == shapes
    assert all(weight._value is None for weight in model.weights)
    variables = abstract_optimizer(model, config).variables
    # Two moments and the average, the number of updates and the learning rate.
    extra = bytes_of(variables) - 3 * bytes_of(model.weights)
    assert 0 < extra <= 12


@pytest.mark.any_backend
@pytest.mark.slow
def test_the_weights_of_a_vit_g():
    model = abstract_model(config_of("ViTG14"))
    assert model.count_params() == 1_844_440_680  # As in timm.


@only_jax
@pytest.mark.parametrize(
    "remat",
    [
        False,
        True,
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("attention", "mlp")),
    ],
)
def test_memory_of_a_small_step(remat):
    from tests.training.compiled_memory import compiled, formula

    case = "ViTTi16", 2, {"num_layers": 2, "remat": remat}, 0.99
    (peak, arguments), (expected, state) = compiled(*case), formula(*case)
    assert state == pytest.approx(arguments, rel=0.001)
    assert expected == pytest.approx(peak, rel=0.15)


@only_jax
@pytest.mark.slow
@pytest.mark.parametrize("batch", [8, 32, 64])
@pytest.mark.parametrize("variant", ["ViTTi16", "ViTS16", "ViTB16"])
def test_memory_of_a_step(variant, batch):
    from tests.training.compiled_memory import compiled, formula

    expected, peak = formula(variant, batch, {})[0], compiled(variant, batch, {})[0]
    print(f"{variant}, {batch} images: {expected / peak - 1:+.1%}")
    assert expected == pytest.approx(peak, rel=0.15)


MODERN = [
    ["DINOv3ViTS16", 8, {"num_layers": 4}],
    ["ViTS16", 8, {"num_layers": 4, "mlp": "swiglu", "norm": "rms", "registers": 4}],
    ["ViTS16", 8, {"num_layers": 4, "dropout_rate": 0.1}],
    ["ViTS16", 8, {"num_layers": 4, "layer_scale": 0.1, "stochastic_depth_rate": 0.1}],
    ["ViTS16", 8, {"num_layers": 4, "positions": "relative"}],
    ["ViTB16", 8, {"num_layers": 4, "remat": True}],
    ["ViTB16", 32, {"num_layers": 4, "remat": True}],
    ["ViTS16", 16, {"num_layers": 4, "remat": "attention"}],
    ["ViTS16", 16, {"num_layers": 4, "remat": "mlp"}],
]


@only_jax
@pytest.mark.slow
def test_memory_of_steps_with_other_parts_and_remat():
    """Compare them with the flag of XLA that `keras-vit` sets on CPUs with AVX2.

    Without it, XLA keeps biases and scales, repeated for each token: with remat and
    large batches, twice the memory.
    """
    known = matrix_products._version("jaxlib") in matrix_products._KNOWN["jaxlib"]
    flags = f"{matrix_products.FLAG if known else ''} --xla_backend_optimization_level=0"
    done = subprocess.run(
        [sys.executable, "-m", "tests.training.compiled_memory", json.dumps(MODERN)],
        env={**os.environ, "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(row) for row in done.stdout.splitlines() if row[:1] == "{"]
    assert len(rows) == len(MODERN)
    for row in rows:
        print(row["case"], f"{row['formula'] / row['compiled'] - 1:+.1%}")
    for row in rows:
        assert row["formula"] == pytest.approx(row["compiled"], rel=0.15), row


@pytest.mark.any_backend
def test_operations():
    config = config_of("ViTTi16", input_shape=(64, 64, 3), patch_size=8, num_layers=3)
    model = abstract_model(config)
    network = describe(model, "gpu")
    forward = forward_operations_by_formula(network, model)
    real = keras_vit.ViTTi16(input_shape=(64, 64, 3), patch_size=8, num_layers=3)
    assert forward == pytest.approx(cost.forward_operations(real), rel=0.02)
    assert step_operations(network, model) == 3 * forward
    again = dataclasses.replace(network, remat="block")
    # Everything except the patches and the classifier is computed again.
    outside = 2 * 192 * (64 * 192 + 1000)
    assert step_operations(again, model) == pytest.approx(4 * forward - outside)


@pytest.mark.any_backend
def test_exchanges_of_a_ring():
    network = describe(abstract_model(config_of("ViTTi16", **TINY)), "gpu")
    tokens = 5 * 192 * 4  # A number of an image in float32.
    alone = step_exchange(network, H100, Mesh(1), 16, 1e6, 0)
    assert (alone.gradients, alone.tokens) == (0, 0)
    data = step_exchange(network, H100, Mesh(8), 16, 1e6, 0)
    assert (data.gradients, data.tokens) == (2 * 7 / 8 * 1e6, 0)
    assert data.gradient_seconds == pytest.approx(1.75e6 / (450e9 * 0.8))
    both = step_exchange(network, H100, Mesh(4, 2), 16, 1e6, 0)
    # Four sums in each of two blocks, of which two devices send one half twice.
    assert both.tokens == 16 * tokens * 4 * 2
    assert both.gradients == 2 * 3 / 4 * 1e6
    again = dataclasses.replace(network, remat="block")
    assert step_exchange(again, H100, Mesh(4, 2), 16, 1e6, 0).tokens == 16 * tokens * 10
    sharded = step_exchange(network, H100, Mesh(8, fully_sharded=True), 16, 1e6, 9e5)
    assert sharded.gradients == 7 / 8 * (1e6 + 9e5)
    # Beyond a host, all rings of a host share its adapters.
    pod = hardware.load("h100_pod")
    far = step_exchange(network, pod, Mesh(64, 4), 16, 1e6, 0)
    assert far.gradient_seconds == pytest.approx(far.gradients / (100e9 * 0.8))


@only_jax
@pytest.mark.slow
@pytest.mark.parametrize("mesh", [Mesh(8), Mesh(4, 2), Mesh(8, fully_sharded=True)])
def test_exchanges_of_compiled_steps(mesh):
    from tests.training.test_sharding import elements, step_on

    axes = {"data": mesh.data, "fully_sharded": mesh.fully_sharded}
    axes |= {"model": mesh.model} if mesh.model > 1 else {}
    exchanges, weights = step_on(axes)
    sizes = {"hidden_dim": 64, "num_layers": 3, "num_heads": 4, "mlp_dim": 256}
    config = config_of(
        "ViT",
        "batch_size=16",
        input_shape=(32, 32, 3),
        patch_size=8,
        classes=16,
        **sizes,
    )
    cpu = dataclasses.replace(
        H100, platform="cpu", peak_tflops={"float32": 1.0}, devices_per_host=8
    )
    (row,) = (row for row in mesh_plans(config, cpu).rows if row.mesh == mesh)
    assert elements(weights) == mesh_plans(config, cpu).parameters
    # A ring sends twice its part of a sum, and once its part of what it gathers.
    tokens = [shape for shape in exchanges["all-reduce"] if shape == [4 * 17, 64]]
    whole = elements(exchanges["all-reduce"]) - elements(tokens)
    ring = (mesh.data - 1) / mesh.data
    sent = 4 * ring * (2 * whole + elements(exchanges.get("all-gather", [])))
    assert row.exchange.gradients == pytest.approx(sent, rel=0.02)
    sums = 4 * 2 * (mesh.model - 1) / mesh.model * elements(tokens)
    assert row.exchange.tokens == pytest.approx(sums)


@pytest.mark.any_backend
def test_a_mesh_splits_the_state():
    config = config_of("ViTS16", "batch_size=64", "optimization.ema=0.9", **TINY)
    # With such small images, computation is the limit on slow devices only.
    slow = dataclasses.replace(H100, compute_fraction=1e-3)
    plan = mesh_plans(config, slow)
    assert [str(row.mesh) for row in plan.rows] == [
        "data=8",
        "data=8 fully sharded",
        "data=4,model=2",
    ]
    whole, sharded, halves = plan.rows
    assert whole.memory.weights == 4 * plan.parameters
    assert whole.averages == whole.memory.weights
    assert whole.memory.optimizer == pytest.approx(3 * whole.memory.weights, rel=1e-4)
    # All but the bias of ten classes.
    assert sharded.memory.weights == pytest.approx(whole.memory.weights / 8, rel=1e-3)
    assert sharded.averages == pytest.approx(whole.averages / 8, rel=1e-3)
    assert 0.5 < halves.memory.weights / whole.memory.weights < 0.65
    assert plan.chosen is whole
    for gigabytes, mesh in (
        (1.01 * whole.memory.peak / 0.75e9, Mesh(8)),
        (0.99 * whole.memory.peak / 0.75e9, Mesh(8, fully_sharded=True)),
    ):
        limited = dataclasses.replace(slow, memory_gb=gigabytes)
        assert mesh_plans(config, limited).chosen.mesh == mesh
    assert mesh_plans(config, dataclasses.replace(slow, memory_gb=1e-3)).chosen is None


@pytest.mark.any_backend
def test_the_largest_batch_fits_exactly():
    (row, *_) = mesh_plans(config_of("ViTS16", "batch_size=64", **TINY), H100).rows
    assert row.largest_batch % 8 == 0
    for batch, fits in ((row.largest_batch, True), (row.largest_batch + 8, False)):
        config = config_of("ViTS16", f"batch_size={batch}", **TINY)
        assert mesh_plans(config, H100).rows[0].fits is fits


@pytest.mark.any_backend
def test_the_choice_of_a_mesh():
    slow = dataclasses.replace(H100, compute_fraction=1e-3)
    plan = mesh_plans(config_of("ViTS16", "batch_size=64", **TINY), slow)
    simple, sharded, _ = plan.rows
    fast = dataclasses.replace(sharded, compute_seconds=simple.compute_seconds / 2)
    slightly = dataclasses.replace(
        sharded, compute_seconds=simple.compute_seconds / 1.005
    )
    assert choose((simple, fast)) is fast
    assert choose((simple, slightly)) is simple
    assert choose((simple, dataclasses.replace(fast, fits=False))) is simple
    small = dataclasses.replace(simple, fits=False)
    assert choose((small, slightly)) is slightly
    assert [mesh.model for mesh in candidates(H100, 16)] == [1, 1, 2, 4, 8]
    assert [mesh.model for mesh in candidates(H100, 3)] == [1, 1]


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("variant", "arguments", "message"),
    [
        ("T2TViT7", {}, "'T2TViT7' is a T2TViT; .* known for ViT only"),
        ("BiTR50x1", {}, "is a BiT"),
        ("ViTRTi16", {"input_shape": (64, 64, 3)}, "stem=None only; .*ResNetStem"),
        ("ViTTi16", {"block": "parallel"}, "block='pre_norm' only; .*'parallel'"),
        ("ViTTi16", {"token_reduction": 1}, "token_reduction=None only"),
    ],
)
def test_models_without_a_formula(variant, arguments, message):
    config = config_of(variant, **arguments)
    with pytest.raises(ValueError, match=message):
        mesh_plans(config, H100)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("objective=mae", "needs objective='classification'.*received 'mae'"),
        ("lora.rank=4", "lora.rank=None.*received 4.*--set lora.rank=None"),
        ("model.weights=vit_b16", "model.weights=None.*received 'vit_b16'"),
        ("optimization.frozen=('block_',)", "optimization.frozen"),
        ("batch_size=12", "batch_size=12 cannot be shared by 8 devices.*multiple of 8"),
        ("dtype=float64", "no peak for float64; .*bfloat16, float16, float32"),
    ],
)
def test_configs_without_a_plan(setting, message):
    arguments = {**TINY, "num_heads": 3, "hidden_dim": 48}
    config = config_of("ViTTi16", "batch_size=64", setting, **arguments)
    with pytest.raises(ValueError, match=message):
        mesh_plans(config, H100)


TEXT = (hardware._directory() / "h100x8.toml").read_text()


@pytest.mark.any_backend
@pytest.mark.parametrize("name", hardware.names())
def test_packaged_hardware(name):
    found = hardware.load(name)
    assert found.devices == found.hosts * 8
    assert found.usable_bytes == 60e9
    assert found.flops("bfloat16") > found.flops("float32")


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("hosts = 1", "host = 1", "unknown host. A description .*hosts, devices"),
        ("hosts = 1", "", "missing hosts. A description"),
        ("hosts = 1", "hosts = 0", "hosts must be a whole number from 1 .*received 0"),
        ("hosts = 1", "hosts = 1.5", "hosts must be a whole number .*received 1.5"),
        (
            "memory_gb = 80",
            "memory_gb = -1",
            "memory_gb must be a positive .*received -1",
        ),
        ("memory_gb = 80", "memory_gb = true", "memory_gb .*received True"),
        ("memory_gb = 80", "memory_gb = nan", "memory_gb .*received nan"),
        ("compute_fraction = 0.4", "compute_fraction = 40", "at most 1; received 40"),
        ('"gpu"', '"npu"', "Unknown platform 'npu'; choose one of 'gpu', 'tpu', 'cpu'"),
        ("bfloat16 = 989", "bfloat16 = 0", "peak_tflops.bfloat16 .*received 0"),
        ("[peak_tflops]", "[peaks]", "unknown peaks"),
        ("hosts = 1", "hosts = ", "is not TOML: Invalid value"),
    ],
)
def test_wrong_hardware(before, after, message, tmp_path):
    path = tmp_path / "mine.toml"
    assert before in TEXT
    path.write_text(TEXT.replace(before, after, 1))
    with pytest.raises(ValueError, match=f"mine.toml.*{message}"):
        hardware.load(str(path))


@pytest.mark.any_backend
def test_hardware_that_does_not_exist():
    with pytest.raises(ValueError, match=r"'h100x9'; there are a100x8, h100_pod, h100x8"):
        hardware.load("h100x9")
    with pytest.raises(
        FileNotFoundError, match=r"missing.toml does not exist. Described"
    ):
        hardware.load("missing.toml")


def small(*words):
    settings = [f"model.arguments.{key}={value}" for key, value in TINY.items()]
    return [*words, *(word for setting in settings for word in ("--set", setting))]


@pytest.mark.any_backend
def test_the_command(capsys, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(TEXT.replace("hosts = 1", "hosts = 2", 1))
    words = small("ViTS16", "--hardware", str(path), "--batch", "512", "--epochs", "3")
    run_command("plan", [*words, "--remat", "--images", "1000000"])
    text = capsys.readouterr().out
    parameters = keras_vit.ViTS16(**TINY).count_params()
    assert f"ViTS16: {parameters:,} parameters, 5 tokens, mixed_bfloat16, adamw" in text
    assert "remat=block" in text
    assert "2 x 8 devices (gpu) with 60.0 of 80 GB usable; a batch of 512" in text
    assert "\ndata=16 fully sharded  " in text
    assert "Use data=16 (--devices 16): it has enough memory" in text
    assert "Length: 5,859 steps, " in text
    assert "1,000,000 images of 110,000 bytes, 0.11 TB" in text
    assert "of 112 cores at 220 images/s" in text


@pytest.mark.any_backend
def test_the_command_with_a_config(capsys):
    run_command("plan", ["digits_vit", "--hardware", "a100x8"])
    text = capsys.readouterr().out
    assert "ViT: 515,638 parameters" in text
    assert "float32, adamw" in text
    assert "Length: 2,357 steps" in text
    assert "1,257 images" in text


@pytest.mark.any_backend
def test_a_model_that_is_too_large(capsys):
    words = small("ViTS16", "--hardware", "h100x8", "--batch", "800000000")
    run_command("plan", words)
    text = capsys.readouterr().out
    assert "No mesh has enough memory; the least is" in text
    assert "Use --remat, or --batch" in text
    assert "Length" not in text


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ViT99"], "No variant and no config is called 'ViT99'. Near: ViT"),
        (["load_checkpoint"], "No variant and no config is called 'load_checkpoint'"),
        (["ViTTi16", "--batch", "0"], "batch_size must be 1 or more; received 0"),
        (["ViTTi16", "--images", "0"], "--images must be 1 or more; received 0"),
        (["ViTTi16", "--epochs", "-1"], "--epochs must be 1 or more; received -1"),
        (["ViTTi16", "--optimizer", "adagrad"], "Unknown optimization.optimizer"),
        (["ViTTi16", "--dtype", "float64"], "no peak for float64"),
    ],
)
def test_errors_of_the_command(words, message):
    with pytest.raises(SystemExit) as stop:
        run_command("plan", small(*words, "--hardware", "h100x8"))
    assert message in stop.value.code


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("train", "validation", "images"),
    [
        ("tfds:cifar10:train", "tfds:cifar10:test", 50_000),
        ("tfds:cifar10", "tfds:cifar10:test", 50_000),
        ("tfds:cifar10:3.0.2:train[:45000]", "tfds:cifar10:test", 45_000),
        ("tfds:cifar10:train[10%:]", "tfds:cifar10:test", 45_000),
        ("tfds:cifar10:train[1000:50%]", "tfds:cifar10:test", 24_000),
        ("tfds:cifar10:test", "tfds:cifar10:train", None),
        ("tfds:cifar10:train+test", "tfds:cifar10:test", None),
        ("tfds:cifar10:train[-10%:]", "tfds:cifar10:test", None),
        ("digits:train", "split:0.1", 1_131),
        ("digits:train", "split:0.1:1", 1_131),
        ("digits:train", "split:a tenth", None),
        ("digits:validation", "digits:test", None),
        ("folder:imagenet21k/train", "split:.5", 7_098_561),
        ("folder:photos", "split:0.1", None),
    ],
)
def test_the_images_of_known_sets(train, validation, images):
    data = configs.Data(train=train, validation=validation)
    found = known_set(dataclasses.replace(UNSPECIFIED, data=data))
    assert (found and found.images) == images


@pytest.mark.any_backend
def test_short_options():
    words = ["ViTTi16", "--hardware", "h100x8", "--dtype", "float32", "--remat", "mlp"]
    options = parse("plan", [*words, "--optimizer", "lion", "--batch", "8"])
    config = command._config(options, H100)
    assert (config.dtype, config.batch_size) == ("float32", 8)
    assert config.optimization.optimizer == "lion"
    assert config.model.arguments == {"remat": "mlp"}
    options = parse("plan", ["ViTTi16", "--hardware", "h100x8"])
    assert command._config(options, H100).batch_size == 128 * 8


@pytest.mark.any_backend
def test_the_command_knows_the_variants_as_a_process():
    # There, `import keras_vit` imports no variants.
    words = ["plan", "ViTTi16", "--hardware", "h100x8", "--batch", "1024"]
    done = subprocess.run(
        [sys.executable, "-m", "keras_vit", *words], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "ViTTi16: 5,717,416 parameters" in done.stdout
