r"""Accuracy and speed of a model with fewer tokens: token merging and stopping tokens.

python -m recipes.fewer_tokens CHECKPOINT --set data.test=... [--workdir DIR]

Each variant is evaluated on the same images: all of the test set, or `--images N` drawn
from it at random, always the same ones. The speeds are measured in turns (A B C A B
C ...) in one process, on one batch; the table has the medians, and the median, smallest
and largest ratio to the original over the rounds. Examples:

  python -m recipes.fewer_tokens runs/digits_vit_8 --merge 2 4 6 8
  python -m recipes.fewer_tokens runs/digits_adaptive --quantiles 1 0.9 0.75 \
      --baseline runs/digits_vit_8
  python -m recipes.fewer_tokens dinov2/ --merge 4 8 --fit-head 1000 --image-size 112 \
      --data-dir tfds --set data.train=tfds:cifar10:train --set \
      data.test=tfds:cifar10:test

A model whose tokens stop drops tokens by the counts of the validation images. It is
compared with itself, computing all tokens (masked), or with `--baseline CHECKPOINT`, the
model before it was fine-tuned. `--fit-head N` gives a model without
a classifier one: a ridge regression on the features of N training images, drawn likewise.
`--exports` also measures ONNX files with onnxruntime.
"""

import argparse
import dataclasses
import functools
import json
import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

import keras_vit
from keras_vit.cli import command_line
from keras_vit.cli.parsers import shared
from keras_vit.data.host import tensorflow
from keras_vit.data.pipeline import evaluation_batches
from keras_vit.data.source import Source
from keras_vit.evaluation.accuracy import check_classes
from keras_vit.models.halting import computed_tokens
from keras_vit.models.token_reduction import halts
from keras_vit.training.image_sets import open_parts
from keras_vit.training.runs import check_classes as check_shared_classes


def main(words: Sequence[str] | None = None) -> None:
    """Run the command-line interface."""
    options = parser().parse_args(words)
    with command_line.reported(options.workdir):
        compare(options)


def compare(options: argparse.Namespace) -> None:
    """Evaluate and time all variants, and write and print the results."""
    config = command_line.evaluation_config(options)
    test = source_of(config, "test")
    model = loaded(options, config)
    if options.fit_head is None:
        check_classes(model, test.name, test, config)
    variants, depths = variants_of(model, options, config)
    images, labels = arrays(model, test, options.images)
    rows = {
        name: {"accuracy": accuracy(v, images, labels)} for name, v in variants.items()
    }
    for name, row in rows.items():
        print(f"  {name:12} {row['accuracy']:.2%}", flush=True)
    batch = images[: options.batch]
    runs = {name: runner(variant) for name, variant in variants.items()}
    measure(runs, batch, options.rounds, rows, "keras")
    save = functools.partial(
        write, options, rows, depths, {"test": config.data.test, "images": len(images)}
    )
    save()
    if options.exports:
        with tempfile.TemporaryDirectory() as folder:
            runs = {
                name: onnx_runner(variant, pathlib.Path(folder, f"{index}.onnx"))
                for index, (name, variant) in enumerate(variants.items())
            }
            pixels = to_pixels(model, batch)
            measure(runs, pixels, options.rounds, rows, "onnx")
    report(rows)
    save()


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    made = shared.parser("fewer_tokens", __doc__, "CHECKPOINT", "directory for results")
    made.prog = "python -m recipes.fewer_tokens"
    made.add_argument("--merge", type=int, nargs="*", default=[], metavar="R")
    made.add_argument("--quantiles", type=float, nargs="*", metavar="Q")
    made.add_argument("--baseline", metavar="CHECKPOINT")
    made.add_argument("--fit-head", type=int, metavar="N")
    made.add_argument("--image-size", type=int, metavar="SIDE")
    made.add_argument("--images", type=int, default=10_000, metavar="N")
    made.add_argument("--batch", type=int, default=64)
    made.add_argument("--rounds", type=int, default=9)
    made.add_argument("--exports", action="store_true")
    return made


