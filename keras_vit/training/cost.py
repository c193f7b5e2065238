"""Cost of a model: operations, memory, and utilization of the device."""

import math
import resource
import sys
from collections.abc import Callable
from typing import Any

import keras

# Peak dense FLOP/s by device (a substring of its name) and dtype, from NVIDIA's data
# sheets. The values for float32 are those of TF32, which XLA uses for matmuls, where the
# device has it.
PEAKS = {
    "H200": {"bfloat16": 989e12, "float32": 494e12},
    "H100": {"bfloat16": 989e12, "float32": 494e12},
    "A100": {"bfloat16": 312e12, "float32": 156e12},
    "L4": {"bfloat16": 121e12, "float32": 60e12},
    "V100": {"float16": 125e12, "float32": 15.7e12},
    "T4": {"float16": 65e12, "float32": 8.1e12},
}
# Operations of a training step in multiples of a forward pass: the backward pass has two
# matmuls for each matmul of the forward pass.
TRAINING = 3


def forward_operations(model: keras.Model) -> int:
    """Return the floating-point operations for one image, as the backend counts them.

    A multiply-add counts as two operations. TensorFlow and JAX also count elementwise
    operations, less than 1 % of the total for these models; torch does not.

    Args:
        model: a functional model that takes images, or several views of them.
    """

    def inputs(make):
        return keras.tree.map_structure(lambda x: make((1, *x.shape[1:])), model.input)

    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        def described(variables):
            return [jax.ShapeDtypeStruct(tuple(v.shape), v.dtype) for v in variables]

        def forward(trainable, others, images):
            return model.stateless_call(trainable, others, images, training=False)[0]

        lowered = jax.jit(forward).lower(
            described(model.trainable_variables),
            described(model.non_trainable_variables),
            inputs(lambda shape: jax.ShapeDtypeStruct(shape, "float32")),
        )
        analysis: Any = lowered.cost_analysis()
        return int(analysis["flops"])
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(
            lambda images: model(images, training=False), autograph=False
        )
        graph = function.get_concrete_function(inputs(tf.TensorSpec)).graph
        builder = tf.compat.v1.profiler.ProfileOptionBuilder
        options = builder(builder.float_operation()).with_empty_output().build()
        return tf.compat.v1.profiler.profile(graph, options=options).total_float_ops
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # The counter does not support the fused attention of CPUs.
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
        sdpa_kernel(SDPBackend.MATH),
    ):
        model(inputs(keras.ops.zeros), training=False)
    return counter.get_total_flops()


def device_name() -> str:
    """Return the name of the accelerator that the backend uses, or `cpu`."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.devices()[0].device_kind
    if backend == "tensorflow":
        import tensorflow as tf

        devices = tf.config.list_physical_devices("GPU")
        details = tf.config.experimental.get_device_details
        return details(devices[0]).get("device_name", "GPU") if devices else "cpu"
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"


def peak(dtype: str) -> float | None:
    """Return the peak FLOP/s of the device under a dtype policy, or None if unknown.

    Args:
        dtype: name of the dtype policy, such as `"float32"` or `"mixed_bfloat16"`.
    """
    name = device_name()
    compute = keras.dtype_policies.get(dtype).compute_dtype
    found = [peaks for part, peaks in PEAKS.items() if part in name]
    return found[0].get(compute) if found else None


def peak_memory() -> int:
    """Return the peak memory of this process in bytes, on the accelerator if any."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        statistics = jax.devices()[0].memory_stats()
        if statistics:
            return statistics["peak_bytes_in_use"]
    elif backend == "tensorflow":
        import tensorflow as tf

        if tf.config.list_physical_devices("GPU"):
            return tf.config.experimental.get_memory_info("GPU:0")["peak"]
    else:
        import torch

        if torch.cuda.is_available():
            return torch.cuda.max_memory_allocated()
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return size if sys.platform == "darwin" else size * 1024


def utilization(model: keras.Model, dtype: str) -> Callable[[float], float] | None:
    """Return a function from images/s in training to model FLOPs utilization.

    Operations that are recomputed in the backward pass (`remat`) are not counted.

    Args:
        model: the model to train.
        dtype: name of its dtype policy.

    Returns:
        The function, or None if the peak of the device is unknown, or if kernels are
        frozen: a step then has fewer operations than three forward passes. With several
        devices, the images are those of all of them, and so is the peak.

    Reference: PaLM (arXiv:2204.02311), appendix B.
    """
    most = peak(dtype)
    kernels = (w for p, w in model.weights_by_path().items() if p.endswith("/kernel"))
    if most is None or not all(kernel.trainable for kernel in kernels):
        return None
    distribution = keras.distribution.distribution()
    if distribution is not None:
        most *= math.prod(distribution.device_mesh.shape)
    operations = TRAINING * forward_operations(model)
    return lambda images_per_second: images_per_second * operations / most
