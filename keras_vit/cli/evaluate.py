"""The command `keras-vit evaluate`."""

import argparse
import json
import pathlib
import sys

import keras
import numpy as np

from keras_vit import processes
from keras_vit.atomic_files import write_text
from keras_vit.cli import command_line
from keras_vit.data.fingerprint import digest, fingerprints
from keras_vit.evaluation.accuracy import (
    classifier_of,
    of_vectors,
    open_evaluation,
    predictions,
    published_accuracy,
    summary,
)
from keras_vit.training import config as configs
from keras_vit.training import devices
from keras_vit.training.run_directory import versions
from keras_vit.training.starting_point import is_best

MOST_CLASSES_SHOWN = 100


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    directory, workdir = command_line.run_of(options.what), options.workdir
    if options.report and workdir is None:
        # The report in the directory of a run is that of its best model.
        if directory is None or not is_best(options.what):
            sys.exit(
                f"error: --report: {options.what} is not the best model of a run; add "
                "--workdir DIR."
            )
        workdir = str(directory)
    with command_line.writing(workdir):
        if workdir is not None:
            from keras_vit.evaluation import report  # Needs matplotlib.
        config = command_line.trained_config(options)
        # The seeds of layers are variables, and several processes share them.
        keras.utils.set_random_seed(config.seed)
        model, source = open_evaluation(config)
        if options.report and source.labels != "single":
            raise ValueError(
                f"--report needs images of one class each; the labels of {source.name} "
                f"are {source.labels}."
            )
        _check_processes(config, source)
        if source.labels == "single":
            found = predictions(model, source, config)
            results = summary(found, source)
        else:
            results = of_vectors(model, source, config)
        shared = processes.count() > 1
        with devices.alone():  # The other processes do not wait for the files.
            processes.leave()
            if not processes.is_first():
                return
            _print(results, config.model.weights, options.what)
            if options.workdir is not None:
                _write(pathlib.Path(options.workdir), results, config)
            if options.report:
                if shared:
                    model = classifier_of(config, source)
                path = report.write_report(
                    workdir, found, model, source, config, directory
                )
                print(f"  report: {path}")


def _check_processes(config, source):
    """Raise a ValueError if several processes are not about to evaluate the same."""
    if processes.count() > 1:
        images = digest(fingerprints({"": source})[""])
        settings = configs.to_dict(config)
        processes.check_equal(
            {"the config": settings, "package versions": versions(), "the images": images}
        )


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
