"""Communication and computation of a training step on a mesh of devices."""

import dataclasses
from typing import Any

from keras_vit.training.hardware import Hardware
from keras_vit.training.step_memory import Network

# A matmul of the forward pass has two in the backward pass.
BACKWARD = 2
# Sums over the axis `model` of a block: each branch in the forward and backward pass.
SUMS = 4


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices by axis, as `keras_vit.training.distributed` takes them.

    Attributes:
        data: number of devices, or groups of devices, that share a batch.
        model: number of devices that share each layer.
        fully_sharded: whether the weights are split over `data` too.
    """

    data: int
    model: int = 1
    fully_sharded: bool = False

    def __str__(self) -> str:
        words = f"data={self.data}"
        words += f",model={self.model}" if self.model > 1 else ""
        return words + (" fully sharded" if self.fully_sharded else "")


@dataclasses.dataclass(frozen=True)
class Exchange:
    """Bytes that a device sends in a step, and the seconds that this takes.

    Attributes:
        gradients: bytes of the exchange of gradients, and of weights if they are fully
            sharded, which can overlap with computation.
        tokens: bytes of the sums inside of blocks, which computation waits for.
        gradient_seconds: seconds of the exchange of gradients.
        token_seconds: seconds of the sums inside of blocks.
    """

    gradients: float
    tokens: float
    gradient_seconds: float
    token_seconds: float


def forward_operations_by_formula(network: Network, model: Any) -> float:
    """Return the operations of the matmuls of a forward pass for one image.

    A multiply-add counts as two operations.

    Args:
        network: sizes of the ViT.
        model: the ViT, or the result of `abstract_model`.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training.step_exchange import forward_operations_by_formula
    >>> from keras_vit.training.step_memory import describe
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10)
    >>> round(forward_operations_by_formula(describe(model, "gpu"), model) / 1e6)
    54
    """
    n = network
    total = 2.0 * n.grid * n.patch * n.width
    for path, weight in model.weights_by_path().items():
        if path.endswith("/kernel") and not path.startswith("patch_encoder/"):
            rows = n.tokens if path.startswith("block_") else 1
            total += 2.0 * rows * weight.shape[0] * weight.shape[1]
    return total + n.blocks * 4.0 * n.tokens**2 * n.width


def block_operations(network: Network) -> tuple[float, float]:
    """Return the operations of the attention and of the MLP of a block for one image.

    Args:
        network: sizes of the ViT.
    """
    n = network
    attention = 8.0 * n.tokens * n.width**2 + 4.0 * n.tokens**2 * n.width
    return attention, 2.0 * n.tokens * n.width * (n.expanded + n.hidden)


def step_operations(network: Network, model: Any) -> float:
    """Return the operations of a training step for one image, with those of remat.

    Args:
        network: sizes of the ViT.
        model: the ViT, or the result of `abstract_model`.
    """
    attention, mlp = block_operations(network)
    again = {False: 0.0, "block": attention + mlp, "attention": attention, "mlp": mlp}
    total = (1 + BACKWARD) * forward_operations_by_formula(network, model)
    return total + network.blocks * again[network.remat]


def step_exchange(
    network: Network,
    hardware: Hardware,
    mesh: Mesh,
    images: float,
    gradients: float,
    gathered: float,
) -> Exchange:
    """Return the bytes that a device sends in a step, with the algorithms of a ring.

    A sum over `n` devices sends `2 * (n - 1) / n` of its bytes, and gathering or
    scattering sends half of that. The weights are gathered once in a step: XLA keeps them
    for the backward pass.

    Args:
        network: sizes of the ViT.
        hardware: description of the devices.
        mesh: the mesh.
        images: images on each group of devices that shares the layers.
        gradients: bytes of the gradients of the part of the layers on a device, which
            is whole along `data`.
        gathered: bytes of the weights in the dtype in which they are gathered.

    Example:

    >>> import keras_vit
    >>> from keras_vit.training import hardware
    >>> from keras_vit.training.step_exchange import Mesh, step_exchange
    >>> from keras_vit.training.step_memory import describe
    >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10)
    >>> network = describe(model, "gpu")
    >>> h100 = hardware.load("h100x8")
    >>> step_exchange(network, h100, Mesh(8), 16, 8e6, 0).gradients
    14000000.0

    Reference: ring all-reduce: Patarasuk and Yuan (2009), doi:10.1016/j.jpdc.2008.09.002;
    sums inside of blocks: Megatron-LM (arXiv:1909.08053) section 3; fully sharded: ZeRO
    (arXiv:1910.02054) section 7.
    """
    ring = (mesh.data - 1) / mesh.data
    sent = 2 * ring * gradients
    if mesh.fully_sharded:
        # XLA scatters the sums on accelerators only.
        scattered = gradients * (2 if hardware.platform == "cpu" else 1)
        sent = ring * (scattered + gathered)
    # The block's second sum is not needed to compute it again.
    sums = SUMS + (network.remat == "block")
    tokens = images * network.tokens * network.width * network.item
    tokens *= network.blocks * sums * 2 * (mesh.model - 1) / mesh.model
    per_device = 1e9 * hardware.device_gb_per_second
    per_ring = per_device
    if mesh.data * mesh.model > hardware.devices_per_host:
        # The rings of the devices of a host share its adapters.
        per_ring = min(per_device, 1e9 * hardware.host_gb_per_second / mesh.model)
    return Exchange(
        gradients=sent,
        tokens=tokens,
        gradient_seconds=sent / (per_ring * hardware.bandwidth_fraction),
        token_seconds=tokens / (per_device * hardware.bandwidth_fraction),
    )
