"""Plans of runs: memory, exchanges and speed on each mesh, and the mesh to choose."""

import dataclasses
import math
from typing import Any

import keras

from keras_vit.kernels.precision import is_half
from keras_vit.training import config as configs
from keras_vit.training.abstract_model import abstract_model, abstract_optimizer
from keras_vit.training.hardware import Hardware
from keras_vit.training.sharding import DATA, MODEL, ModelParallel, layout_map
from keras_vit.training.step_exchange import (
    Exchange,
    Mesh,
    step_exchange,
    step_operations,
)
from keras_vit.training.step_memory import (
    Memory,
    Network,
    bytes_of,
    describe,
    step_memory,
)

# Sizes of the axis `model` to try.
MODEL_SIZES = (2, 4, 8)
# A mesh is preferred to a simpler one only if it is faster by this factor.
FASTER = 1.01
# Largest number of images on a device that is tried.
_MOST_IMAGES = 2**20


@dataclasses.dataclass(frozen=True)
class Row:
    """Plan of a run on one mesh.

    Attributes:
        mesh: the mesh.
        memory: bytes of a step on one device.
        averages: bytes of the moving average of the weights, a part of
            `memory.optimizer`.
        fits: whether a device has enough memory.
        largest_batch: largest batch that fits, in images of all devices; 0 for none.
        exchange: bytes that a device sends in a step.
        compute_seconds: seconds of the computation of a step.
    """

    mesh: Mesh
    memory: Memory
    averages: float
    fits: bool
    largest_batch: int
    exchange: Exchange
    compute_seconds: float

    @property
    def step_seconds(self) -> float:
        """Least seconds of a step, if the exchange of gradients overlaps completely."""
        waiting = self.compute_seconds + self.exchange.token_seconds
        return max(waiting, self.exchange.gradient_seconds)


@dataclasses.dataclass(frozen=True)
class MeshPlans:
    """Plans of a run on every mesh of some hardware.

    Attributes:
        network: sizes of the ViT.
        parameters: number of weights.
        operations: operations of a training step for one image.
        rows: one for each mesh that can share the batch, the simplest first.
        unshared: meshes that cannot share the batch evenly.
        chosen: the row of the mesh to use, or None if no mesh has enough memory.
    """

    network: Network
    parameters: int
    operations: float
    rows: tuple[Row, ...]
    unshared: tuple[Mesh, ...]
    chosen: Row | None


def mesh_plans(config: configs.Config, hardware: Hardware) -> MeshPlans:
    """Compute the plan of a run without memory for its weights.

    Args:
        config: config of classification by a ViT; `batch_size` is that of all devices.
        hardware: description of the devices.

    Raises:
        ValueError: the memory of the network is not known, no mesh can share the batch,
            or the hardware has no peak for the dtype.

    Example:

    >>> from keras_vit.training import config as configs
    >>> from keras_vit.training import hardware
    >>> from keras_vit.training.plan import mesh_plans
    >>> config = configs.load("vit_s16_imagenet_90ep")
    >>> plan = mesh_plans(config, hardware.load("h100x8"))
    >>> str(plan.chosen.mesh), len(plan.rows)
    ('data=8', 3)
    """
    model = abstract_model(config)
    optimizer = abstract_optimizer(model, config)
    network = describe(model, hardware.platform)
    operations = step_operations(network, model)
    flops = hardware.flops(model.dtype_policy.compute_dtype)
    meshes = candidates(hardware, network.heads)
    shared = [mesh for mesh in meshes if config.batch_size % mesh.data == 0]
    if not shared:
        raise ValueError(
            f"batch_size={config.batch_size} cannot be shared by {hardware.devices} "
            f"devices: use a multiple of {hardware.devices} (--batch)."
        )
    rows = tuple(
        _row(mesh, config, hardware, network, model, optimizer, operations / flops)
        for mesh in shared
    )
    return MeshPlans(
        network=network,
        parameters=model.count_params(),
        operations=operations,
        rows=rows,
        unshared=tuple(mesh for mesh in meshes if mesh not in shared),
        chosen=choose(rows),
    )


