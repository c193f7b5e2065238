"""Choice of the devices that share the work of a command."""

import contextlib
import math
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from keras_vit.data.host import tensorflow
from keras_vit.data.pipeline import batch_devices
from keras_vit.training.sharding import DATA, MODEL, ModelParallel, layout_map

# Flag that divides a CPU into virtual devices, for trials.
VIRTUAL = "XLA_FLAGS=--xla_force_host_platform_device_count={}"


@contextlib.contextmanager
def distributed(
    mesh: Mapping[str, int] | None, fully_sharded: bool = False
) -> Iterator[None]:
    """Share everything that is built and computed in a `with` block among devices.

    Under JAX, this is a `keras.distribution` over the first devices that it takes; under
    TensorFlow, a `tf.distribute.MirroredStrategy`. Build, compile and train in the block.

    Args:
        mesh: None for one device; or the number of devices of each axis, `data`, over
            which every batch is split, and under JAX also `model`, over which the
            weights of each layer are; see `layout_map`.
        fully_sharded: bool, whether to split the weights and the optimizer's variables
            over `data` too, under JAX; see `ModelParallel`.

    Raises:
        ValueError: there are fewer devices, or the backend does not support this.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training import distributed
    >>> with distributed({"data": 1}):
    ...     model = keras_vit.ViT(
    ...         (16, 16, 3), patch_size=8, hidden_dim=8, num_layers=2, num_heads=2,
    ...         mlp_dim=16)
    """
    if mesh is None:
        if fully_sharded:
            raise ValueError("fully_sharded=True splits weights over devices: set mesh.")
        yield
        return
    backend = keras.backend.backend()
    if backend == "tensorflow":
        with _mirrored(mesh, fully_sharded).scope():
            yield
    elif backend == "jax":
        before = keras.distribution.distribution()
        keras.distribution.set_distribution(_sharded(mesh, fully_sharded))
        try:
            yield
        finally:
            keras.distribution.set_distribution(before)
    else:
        raise ValueError(
            f"Keras does not distribute models under {backend}: use one device, or "
            "KERAS_BACKEND=jax or tensorflow."
        )


def replicas() -> int:
    """Return the number of devices of a `tf.distribute` strategy, 1 without one."""
    if keras.backend.backend() != "tensorflow":
        return 1
    return tensorflow().distribute.get_strategy().num_replicas_in_sync


def mesh_in_use() -> dict[str, int | bool] | None:
    """Return the arguments of `distributed` that are in force, None for one device."""
    if replicas() > 1:
        return {DATA: replicas()}
    distribution = keras.distribution.distribution()
    if distribution is None:
        return None
    mesh = distribution.device_mesh
    sizes = zip(mesh.axis_names, map(int, mesh.shape), strict=True)
    split = getattr(distribution, "fully_sharded", False)
    return {**dict(sizes), "fully_sharded": split}


def check_run(batch_size: int, accumulation_steps: int) -> None:
    """Raise a `ValueError` unless the devices can share the batches of a run.

    Args:
        batch_size: int, number of images in a batch of training.
        accumulation_steps: int, number of batches in an update of the weights.
    """
    devices = batch_devices() * replicas()
    if accumulation_steps > 1 and replicas() > 1:
        raise ValueError(
            "Keras does not accumulate gradients under tf.distribute: set "
            "optimization.accumulation_steps=1, or KERAS_BACKEND=jax."
        )
    if batch_size % devices:
        low, high = (batch_size // devices + i for i in (0, 1))
        sizes = " or ".join(str(n * devices) for n in (low, high) if n)
        raise ValueError(
            f"{devices} devices cannot share a batch of {batch_size} images evenly: set "
            f"batch_size={sizes}, or use another number of devices."
        )


def check_heads(model: keras.Model) -> None:
    """Raise a `ValueError` unless the axis `model` divides the heads of a model.

    Args:
        model: a model that was built under the distribution.
    """
    distribution = keras.distribution.distribution()
    if not isinstance(distribution, ModelParallel):
        return
    mesh = distribution.device_mesh
    parts = dict(zip(mesh.axis_names, mesh.shape, strict=True)).get(MODEL, 1)
    for layer in model._flatten_layers():
        heads = getattr(layer, "num_heads", None)
        if isinstance(heads, int) and heads % parts:
            raise ValueError(
                f"model={parts} devices cannot share the {heads} heads of {layer.path}: "
                "the number must divide them."
            )


def _sharded(mesh, fully_sharded):
    """Return the `keras.distribution` of a mesh."""
    devices = keras.distribution.list_devices()
    count = math.prod(mesh.values())
    _check_count(count, devices, f" For a trial on one CPU: {VIRTUAL.format(count)}")
    shape = (mesh[DATA], mesh[MODEL]) if MODEL in mesh else (mesh[DATA],)
    names = (DATA, MODEL)[: len(shape)]
    device_mesh = keras.distribution.DeviceMesh(shape, names, devices[:count])
    return ModelParallel(layout_map=layout_map(device_mesh), fully_sharded=fully_sharded)


def _mirrored(mesh, fully_sharded):
    """Return the strategy of a mesh under TensorFlow."""
    if fully_sharded or mesh.get(MODEL, 1) > 1:
        raise ValueError(
            "Weights are split over devices under JAX only: set KERAS_BACKEND=jax, or "
            "use data=N without fully_sharded."
        )
    tf = tensorflow()
    kinds = (tf.config.list_logical_devices(kind) for kind in ("GPU", "CPU"))
    devices = [device.name for device in next(filter(None, kinds))]
    _check_count(mesh[DATA], devices)
    return tf.distribute.MirroredStrategy(devices[: mesh[DATA]])


def _check_count(count: int, devices: list[Any], remedy: str = "") -> None:
    if count > len(devices):
        raise ValueError(
            f"{count} devices are wanted, and there are {len(devices)}: "
            f"{', '.join(map(str, devices[:8]))}.{remedy}"
        )
