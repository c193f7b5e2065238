"""Measurements that the benchmark offers.

Each function in `MEASUREMENTS` yields the cases of one measurement, given the `Options`
of the command line. The keys of `MEASUREMENTS` are the names on the command line, and the
docstrings of the functions are their descriptions in `--help`.
"""

import argparse
import pathlib
from collections.abc import Callable, Iterator
from typing import Any

from keras_vit.models.t2t_variants import T2T_VIT_ARGUMENTS
from keras_vit.models.variants import VIT_SIZES
from recipes.benchmark import flops
from recipes.benchmark.contestants import Contestant
from recipes.benchmark.runner import Case
from recipes.benchmark.tasks.formats import FORMATS

SIZE_NAMES = ("patch_size", "hidden_dim", "num_layers", "num_heads", "mlp_dim")
BACKENDS = ("jax", "tensorflow", "torch")
HEAD_DIM = 64
# The T2T-ViTs with Performers and plain blocks.
T2T_PATCH = 16  # Pixels by which the splits divide an image.
_DEPTHS = (7, 10, 12, 14, 19, 24)
T2T_VARIANTS = {f"T2T{n}": T2T_VIT_ARGUMENTS[f"T2TViT{n}"] for n in _DEPTHS}
# Batch sizes in which exported models are run.
SERVED_BATCHES = (1, 8, 32)
# Checkpoint formats, with the libraries that read them and the families that they hold.
LOADERS = {
    ".npz": (("keras_vit",), ("vit",)),
    ".safetensors": (("keras_vit", "timm", "transformers"), ("vit", "dinov3")),
    ".keras": (("keras_vit", "keras_hub"), ("vit", "dinov3", "t2t")),
}


class Options(argparse.Namespace):
    """Options from the command line."""

    what: list[str]
    variants: list[str]
    contestants: list[Contestant]
    batches: list[int]
    image_size: int
    family: str
    dtype: str
    alternations: int
    repetitions: int
    timeout: int
    reference: str | None
    checkpoint: str | None
    resolutions: list[int]
    depths: list[int]
    widths: list[int]
    out: pathlib.Path
    left_out: dict[str, list[str]]  # From contestant to its missing packages.
    scratch: pathlib.Path  # Temporary directory, deleted at the end.

    def sizes(self, variant: str, **changed: int) -> dict[str, Any]:
        """Return the family and the sizes of a variant, some of them replaced."""
        if variant in T2T_VARIANTS:
            row = {name: T2T_VARIANTS[variant][name] for name in SIZE_NAMES[1:]}
            return {"family": "t2t", "image_size": self.image_size, **row, **changed}
        row = dict(zip(SIZE_NAMES, VIT_SIZES[f"ViT{variant}"], strict=True))
        sizes = {"image_size": self.image_size, **row, **changed}
        return sizes if self.family == "vit" else {"family": self.family, **sizes}

    @property
    def plain_variants(self) -> list[str]:
        """Variants that are ViTs of the paper."""
        return [v for v in self.variants if "family" not in self.sizes(v)]

    @property
    def batch(self) -> int:
        """Batch size of the measurements that have only one."""
        return self.batches[0]

    @property
    def backends(self) -> list[str]:
        """Backends of the contestants."""
        used = {contestant.backend for contestant in self.contestants}
        return [backend for backend in BACKENDS if backend in used]

    def of(self, *libraries: str) -> list[Contestant]:
        """Return the contestants of some libraries."""
        return [c for c in self.contestants if c.library in libraries]


def models(
    options: Options,
    group: str,
    task: str,
    sizes: dict[str, Any],
    contestants: list[Contestant] | None = None,
    flops: int | None = None,
    fresh: bool = False,
    **parameters: Any,
) -> Iterator[Case]:
    """Yield one case for each contestant, for a model of the given sizes.

    Args:
        options: options from the command line.
        group: see `Case`.
        task: see `Case`.
        sizes: see `Contestant.build`.
        contestants: list of contestants; None for all.
        flops: see `Case`.
        fresh: see `Case`.
        **parameters: further parameters of the task.
    """
    for contestant in options.contestants if contestants is None else contestants:
        yield Case(
            group,
            contestant.name,
            task,
            {
                "contestant": contestant.name,
                "sizes": sizes,
                "dtype": options.dtype,
                **parameters,
            },
            contestant.backend,
            fresh,
            flops,
        )


def inference(options):
    """Time a forward pass of one batch."""
    yield from _for_variants_and_batches(options, _inference, ".models.inference")


def training(options):
    """Time a training step of one batch; Keras models train with `fit`."""
    yield from _for_variants_and_batches(options, _training, ".models.training")


def inference_on_device(options):
    """Time a forward pass of a batch that is on the device already."""
    yield from _for_variants_and_batches(options, _inference, ".on_device.inference")


