r"""Measure the accuracy of a checkpoint or an export, over every image once.

keras-vit evaluate CHECKPOINT [--workdir DIR] [--set key=value ...]

CHECKPOINT is the directory of a run (its best model), anything that
`keras_vit.load_checkpoint` reads (a file, or a name that `keras_vit.checkpoints()`
lists), or an export: a .onnx or .tflite file, or the directory with the versions of a
SavedModel. Exports take images of one size only. The images are those of `data.test`. A
run has its own test set; without one, its validation set is used. Runs on multi-label
images and on values give the metrics of those. Examples:

  keras-vit evaluate runs/digits
  keras-vit evaluate runs/digits --set data.test=folder:photographs
  keras-vit evaluate runs/digits --report
  keras-vit evaluate vit_b16.augreg_in21k_ft_in1k_224 --set \
      data.test=tfds:imagenet2012:validation --set model.arguments.input_shape=384,384,3
  keras-vit evaluate digits.onnx --set data.test=digits:test

--workdir DIR writes evaluation.json, and confusion.png for up to 100 classes. --report
writes report.html and predictions.csv, to the same directory or to that of the run: the
accuracy with its confidence interval, the figures of every class, the confusion matrix,
calibration, and the most wrong images.
"""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_vit.atomic_files import write_text
from keras_vit.cli import command_line
from keras_vit.evaluation.accuracy import (
    of_vectors,
    open_evaluation,
    predictions,
    published_accuracy,
    summary,
)
from keras_vit.training import config as configs

MOST_CLASSES_SHOWN = 100


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command_line.parser(
        "evaluate", __doc__, "CHECKPOINT", "directory for the results, if any"
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="write report.html and predictions.csv",
    )
    options = parser.parse_args(arguments)
    run, workdir = command_line.run_of(options.what), options.workdir
    if options.report and workdir is None:
        if run is None:
            parser.error(f"--report: {options.what} is no run; add --workdir DIR.")
        workdir = str(run)
    with command_line.writing(workdir):
        if workdir is not None:
            from keras_vit.evaluation import report  # Needs matplotlib.
        config = command_line.evaluation_config(options)
        if config.model.weights is None:
            raise ValueError(
                f"{options.what} is a config without model.weights: evaluate the "
                "directory of its run, or a checkpoint."
            )
        model, source = open_evaluation(config)
        if options.report and source.labels != "single":
            raise ValueError(
                f"--report needs images of one class each; the labels of {source.name} "
                f"are {source.labels}."
            )
        if source.labels == "single":
            found = predictions(model, source, config)
            results = summary(found, source)
        else:
            results = of_vectors(model, source, config)
        _print(results, config.model.weights, options.what)
        if options.workdir is not None:
            _write(pathlib.Path(options.workdir), results, config)
        if options.report:
            path = report.write_report(workdir, found, model, source, config, run)
            print(f"  report: {path}")


def _print(results, weights, what):
    print(f"{weights} on {results['set']}:")
    print(f"  images: {results['images']:,} ({results['unreadable']:,} unreadable)")
    if "accuracy" in results:
        print(f"  accuracy: {results['accuracy']:.2%}; top-5: {results['top5']:.2%}")
    else:
        names = [name for name in results if isinstance(results[name], float)]
        for name in names[:-1]:
            print(f"  {name.replace('_', ' ')}: {results[name]:.4f}")
    print(f"  loss: {results['loss']:.4f}")
    if published := published_accuracy(what):
        print(f"  published: {published}")


def _write(directory, results, config):
    """Write evaluation.json, and confusion.png unless there are too many classes."""
    from keras_vit.training import pictures

    confusion = results.pop("confusion", None)
    results |= {"checkpoint": config.model.weights, "config": configs.to_dict(config)}
    write_text(directory / "evaluation.json", json.dumps(results, indent=1))
    if confusion is not None and len(confusion) <= MOST_CLASSES_SHOWN:
        pictures.confusion(np.array(confusion), directory / "confusion.png")
    print(f"  results: {directory}/")
