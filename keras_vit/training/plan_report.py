"""The text of a plan: memory, exchanges, speed, input and the mesh to use."""

from collections.abc import Sequence

from keras_vit.text_table import aligned
from keras_vit.training import config as configs
from keras_vit.training.hardware import Hardware
from keras_vit.training.known_sets import known_set
from keras_vit.training.plan import MeshPlans, Row

HOUR = 3600
DAY = 24 * HOUR


def report(
    plan: MeshPlans,
    config: configs.Config,
    hardware: Hardware,
    images: int | None = None,
    image_bytes: int = 110_000,
    length: bool = True,
) -> str:
    """Return a plan as text.

    Args:
        plan: the plan.
        config: its config.
        hardware: description of the devices.
        images: number of training images; None to look them up by the name of the set.
        image_bytes: mean bytes of an image file.
        length: whether the config says how long the run is.
    """
    n = plan.network
    remat = f", remat={n.remat}" if n.remat else ""
    head = (
        f"{config.model.architecture}: {plan.parameters:,} parameters, "
        f"{n.tokens} tokens, {config.dtype}, {config.optimization.optimizer}{remat}\n"
        f"{hardware.hosts} x {hardware.devices_per_host} devices ({hardware.platform}) "
        f"with {hardware.usable_bytes / 1e9:,.1f} of {hardware.memory_gb:,g} GB usable; "
        f"a batch of {config.batch_size:,} images; "
        f"{plan.operations / 1e9:,.4g} billion operations per image"
    )
    parts = [
        head,
        f"Memory of a device in GB:\n{_table(_memory_rows(plan))}",
        f"A step, at best:\n{_table(_speed_rows(plan, config.batch_size))}",
    ]
    if plan.unshared:
        parts.append(
            f"Left out, because they cannot share {config.batch_size:,} images evenly: "
            f"{'; '.join(map(str, plan.unshared))}."
        )
    parts.append(_choice(plan))
    if plan.chosen is not None:
        rate = config.batch_size / plan.chosen.step_seconds
        if images is None:
            found = known_set(config)
            images = None if found is None else found.images
        if length:
            parts.append(_length(config, rate, images))
        parts.append(_input(hardware, rate, images, image_bytes))
    return "\n\n".join(parts)


def _memory_rows(plan: MeshPlans) -> list[tuple[str, ...]]:
    names = ("weights", "optimizer", "EMA", "gradients", "copies", "activations")
    rows: list[tuple[str, ...]] = [("mesh", *names, "temporary", "peak", "fits")]
    for row in plan.rows:
        m = row.memory
        sizes = [m.weights, m.optimizer - row.averages, row.averages, m.gradients]
        sizes += [m.copies, m.activations, m.temporary, m.peak]
        shown = [f"{size / 1e9:,.2f}" for size in sizes]
        rows.append((str(row.mesh), *shown, "yes" if row.fits else "NO"))
    return rows


def _speed_rows(plan: MeshPlans, batch: int) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = [
        ("mesh", "sent MB", "exchange s", "compute s", "step s", "images/s", "max batch")
    ]
    for row in plan.rows:
        sent = row.exchange.gradients + row.exchange.tokens
        seconds = row.exchange.gradient_seconds + row.exchange.token_seconds
        numbers = (seconds, row.compute_seconds, row.step_seconds)
        shown = [f"{sent / 1e6:,.0f}", *(f"{number:.4f}" for number in numbers)]
        rate = f"{batch / row.step_seconds:,.0f}"
        rows.append((str(row.mesh), *shown, rate, f"{row.largest_batch:,}"))
    return rows


def _choice(plan: MeshPlans) -> str:
    """Return a sentence about the mesh to use and the reason."""
    chosen = plan.chosen
    if chosen is None:
        least = min(row.memory.peak for row in plan.rows)
        remedies = [] if plan.network.remat == "block" else ["--remat"]
        largest = max(row.largest_batch for row in plan.rows)
        if largest:
            remedies.append(f"--batch {largest} or less")
        remedies.append("devices with more memory")
        return (
            f"No mesh has enough memory; the least is {least / 1e9:,.1f} GB. Use "
            f"{', or '.join(remedies)}."
        )
    mesh = chosen.mesh
    option = f"--mesh data={mesh.data},model={mesh.model}"
    if mesh.model == 1:
        option = f"--devices {mesh.data}"
    option += " --fully-sharded" if mesh.fully_sharded else ""
    text = f"Use {mesh} ({option}): {_reason(plan, chosen)}."
    if mesh.data * mesh.model > 1:
        text += f" {_bound(chosen)}"
    return text


def _reason(plan: MeshPlans, chosen: Row) -> str:
    simpler = plan.rows[: plan.rows.index(chosen)]
    small = [str(row.mesh) for row in simpler if not row.fits]
    slower = [str(row.mesh) for row in simpler if row.fits]
    reasons = [
        f"{', '.join(meshes)} {'needs' if len(meshes) == 1 else 'need'} {more}"
        for meshes, more in ((small, "more memory"), (slower, "more time"))
        if meshes
    ]
    return " and ".join(reasons) or "it has enough memory, and no mesh is faster"


def _bound(chosen: Row) -> str:
    """Return a sentence about the limit of the speed."""
    exchange, seconds = chosen.exchange, chosen.step_seconds
    gradients = exchange.gradient_seconds / seconds
    if gradients < 1:
        text = (
            f"Computation limits it: exchanging gradients takes {gradients:.0%} of the "
            "time, which can overlap"
        )
        if exchange.tokens:
            waiting = exchange.token_seconds / seconds
            text += f", and sums inside of blocks {waiting:.0%}, which cannot"
        return f"{text}."
    return (
        "The exchange of gradients limits it: more images on each device would use the "
        "devices better."
    )


def _length(config: configs.Config, rate: float, images: int | None) -> str:
    if config.steps is not None:
        steps = config.steps
    elif images is None:
        return "Length: the number of images is not known; pass --images N."
    else:
        steps = round(config.epochs * images / config.batch_size)
    seconds = steps * config.batch_size / rate
    time = f"{seconds / HOUR:,.3g} hours"
    if seconds >= DAY:
        time = f"{seconds / DAY:,.3g} days"
    return f"Length: {steps:,} steps, {time} at best."


def _input(hardware: Hardware, rate: float, images: int | None, image_bytes: int) -> str:
    """Return the rates that the input pipeline and the storage must reach."""
    each = rate / hardware.hosts
    cores = each / hardware.images_per_core
    read = each * image_bytes
    limit = 1e9 * hardware.storage_gb_per_second
    lines = [
        f"Input of each host: {each:,.0f} images/s; {cores:,.0f} of "
        f"{hardware.cores_per_host} cores at {hardware.images_per_core:,g} images/s; "
        f"{read / 1e6:,.0f} of {limit / 1e6:,.0f} MB/s from storage."
    ]
    if images is not None:
        lines.append(
            f"Storage: {images:,} images of {image_bytes:,} bytes, "
            f"{images * image_bytes / 1e12:,.3g} TB."
        )
    if cores > hardware.cores_per_host or read > limit:
        least = min(hardware.cores_per_host / cores, limit / read)
        lines.append(
            f"The input limits the run to {least:.1%} of its speed, "
            f"{least * rate:,.0f} images/s: use lighter augmentation, smaller files or "
            "more hosts."
        )
    return "\n".join(lines)


def _table(rows: Sequence[tuple[str, ...]]) -> str:
    return "\n".join(aligned(rows, right=range(1, len(rows[0]))))
