"""Report on a classifier: one HTML page, and the predictions that it is computed from."""

import csv
import dataclasses
import os
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_vit.data.source import Source
from keras_vit.evaluation import accuracy, report_sections
from keras_vit.evaluation.classification_figures import figures
from keras_vit.evaluation.classified import Predictions
from keras_vit.models.features import blocks_of
from keras_vit.training import config as configs
from keras_vit.training.image_sets import open_parts
from keras_vit.training.starting_point import is_best
from keras_vit.visualize import pictures
from keras_vit.visualize.page import section, write_page


def write_run_report(
    directory: str | os.PathLike,
    config: configs.Config,
    sources: Mapping[str, Source] | None = None,
) -> bool:
    """Write report.html and predictions.csv of a run that has ended.

    The results of the run are written already: an error is printed as a warning, and not
    raised.

    Args:
        directory: directory of the run, with best.keras.
        config: config of the run.
        sources: dict of its data sets, if they are open already.

    Returns:
        True if the report was written.
    """
    if config.objective != "classification":
        print(f"no report: there is none for objective={config.objective!r}")
        return False
    if config.data.labels != "single":
        print(f"no report: there is none for data.labels={config.data.labels!r}")
        return False
    path = pathlib.Path(directory)
    try:
        checkpoint = configs.Model(weights=str(path / "best.keras"))
        # The network is trained: it needs neither a teacher nor its warm start.
        config = dataclasses.replace(
            config, model=checkpoint, distillation=configs.Distillation()
        )
        if sources is None:
            sources = open_parts(config.data)
        source = sources.get("test", sources["validation"])
        model = accuracy.classifier_of(config, source)
        print(f"Report on {source.num_examples:,} images of {source.name}:", flush=True)
        found = accuracy.predictions(model, source, config)
        written = write_report(path, found, model, source, config, path)
    except Exception as error:
        print(
            f"warning: the report was not written ({type(error).__name__}: {error}). "
            f"All results are in {path}/; to try again: "
            f"keras-vit evaluate {quoted(path)} --report",
            flush=True,
        )
        return False
    print(f"report: {written}", flush=True)
    return True


def write_report(
    directory: str | os.PathLike,
    found: Predictions,
    model: Any,
    source: Source,
    config: configs.Config,
    run: str | os.PathLike | None = None,
) -> pathlib.Path:
    """Write report.html and predictions.csv for a checkpoint or an export.

    Args:
        directory: the directory to write to; it is created if it does not exist.
        found: the predictions of the model.
        model: a `keras_vit` model that returns logits, or an `Export`.
        source: the images.
        config: config of the evaluation, whose `model.weights` is the checkpoint.
        run: directory of the run that the checkpoint belongs to, or None.

    Returns:
        The path of the page.
    """
    path, weights = pathlib.Path(directory), str(config.model.weights)
    path.mkdir(parents=True, exist_ok=True)
    found.write(path / "predictions.csv")
    facts = {"model": f"{weights}{_described(model)}"}
    if skipped := source.num_examples - len(found.ids):
        facts["unreadable images"] = f"{skipped:,}, left out"
    part = "test" if config.data.test else "validation"
    history, what, shown = {}, weights, config
    if run is not None:
        history = _history(pathlib.Path(run))
        if is_best(weights):
            what = str(run)
        shown = configs.load(str(pathlib.Path(run) / "config.json"))
    sections = [
        *measured_sections(found, f"the {part} images of {source.name}", facts, history),
        *picture_sections(model, found),
        report_sections.config(configs.to_dict(shown)),
        report_sections.commands(_commands(what, model, source)),
    ]
    return write_page(path / "report.html", f"Report on {what}", sections)


def measured_sections(
    found: Predictions,
    images: str,
    facts: Mapping[str, str],
    history: Mapping[str, Sequence[float]],
    unit: str = "step",
) -> list[str]:
    """Return the sections with figures.

    Args:
        found: the predictions.
        images: description of the images.
        facts: further rows of the first table.
        history: dict from the names of metrics to their values during training, and
            optionally from `unit` to the times of these values; empty if unknown.
        unit: unit of time of the history.
    """
    measured = figures(found)
    return [
        report_sections.summary(measured, images, facts),
        report_sections.curves(history, unit),
        report_sections.classes(found, measured),
        report_sections.confusion(found),
        report_sections.calibration(measured),
    ]


def picture_sections(model: Any, found: Predictions) -> list[str]:
    """Return the sections with images.

    Args:
        model: the model that made the predictions.
        found: the predictions.
    """
    pixels = pixels_of(model, found.inputs)
    sections = [report_sections.hardest(found, pixels)]
    try:
        sections.append(report_sections.attention(model, found, pixels))
    # Exports and other Keras models have no attention to show, and attention weights
    # may not fit into the memory: the rest of the page is worth having.
    except Exception as error:
        about = f"Not shown: {type(error).__name__}: {error}"
        if not (hasattr(model, "layers") and blocks_of(model)):
            about = "Not shown: the model has no attention."
        sections.append(section("Where the model looked", about, []))
    return sections


def pixels_of(model: Any, inputs: np.ndarray) -> np.ndarray:
    """Return inputs of a model as pixel values 0 to 255.

    Args:
        model: the model. Without a `preprocessor`, the range of the inputs becomes that
            of the pixels.
        inputs: `(n, h, w, c)`.
    """
    preprocessor = getattr(model, "preprocessor", None)
    if preprocessor is None:
        return pictures.to_bytes(255 * pictures.to_unit_range(inputs))
    mean, std = np.asarray(preprocessor.mean), np.asarray(preprocessor.std)
    return pictures.to_bytes(inputs * std + mean)


def _described(model):
    """Return the class and the size of a model as text."""
    if not hasattr(model, "count_params"):
        return ""
    size = " x ".join(map(str, model.input_shape[1:3]))
    return f", {type(model).__name__}, {model.count_params():,} parameters, {size} pixels"


def _history(run):
    """Return the metrics in the log of a run, or an empty dict."""
    path = run / "log.csv"
    if not path.is_file():
        return {}
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    names = ("step", "loss", "val_loss", "accuracy", "val_accuracy")
    return {
        name: [float(row[name]) for row in rows]
        for name in names
        if rows and all(row.get(name) for row in rows)
    }


def _commands(checkpoint, model, source):
    """Return the next commands for a run, a checkpoint or an export."""
    what, name = quoted(checkpoint), quoted(f"served/{pathlib.Path(checkpoint).stem}")
    kind, _, folder = source.name.partition(":")
    # The shell does not expand the ~ of a quoted path.
    images = quoted(os.path.expanduser(folder)) if kind == "folder" else "photo.jpg"
    found = {}
    if hasattr(model, "layers"):  # Not an export.
        found["Classify images, to a table and a contact sheet:"] = (
            f"keras-vit predict {what} {images} --workdir predictions"
        )
        found["Export the model for serving, and serve it with a page to try it:"] = (
            f"keras-vit export {what} --to {name}\nkeras-vit serve {name}"
        )
        if blocks_of(model):
            found["Show what the model sees in images:"] = (
                f"keras-vit report {what} {images} --output attention.html"
            )
    found["Evaluate the model on other images, a folder with one folder per class:"] = (
        f"keras-vit evaluate {what} --set data.test=folder:PHOTOS --report "
        "--workdir evaluation"
    )
    return found


def quoted(path: str | os.PathLike) -> str:
    """Return a path as a word of a shell command.

    Args:
        path: the path. A leading dash would make it an option, and gets `./` before it.
    """
    text = os.fspath(path)
    return shlex.quote(f"./{text}" if text.startswith("-") else text)