def candidates(hardware: Hardware, heads: int) -> list[Mesh]:
    """Return the meshes of all devices to compare, the simplest first.

    Args:
        hardware: description of the devices.
        heads: number of attention heads, which the axis `model` must divide.

    Example:

    >>> from keras_vit.training import hardware
    >>> from keras_vit.training.plan import candidates
    >>> [str(mesh) for mesh in candidates(hardware.load("h100x8"), 6)]
    ['data=8', 'data=8 fully sharded', 'data=4,model=2']
    """
    count = hardware.devices
    found = [Mesh(count)]
    if count > 1:
        found.append(Mesh(count, fully_sharded=True))
    for size in MODEL_SIZES:
        if not heads % size and not hardware.devices_per_host % size:
            found.append(Mesh(count // size, size))
    return found


def choose(rows: tuple[Row, ...]) -> Row | None:
    """Return the fastest row with enough memory, or the simplest of equally fast ones.

    Args:
        rows: the rows, the simplest mesh first.
    """
    chosen = None
    for row in [row for row in rows if row.fits]:
        if chosen is None or row.step_seconds * FASTER < chosen.step_seconds:
            chosen = row
    return chosen


def _row(mesh, config, hardware, network, model, optimizer, device_seconds):
    """Return the row of a mesh.

    Args:
        mesh: the mesh.
        config: the config.
        hardware: description of the devices.
        network: sizes of the ViT.
        model: the abstract model.
        optimizer: its abstract optimizer.
        device_seconds: seconds of one device for the step of one image.
    """
    axes = _axes(model, mesh)
    sizes = {DATA: mesh.data, MODEL: mesh.model}

    def parts(variable, names=(DATA, MODEL)):
        used = axes.get(_reference(variable.path, axes), ())
        return math.prod(sizes[axis] for axis in used if axis in names)

    def model_parts(variable):
        return parts(variable, (MODEL,))

    gathered = [w for w in model.weights if DATA in axes[_key(w.path)]]
    variables = optimizer.variables
    trained = model.trainable_variables
    copies = bytes_of(gathered, model_parts)
    if is_half(model.dtype_policy.compute_dtype):
        copies = bytes_of(model.weights, model_parts) / 2
    settings = config.optimization
    together = settings.clip_norm is not None or settings.accumulation_steps > 1
    gradients = [bytes_of([weight], parts) for weight in trained]
    state = {
        "weights": bytes_of(model.weights, parts),
        "optimizer": bytes_of(variables, parts),
        "gradients": sum(gradients) if together else max(gradients),
        "copies": copies,
        "parts": mesh.model,
    }

    def memory(images):
        return step_memory(network, hardware.platform, images, **state)

    images = config.batch_size // mesh.data
    largest = _largest(
        lambda number: memory(number).peak <= hardware.usable_bytes, _MOST_IMAGES
    )
    averages = [v for v in variables if v.path.endswith("_average")]
    return Row(
        mesh=mesh,
        memory=memory(images),
        averages=bytes_of(averages, parts),
        fits=images <= largest,
        largest_batch=largest * mesh.data,
        exchange=step_exchange(
            network,
            hardware,
            mesh,
            images,
            bytes_of(trained, model_parts),
            bytes_of(gathered, model_parts),
        ),
        compute_seconds=images * device_seconds / mesh.model,
    )


def _axes(model: Any, mesh: Mesh) -> dict[str, tuple]:
    """Return the axes that split each weight, by its path with underscores."""
    # As by `--devices`, because an axis of one device would take a dimension.
    count = 1 if mesh.model == 1 else 2
    shape, names = (mesh.data, mesh.model)[:count], (DATA, MODEL)[:count]
    devices = [f"cpu:{index}" for index in range(math.prod(shape))]
    layouts = layout_map(keras.distribution.DeviceMesh(shape, names, devices))
    distribution = ModelParallel(layout_map=layouts, fully_sharded=mesh.fully_sharded)
    return {
        _key(weight.path): distribution.get_variable_layout(weight).axes
        for weight in model.weights
    }


def _key(path):
    return path.replace("/", "_")


def _reference(path, axes):
    """Return the key of the weight that a variable is, or that it belongs to.

    Keras calls the variables of an optimizer `adam_w/block_0_mlp_expand_kernel_momentum`.
    """
    key = _key(path)
    if key in axes:
        return key
    own = path.rpartition("/")[2]
    while own and own not in axes:
        own = own.rpartition("_")[0]
    return own


def _largest(accepts, most):
    """Return the largest number up to `most` that is accepted, 0 if 1 is not."""
    low, high = 0, most + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if accepts(middle) else (low, middle)
    return low