def loaded(options: argparse.Namespace, config: Any) -> Any:
    """Return the model, with a fitted classifier if it is asked for."""
    file, size = command_line.chosen_file(options.what), size_of(options)
    if options.fit_head is None:
        return keras_vit.load_checkpoint(file, **size)
    backbone = keras_vit.load_checkpoint(file, head="drop", pooling="token", **size)
    train = source_of(config, "train")
    check_shared_classes({"train": train, "test": source_of(config, "test")})
    images, labels = arrays(backbone, train, options.fit_head)
    features = backbone.predict(images, batch_size=32, verbose=0).astype("float64")
    classes = train.num_classes
    mean = features.mean(axis=0)
    x, y = features - mean, np.where(np.eye(classes)[labels] > 0, 1.0, -1.0)
    penalty = 0.01 * np.trace(x.T @ x) / x.shape[1] * np.eye(x.shape[1])
    kernel = np.linalg.solve(x.T @ x + penalty, x.T @ (y - y.mean(axis=0)))
    model = keras_vit.load_checkpoint(
        file, head="new", pooling="token", classes=classes, include_top=True, **size
    )
    bias = y.mean(axis=0) - mean @ kernel
    model.get_layer("classifier").set_weights([kernel, bias])
    return model


def size_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the argument of `load_checkpoint` for `--image-size`, if it is given."""
    if options.image_size is None:
        return {}
    return {"input_shape": (options.image_size, options.image_size, 3)}


def variants_of(
    model: Any, options: argparse.Namespace, config: Any
) -> tuple[dict[str, Any], list[float] | None]:
    """Return the models to compare by name, and the mean tokens of blocks that stop.

    Raises:
        ValueError: `--merge` or `--quantiles` does not apply to the model.
    """
    stops = halts(model)
    check_applies(stops, options)
    variants = {"original": model}
    if options.baseline is not None:
        file = command_line.chosen_file(options.baseline)
        baseline = keras_vit.load_checkpoint(file, **size_of(options))
        check_baseline(baseline, model)
        variants = {"original": baseline, "masked" if stops else "model": model}
    if not stops:
        for r in options.merge:
            variants[f"merge {r}"] = model.with_token_reduction(r)
        return variants, None
    images, _ = arrays(model, source_of(config, "validation"), options.images)
    means = computed_tokens(model, images).sum(axis=2).mean(axis=0)
    print(f"mean tokens in each block: {', '.join(f'{mean:.1f}' for mean in means)}")
    for quantile in [1.0] if options.quantiles is None else options.quantiles:
        dropped = keras_vit.drop_halted_tokens(model, images, quantile)
        kept = [layer.output[0].shape[1] for layer in dropped.layers if _is_block(layer)]
        print(f"quantile {quantile:g} keeps {kept}", flush=True)
        variants[f"quantile {quantile:g}"] = dropped
    return variants, means.tolist()


def check_applies(stops: bool, options: argparse.Namespace) -> None:
    """Raise a `ValueError` for an option that does not apply to the model.

    Args:
        stops: bool, whether tokens of the model stop.
        options: the parsed options.
    """
    if stops and options.merge:
        raise ValueError(
            f"--merge {' '.join(map(str, options.merge))}: the tokens of {options.what} "
            "stop, and such a model merges none. Use --quantiles instead."
        )
    if not stops and options.quantiles is not None:
        raise ValueError(
            f"--quantiles {' '.join(map(str, options.quantiles))}: the tokens of "
            f"{options.what} do not stop. Use --merge instead, or pass a model whose "
            "tokens stop, such as a run of digits_adaptive."
        )


def check_baseline(baseline: Any, model: Any) -> None:
    """Raise a `ValueError` unless two models take the same pixels and have equal classes.

    Args:
        baseline: the model of `--baseline`.
        model: the model that it is compared with.
    """
    ours, others = (
        {
            "input_shape": each.input_shape,
            "classes": each.output_shape[-1],
            "class_names": each.get_config().get("class_names"),
            **{k: v for k, v in each.preprocessor.get_config().items() if k != "name"},
        }
        for each in (model, baseline)
    )
    differing = [key for key in ours if ours[key] != others[key]]
    if differing:
        raise ValueError(
            "The model of --baseline must take the same images: it has "
            f"{', '.join(f'{key}={others[key]!r}' for key in differing)}, and the other "
            f"model {', '.join(f'{key}={ours[key]!r}' for key in differing)}."
        )


def _is_block(layer):
    return layer.name.startswith("block_")


def source_of(config: Any, part: str) -> Source:
    """Open a data set of a config.

    Raises:
        ValueError: the config does not name it.
    """
    if not getattr(config.data, part):
        raise ValueError(
            f"data.{part} is not set: add --set data.{part}=folder:PATH, or another "
            "source of labeled images."
        )
    return open_parts(config.data, [part])[part]


def drawn(source: Source, count: int) -> Source:
    """Return a source with random images of another one, always the same, in its order.

    A folder is sorted by class, so that its first images belong to the first classes.

    Args:
        source: the source.
        count: int, number of images; all of them if there are no more.
    """
    if count >= source.num_examples:
        return source
    tf = tensorflow()
    chosen = np.zeros(source.num_examples, bool)
    generator = np.random.default_rng(0)
    chosen[generator.choice(len(chosen), count, replace=False)] = True

    def references():
        marks = tf.data.Dataset.from_tensor_slices(chosen)
        pairs = tf.data.Dataset.zip(source.references(), marks)
        return pairs.filter(lambda _, kept: kept).map(lambda reference, _: reference)

    return dataclasses.replace(
        source,
        num_examples=count,
        references=references,
        listing=None,
        class_counts=None,
        table=None,
    )


def arrays(model: Any, source: Source, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return preprocessed images of a source, and their labels; see `drawn`."""
    used = drawn(source, count)
    print(
        f"{used.num_examples:,} of {source.num_examples:,} images of {source.name}",
        flush=True,
    )
    batches = evaluation_batches(
        used.with_channels(model.input_shape[-1]), model.preprocessor, 100
    )
    images, labels = [], []
    for x, y, weights in batches.as_numpy_iterator():
        images.append(x[weights > 0])
        labels.append(y[weights > 0])
    return np.concatenate(images), np.concatenate(labels)


