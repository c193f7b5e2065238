"""The training step as JAX lowers it for NVIDIA GPUs, which needs no GPU."""

import functools
import re

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.kernels import cudnn
from keras_vit.layers.attention import self_attention
from tests.cases import output_and_gradients, random_array

pytestmark = pytest.mark.skipif(
    keras.backend.backend() != "jax", reason="TensorFlow compiles on the GPU only"
)
BLOCKS, BATCH, CLASSES, WIDTH = 2, 8, 10, 128
SIZES = {"hidden_dim": WIDTH, "num_layers": BLOCKS, "num_heads": 2, "mlp_dim": 512}
MODELS = {
    "class token": {},
    "even": {"pooling": "gap"},
    "remat": {"remat": True},
    "rotary": {"positions": "rope_axial", "registers": 4},
    "swiglu": {"mlp": "swiglu", "norm": "rms", "layer_scale": 1e-5},
}


@pytest.fixture
def _hopper(monkeypatch):
    """Let Keras, JAX and keras_vit believe that there is an H100 with cuDNN."""
    import jax
    from jax._src.cudnn import fused_attention_stablehlo as checks

    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(cudnn, "compute_capability", lambda: (9, 0))
    monkeypatch.setattr(checks, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(
        checks, "check_compute_capability", lambda least: float(least) <= 9
    )
    monkeypatch.setattr(checks, "is_cuda_compute_capability_equal", lambda _: False)


@functools.cache
def lowered(name):
    """Return the training step of a model as StableHLO, and the number of its states."""
    import jax

    model = keras_vit.ViT(
        (64, 64, 3),
        patch_size=16,
        classes=CLASSES,
        classifier_activation=None,
        dtype="mixed_bfloat16",
        **SIZES | MODELS[name],
    )
    model.compile(
        keras.optimizers.AdamW(1e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    )
    batch = np.zeros((BATCH, 64, 64, 3), "float32"), np.zeros(BATCH, "int32")
    model.optimizer.build(model.trainable_variables)
    model._symbolic_build(data_batch=batch)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)
    step = jax.jit(model.train_step, donate_argnums=0)  # As Keras compiles it.
    text = step.trace(state, batch).lower(lowering_platforms=("cuda",)).as_text()
    return text, sum(map(len, groups))


def operands(line):
    """Return the shapes and dtypes of the operands of an operation."""
    types = re.findall(r"tensor<([\dx]*?)x?([a-z]+\d+)>", line.rpartition(" : ")[2])
    return [(tuple(map(int, filter(None, s.split("x")))), d) for s, d in types]


def operations(text, kind):
    return [line for line in text.splitlines() if f"stablehlo.{kind}" in line]


@pytest.mark.usefixtures("_hopper")
@pytest.mark.parametrize("name", MODELS)
def test_only_the_classifier_multiplies_float32_matrices(name):
    products = operations(lowered(name)[0], "dot_general")
    wide = [operands(line) for line in products if "xf32>" in line]
    shapes = {tuple(shape for shape, _ in found) for found in wide}
    assert shapes == {
        ((BATCH, WIDTH), (WIDTH, CLASSES), (BATCH, CLASSES)),
        ((BATCH, CLASSES), (BATCH, WIDTH), (CLASSES, WIDTH)),
        ((BATCH, CLASSES), (WIDTH, CLASSES), (BATCH, WIDTH)),
    }
    # The patches and their gradient, and four products per block with two gradients each.
    least = 2 + 12 * BLOCKS
    assert len(products) - len(wide) >= least
    # All of attention is inside of cuDNN's kernel.
    assert all(len(shape) == 2 for line in products for shape, _ in operands(line))


@pytest.mark.usefixtures("_hopper")
@pytest.mark.parametrize("name", MODELS)
def test_no_float32_activations_are_transposed(name):
    for line in operations(lowered(name)[0], "transpose"):
        (shape, dtype), *_ = operands(line)
        assert dtype == "bf16" or shape == (CLASSES, WIDTH), line


@pytest.mark.usefixtures("_hopper")
@pytest.mark.parametrize("name", MODELS)
def test_attention_is_cudnns(name):
    calls = operations(lowered(name)[0], "custom_call")
    forward = sum("@__cudnn$fmhaSoftmax(" in line for line in calls)
    backward = sum("@__cudnn$fmhaSoftmaxBackward(" in line for line in calls)
    assert backward == BLOCKS
    assert forward == (2 * BLOCKS if name == "remat" else BLOCKS)


@pytest.mark.usefixtures("_hopper")
@pytest.mark.parametrize("name", MODELS)
def test_all_variables_are_updated_in_place(name):
    text, states = lowered(name)
    donated = text.count("tf.aliasing_output") + text.count("jax.buffer_donor")
    assert donated == states


@pytest.mark.usefixtures("_hopper")
def test_plain_formulas_have_no_kernel():
    keras_vit.kernels.use("plain")
    try:
        text, _ = lowered.__wrapped__("class token")
    finally:
        keras_vit.kernels.use("fast")
    assert "cudnn" not in text


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [6, 7])
def test_padding_changes_nothing(length, causal, monkeypatch):
    import jax

    attend = jax.nn.dot_product_attention
    implementations = []

    def on_cpu(*arguments, implementation, **options):
        implementations.append(implementation)
        return attend(*arguments, implementation="xla", **options)

    monkeypatch.setattr(jax.nn, "dot_product_attention", on_cpu)
    monkeypatch.setattr(cudnn, "is_usable", lambda *_: True)
    options = {"num_heads": 3, "scale": 0.5, "causal": causal}
    arrays, upstream = [random_array(2, length, 36)], random_array(2, length, 12, seed=1)
    fast, plain = (
        output_and_gradients(functools.partial(f, **options), arrays, upstream)
        for f in (self_attention, self_attention.plain)
    )
    np.testing.assert_allclose(fast[0], plain[0], atol=2e-6)
    np.testing.assert_allclose(fast[1][0], plain[1][0], atol=5e-6)
    assert set(implementations) == {"cudnn"}


@pytest.mark.parametrize(
    ("dtype", "head_dim", "capability", "expected"),
    [
        ("bfloat16", 64, (9, 0), True),
        ("float16", 128, (8, 0), True),
        ("float32", 64, (9, 0), False),
        ("bfloat16", 64, (7, 5), False),
        ("bfloat16", 64, (), False),
        ("bfloat16", 60, (9, 0), False),
        ("bfloat16", 256, (9, 0), False),
    ],
)
def test_where_the_kernel_is_used(dtype, head_dim, capability, expected, monkeypatch):
    monkeypatch.setattr(cudnn, "compute_capability", lambda: capability)
    assert cudnn.is_usable(dtype, head_dim) is expected


def test_cpus_have_no_capability():
    assert cudnn.compute_capability() == ()