def training_on_device(options):
    """Time a compiled training step of a batch that is on the device already."""
    yield from _for_variants_and_batches(options, _training, ".on_device.training")


def _for_variants_and_batches(options, cases, task):
    for variant in options.variants:
        for batch in options.batches:
            yield from cases(options, variant, options.sizes(variant), batch, task)


def resolution(options):
    """Time a forward pass of one image for several image sizes."""
    variant = options.variants[0]
    for size in options.resolutions:
        yield from _inference(
            options, variant, options.sizes(variant, image_size=size), 1
        )


def depth(options):
    """Time a training step for several numbers of blocks."""
    variant = options.variants[0]
    for layers in options.depths:
        sizes = options.sizes(variant, num_layers=layers)
        label = f"{variant}, {layers} blocks"
        yield from _training(options, label, sizes, options.batch)


def width(options):
    """Time a training step for several widths; heads and MLP grow with the width."""
    variant = options.variants[0]
    for d in options.widths:
        sizes = options.sizes(
            variant, hidden_dim=d, num_heads=d // HEAD_DIM, mlp_dim=4 * d
        )
        yield from _training(options, f"{variant}, width {d}", sizes, options.batch)


def _inference(options, variant, sizes, batch, task=".models.inference"):
    yield from models(
        options,
        f"{variant}, {sizes['image_size']} px, batch {batch}",
        task,
        sizes,
        flops=_operations(flops.forward, batch, sizes),
        batch=batch,
        repetitions=options.repetitions,
    )


def _operations(count, batch, sizes):
    """Return the operations for a batch, or None for T2T-ViT, which has no formula."""
    return None if sizes.get("family") == "t2t" else batch * count(**sizes)


def _training(options, label, sizes, batch, task=".models.training"):
    yield from models(
        options,
        f"{label}, {sizes['image_size']} px, batch {batch}",
        task,
        sizes,
        flops=_operations(flops.training, batch, sizes),
        batch=batch,
        repetitions=options.repetitions,
    )


def attention(options):
    """Time one self-attention layer (6 heads of width 64) for 197 and 1025 tokens."""
    libraries = [(c.library, c.backend) for c in options.contestants if c.is_default]
    backends = [b for library, b in libraries if library == "keras_vit"]
    layers = [(f"keras_vit-{b}", "keras_vit", b) for b in backends]
    layers += [(f"keras-{b}", "keras", b) for b in backends]
    if ("timm", "torch") in libraries:
        layers.append(("timm", "timm", "torch"))
    for tokens in (197, 1025):
        for name, library, backend in layers:
            parameters = {
                "library": library,
                "backend": backend,
                "dtype": options.dtype,
                "batch": options.batch,
                "tokens": tokens,
                "repetitions": options.repetitions,
            }
            group = f"attention, {tokens} tokens, batch {options.batch}"
            yield Case(group, name, ".attention.attention", parameters, backend)


def build(options):
    """Time the construction of a model in a new process."""
    for variant in options.variants:
        sizes = options.sizes(variant)
        yield from models(options, variant, ".models.build", sizes, fresh=True)


def first_call(options):
    """Time the first forward pass and the first training step of a new process."""
    for variant in options.variants:
        for task in ("first_forward", "first_step"):
            yield from models(
                options,
                f"{variant}, {task.replace('_', ' ')}",
                f".models.{task}",
                options.sizes(variant),
                fresh=True,
                batch=options.batch,
            )


def imports(options):
    """Time `import keras`, then `import keras_vit` or `keras_hub`, in a new process."""
    for contestant in options.of("keras_vit", "keras_hub"):
        if contestant.is_default:
            parameters = {"library": contestant.library}
            task, backend = ".imports.imports", contestant.backend
            yield Case("imports", contestant.name, task, parameters, backend, fresh=True)


def memory(options):
    """Measure the memory of forward passes and training steps beyond the model itself."""
    for variant in options.variants:
        sizes = options.sizes(variant)
        with_remat = {**sizes, "remat": True}
        for kind, kind_sizes, train, contestants in (
            ("forward", sizes, False, options.contestants),
            ("training", sizes, True, options.contestants),
            ("training, remat", with_remat, True, options.of("keras_vit")),
        ):
            yield from models(
                options,
                f"{variant}, {kind}, batch {options.batch}",
                ".models.memory",
                kind_sizes,
                contestants,
                fresh=True,
                batch=options.batch,
                train=train,
            )


def fit_overhead(options):
    """Compare a step of `fit` with the bare compiled step of the same model."""
    keras = [c for c in options.of("keras_vit", "keras_hub") if c.backend != "torch"]
    for variant in options.variants:
        yield from models(
            options,
            f"{variant}, batch {options.batch}",
            ".models.fit_overhead",
            options.sizes(variant),
            keras,
            batch=options.batch,
            repetitions=options.repetitions,
        )