def accuracy(model: Any, images: np.ndarray, labels: np.ndarray) -> float:
    """Return the fraction of images whose largest output is that of their label."""
    outputs = model.predict(images, batch_size=64, verbose=0)
    return float((outputs.argmax(axis=-1) == labels).mean())


def runner(model: Any) -> Callable[[np.ndarray], Any]:
    """Return a function that runs a model on a batch, compiled."""
    return model.predict_on_batch


def onnx_runner(model: Any, path: pathlib.Path) -> Callable[[np.ndarray], Any]:
    """Export a model to ONNX, and return a function that runs the file on pixels."""
    import onnxruntime

    session = onnxruntime.InferenceSession(keras_vit.export.onnx(model, path))
    return lambda pixels: session.run(None, {"images": pixels})


def to_pixels(model: Any, images: np.ndarray) -> np.ndarray:
    """Undo the scaling of the preprocessor."""
    scale = model.preprocessor
    return (images * np.asarray(scale.std) + np.asarray(scale.mean)).astype("float32")


def measure(
    runs: dict[str, Callable[[np.ndarray], Any]],
    batch: np.ndarray,
    rounds: int,
    rows: dict[str, dict[str, Any]],
    what: str,
) -> None:
    """Time functions in turns, and add their speeds and ratios to rows."""
    for run in runs.values():
        run(batch)
        run(batch)
    speeds: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start = time.perf_counter()
            run(batch)
            speeds[name].append(len(batch) / (time.perf_counter() - start))
    first = speeds[next(iter(runs))]
    for name, values in speeds.items():
        ratios = [value / base for value, base in zip(values, first, strict=True)]
        rows[name][what] = {
            "images_per_second": statistics.median(values),
            "spread": [min(values), max(values)],
            "ratio_of_medians": statistics.median(values) / statistics.median(first),
            "ratios": [min(ratios), statistics.median(ratios), max(ratios)],
        }


def write(
    options: argparse.Namespace,
    rows: dict[str, dict[str, Any]],
    depths: list[float] | None,
    data: dict[str, Any],
) -> None:
    """Write the results to fewer_tokens.json in the output directory, if there is one."""
    if options.workdir is None:
        return
    path = pathlib.Path(options.workdir, "fewer_tokens.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    settings = {
        "backend": keras.backend.backend(),
        "batch": options.batch,
        "rounds": options.rounds,
    }
    results = {**data, **settings, "mean_tokens_per_block": depths, "variants": rows}
    path.write_text(json.dumps(results, indent=1) + "\n")


def report(rows: dict[str, dict[str, Any]]) -> None:
    """Print the table of the variants."""
    for name, row in rows.items():
        text = f"{name:14} {row['accuracy']:7.2%}"
        for what in ("keras", "onnx"):
            if what in row:
                speed = row[what]
                low, middle, high = speed["ratios"]
                text += (
                    f"  {what}: {speed['images_per_second']:7.1f} images/s, "
                    f"x{middle:.2f} ({low:.2f} to {high:.2f})"
                )
        print(text)


if __name__ == "__main__":
    main()
