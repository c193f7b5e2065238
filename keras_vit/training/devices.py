"""Choice of the devices that share the work of a command."""

import contextlib
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from keras_vit import processes
from keras_vit.data.pipeline import batch_devices
from keras_vit.training.sharding import DATA, MODEL, ModelParallel, layout_map

# Flag that divides a CPU into virtual devices, for trials.
VIRTUAL = "XLA_FLAGS=--xla_force_host_platform_device_count={}"


@contextlib.contextmanager
def distributed(
    mesh: Mapping[str, int] | None, fully_sharded: bool = False
) -> Iterator[None]:
    """Share everything that is built and computed in a `with` block among devices.

    It is a `keras.distribution` over the first devices, and needs JAX. Build, compile and
    train in the block.

    Args:
        mesh: None for one device, or for all devices of several processes; or the number
            of devices of each axis: `data`, over which every batch is split, and `model`,
            over which the weights of each layer are; see `layout_map`.
        fully_sharded: bool, whether to split the weights and the optimizer's variables
            over `data` too; see `ModelParallel`.

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
    if mesh is None and processes.count() > 1:
        mesh = {DATA: len(keras.distribution.list_devices())}
    if mesh is None and fully_sharded:
        raise ValueError("fully_sharded=True splits weights over devices: set mesh.")
    if mesh is None or (math.prod(mesh.values()) == 1 and processes.count() == 1):
        yield
        return
    # Keras clips the gradients of each replica of a `tf.distribute` strategy by
    # themselves, so that a run would not equal one on one device.
    if keras.backend.backend() != "jax":
        raise ValueError(
            f"Several devices need KERAS_BACKEND=jax; it is {keras.backend.backend()!r}."
        )
    with _sharded(mesh, fully_sharded).scope():
        yield


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """Build models in a `with` block in one process, without the devices of others."""
    if processes.count() == 1:
        yield
        return
    before = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    # The other processes do not draw the seeds of these models.
    drawn = random.getstate()
    try:
        yield
    finally:
        random.setstate(drawn)
        keras.distribution.set_distribution(before)


def predictor(model: Any) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from the images of this process to a model's outputs for them.

    It is `model.predict_on_batch`, except that Keras would convert the outputs for the
    images of all processes, which JAX does not hold in one of them.

    Args:
        model: a Keras model, or an `Export`, which runs in each process by itself.
    """
    if processes.count() == 1 or not isinstance(model, keras.Model):
        return model.predict_on_batch
    import jax

    distribution = keras.distribution.distribution()
    variables = tuple(
        [variable.value for variable in part]
        for part in (model.trainable_variables, model.non_trainable_variables)
    )

    def layout(shape):
        return distribution.get_data_layout(shape).backend_layout

    @jax.jit
    def outputs(variables, images):
        values, _ = model.stateless_call(*variables, images, training=False)
        return jax.lax.with_sharding_constraint(values, layout(values.shape))

    def predict(images):
        whole = jax.make_array_from_process_local_data(layout(images.shape), images)
        return processes.own_rows(outputs(variables, whole))

    return predict


def mesh_in_use() -> dict[str, int | bool] | None:
    """Return the arguments of `distributed` that are in force, None for one device."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return None
    mesh = distribution.device_mesh
    sizes = zip(mesh.axis_names, map(int, mesh.shape), strict=True)
    split = getattr(distribution, "fully_sharded", False)
    return {**dict(sizes), "fully_sharded": split}


def check_batch(batch_size: int) -> None:
    """Raise a `ValueError` unless the devices can share a batch evenly.

    Args:
        batch_size: int, number of images in a batch of training.
    """
    devices = batch_devices()
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
    if count > len(devices):
        raise ValueError(
            f"{count} devices are wanted, and there are {len(devices)}: "
            f"{', '.join(map(str, devices[:8]))}. For a trial on one CPU: "
            f"{VIRTUAL.format(count)}"
        )
    if processes.count() > 1 and count != len(devices):
        raise ValueError(
            f"The processes have {len(devices)} devices and must use all of them; the "
            f"mesh has {count}."
        )
    shape = (mesh[DATA], mesh[MODEL]) if MODEL in mesh else (mesh[DATA],)
    names = (DATA, MODEL)[: len(shape)]
    device_mesh = keras.distribution.DeviceMesh(shape, names, devices[:count])
    return ModelParallel(
        layout_map=layout_map(device_mesh),
        fully_sharded=fully_sharded,
        auto_shard_dataset=False,  # `keras_vit.data` reads the part of each process.
    )