def matmul(options):
    """Measure the machine's FLOP rate for the first matrix product of an MLP."""
    frameworks = options.backends + ["numpy"] * (options.dtype == "float32")
    for variant in options.variants:
        sizes = options.sizes(variant)
        tokens = (sizes["image_size"] // sizes.get("patch_size", T2T_PATCH)) ** 2 + 1
        rows, d = options.batch * tokens, sizes["hidden_dim"]
        for framework in frameworks:
            parameters = {
                "framework": framework,
                "dtype": options.dtype,
                "rows": rows,
                "width": d,
            }
            group = f"({rows}, {d}) x ({d}, {4 * d})"
            yield Case(group, framework, ".machine.matmul", parameters, framework)


def input_pipeline(options):
    """Measure how fast tf.data and Pillow (one thread) decode, crop and resize JPEGs."""
    for reader in ("tf.data", "pillow"):
        parameters = {"reader": reader, "image_size": options.image_size}
        group = f"JPEG 500x375 to {options.image_size} px"
        task = ".machine.input_pipeline"
        yield Case(group, reader, task, parameters, "tensorflow", device="cpu")


def loading(options):
    """Measure the time and the peak memory of loading a checkpoint."""
    for variant in options.variants:
        sizes = options.sizes(variant)
        for ending, (libraries, families) in LOADERS.items():
            if sizes.get("family", "vit") not in families:
                continue
            contestants = [c for c in options.of(*libraries) if c.is_default]
            yield from models(
                options,
                f"{variant}, {ending}",
                ".files.loading",
                sizes,
                contestants,
                fresh=True,
                directory=str(options.scratch / variant),
                ending=ending,
            )


def export(options):
    """Time exports to each format, then compare their inference with that of models."""
    for variant in options.variants:
        sizes, group = options.sizes(variant), f"{variant}, {options.image_size} px"
        # One exporter is enough: the files are the same for all backends.
        exporters = [c for c in options.of("keras_vit") if c.is_default][:1]
        formats = [(name, exporter) for exporter in exporters for name in FORMATS]
        place = {"directory": str(options.scratch / f"{variant}-exports")}
        for name, exporter in formats:
            parameters = {
                "contestant": exporter.name,
                "sizes": sizes,
                "dtype": options.dtype,
                "format_name": name,
                **place,
            }
            task = ".formats.export"
            yield Case(f"{group}, export", name, task, parameters, exporter.backend)
        for batch in SERVED_BATCHES:
            served = f"{group}, batch {batch}, serving"
            run = {"batch": batch, "repetitions": options.repetitions}
            image_size = options.image_size
            for name, _ in formats:
                parameters = {"format_name": name, "image_size": image_size}
                parameters |= {**place, **run}
                # onnxruntime and LiteRT run on the CPU here, a SavedModel on any device.
                device = None if name.startswith("SavedModel") else "cpu"
                task = ".formats.served"
                yield Case(served, name, task, parameters, "tensorflow", device=device)
            yield from models(options, served, ".formats.predicted", sizes, **run)


def features(options):
    """Compare ONNX files of a headless model, of keras_vit and torch's of timm."""
    checkpoint = options.checkpoint
    contestants = [f"keras_vit-{kind}" for kind in ("ONNX", "ONNX-resize")]
    contestants = contestants * bool(options.of("keras_vit"))
    contestants += ["timm"] * bool(options.of("timm"))
    for variant in [None] if checkpoint else options.plain_variants:
        sizes = {"image_size": options.image_size}
        if variant is not None:
            sizes = options.sizes(variant)
        name = variant or pathlib.Path(checkpoint).name
        for batch in SERVED_BATCHES[:2]:
            for contestant in contestants:
                yield Case(
                    f"{name}, {options.image_size} px, batch {batch}, features",
                    contestant,
                    ".features.served",
                    {
                        "contestant": contestant,
                        "checkpoint": checkpoint,
                        "sizes": sizes,
                        "directory": str(options.scratch / f"{name}-features"),
                        "batch": batch,
                        "repetitions": options.repetitions,
                    },
                    "torch" if contestant == "timm" else "tensorflow",
                    device="cpu",  # onnxruntime's default.
                )


MEASUREMENTS: dict[str, Callable[[Options], Iterator[Case]]] = {
    "matmul": matmul,
    "inference": inference,
    "training": training,
    "inference-on-device": inference_on_device,
    "training-on-device": training_on_device,
    "attention": attention,
    "build": build,
    "first-call": first_call,
    "import": imports,
    "memory": memory,
    "resolution": resolution,
    "depth": depth,
    "width": width,
    "input": input_pipeline,
    "loading": loading,
    "export": export,
    "features": features,
    "fit-overhead": fit_overhead,
}
