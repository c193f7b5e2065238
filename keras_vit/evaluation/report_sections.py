"""Sections of the report on a classifier, each a function that returns HTML."""

import html
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_vit.evaluation.classification_figures import Figures, confused_pairs
from keras_vit.evaluation.classified import Predictions
from keras_vit.visualize import pictures
from keras_vit.visualize.attention import attention_rollout
from keras_vit.visualize.gradient import gradient_attention
from keras_vit.visualize.page import (
    command,
    drawing,
    figure,
    folded,
    photograph,
    picture,
    row,
    section,
    table,
    thumbnails,
)

# With more classes than this, the page lists the most confused pairs of classes instead
# of the whole matrix, and folds the rest of the table of classes.
MOST_CLASSES_SHOWN = 30
MOST_PAIRS = 40
MOST_OVERLAYS = 6
THUMBNAIL = 224


def summary(measured: Figures, images: str, facts: Mapping[str, str]) -> str:
    """Return the accuracy with its confidence interval, and a table of facts.

    Args:
        measured: the figures.
        images: description of the images, such as "test images of digits:test".
        facts: further rows of the table.
    """
    low, high = measured.interval
    rows = {
        "images": f"{measured.images:,}",
        "loss": f"{measured.loss:.4f} (negative log-likelihood)",
        "calibration error": f"{measured.calibration.error:.2%}",
    }
    if len(measured.support) > 5:
        rows["top-5 accuracy"] = f"{measured.top5:.2%}"
    return (
        f'<p class="headline">{measured.accuracy:.2%} <small>accuracy on '
        f"{html.escape(images)}<br>95 % confidence interval {low:.2%} to {high:.2%} "
        f"(Wilson)</small></p>" + table((), [*rows.items(), *facts.items()])
    )


def curves(history: Mapping[str, Sequence[float]], unit: str) -> str:
    """Return charts of the metrics during training.

    Args:
        history: dict from metrics, such as `loss` and `val_loss`, to their values, and
            optionally from `unit` to the times of these values.
        unit: unit of time, such as `"epoch"`.
    """
    charts, longest = [], max(map(len, history.values()), default=0)
    times = np.asarray(history.get(unit, np.arange(1, longest + 1)))
    for metric in ("loss", "accuracy"):
        series = {
            name: (_times(times, len(history[key])), np.asarray(history[key]))
            for name, key in (("training", metric), ("validation", f"val_{metric}"))
            if history.get(key)
        }
        if not series:
            continue
        ends = ", ".join(f"{name} {y[-1]:.4g}" for name, (_, y) in series.items())
        chart = pictures.chart(series, unit, metric, lines=True)
        charts.append(drawing(chart, f"{metric} of every {unit}; at the end: {ends}"))
    about = (
        "The training metrics are measured on augmented images while the weights change, "
        "so that they can be worse than those of validation."
    )
    return section("Learning curves", about, charts) if charts else ""


def _times(times, count):
    """Return the times of `count` values; `validation_freq=2` gives every second one."""
    every = max(len(times) // count, 1)
    return times[every - 1 :: every][:count]


def classes(found: Predictions, measured: Figures) -> str:
    """Return the table of precision, recall and F1 of every class.

    Args:
        found: the predictions.
        measured: their figures.
    """
    columns = (measured.precision, measured.recall, measured.f1)
    support, names = measured.support, found.class_names

    def line(name, values, number):
        return [name, *(f"{value:.4f}" for value in values), f"{int(number):,}"]

    order = np.arange(len(names))
    about = "Precision, recall, F1 and number of images of every class."
    if len(names) > MOST_CLASSES_SHOWN:
        # Classes without images come last: their figures are 0 by definition.
        order = np.lexsort((measured.f1, support == 0))
        about = (
            f"Precision, recall, F1 and number of images of the {MOST_CLASSES_SHOWN} "
            f"classes with the lowest F1, of {len(names):,}."
        )
    lines = [line(names[i], [column[i] for column in columns], support[i]) for i in order]
    means = {
        "macro average": [column.mean() for column in columns],
        "weighted average": [np.average(column, weights=support) for column in columns],
    }
    averages = [line(name, values, measured.images) for name, values in means.items()]
    header = ("class", "precision", "recall", "F1", "images")
    shown, rest = lines[:MOST_CLASSES_SHOWN], lines[MOST_CLASSES_SHOWN:]
    parts = [table(header, [*shown, *averages])]
    if rest:
        parts.append(folded("The other classes", table(header, rest)))
    return section("Classes", about, parts)


def confusion(found: Predictions) -> str:
    """Return the confusion matrix, or the most confused pairs of many classes.

    Args:
        found: the predictions.
    """
    number = len(found.class_names)
    if number <= MOST_CLASSES_SHOWN:
        counts = np.zeros((number, number), int)
        np.add.at(counts, (found.labels, found.predicted), 1)
        about = (
            "Rows are labels, columns are predictions. The color is the fraction of the "
            "images of the label: blue for correct predictions, orange for mistakes."
        )
        return section("Confusion matrix", about, [_matrix(counts, found.class_names)])
    names, totals = found.class_names, np.bincount(found.labels, minlength=number)
    pairs = confused_pairs(found, MOST_PAIRS)
    lines = [
        (names[label], names[other], f"{count:,}", f"{count / totals[label]:.1%}")
        for label, other, count in pairs
    ]
    about = f"The {len(pairs)} most frequent mistakes among {number:,} classes."
    header = ("label", "prediction", "images", "of the label's images")
    return section("Most confused classes", about, [table(header, lines)])


def _matrix(counts, names):
    """Return a table whose cells are colored by their part of the row."""
    parts = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    names = [html.escape(name) for name in names]
    header = "".join(f'<th scope="col">{name}</th>' for name in names)
    lines = []
    for i, name in enumerate(names):
        cells = "".join(
            f'<td class="{"diagonal" if i == j else ""}" style="--part:{parts[i, j]:.3f}"'
            f' title="{name} predicted as {names[j]}">{count or ""}</td>'
            for j, count in enumerate(counts[i].tolist())
        )
        lines.append(f'<tr><th scope="row">{name}</th>{cells}</tr>')
    return (
        '<div class="scroll"><table class="matrix" aria-label="confusion matrix">'
        f"<thead><tr><td></td>{header}</tr></thead>{''.join(lines)}</table></div>"
    )


def calibration(measured: Figures) -> str:
    """Return the reliability diagram.

    Args:
        measured: the figures.
    """
    found = measured.calibration
    gap = float(np.sum(found.counts * (found.confidence - found.accuracy)))
    tendency = "too high" if gap > 0 else "too low"
    about = (
        "The accuracy of the predictions by their probability. A calibrated model is on "
        f"the diagonal. The expected calibration error is {found.error:.2%}; on average, "
        f"the probabilities are {abs(gap) / measured.images:.2%} {tendency}."
    )
    series = {
        "calibrated": (np.array([0.0, 1.0]), np.array([0.0, 1.0])),
        "model": (found.confidence, found.accuracy),
    }
    chart = pictures.chart(series, "probability of the prediction", "accuracy", True)
    lines = [
        (f"{mean:.3f}", f"{accuracy:.3f}", f"{count:,}")
        for mean, accuracy, count in zip(
            found.confidence, found.accuracy, found.counts, strict=True
        )
    ]
    text = f"reliability diagram; expected calibration error {found.error:.2%}"
    values = table(("mean probability", "accuracy", "images"), lines)
    return section("Calibration", about, [drawing(chart, text), folded("Values", values)])


def hardest(found: Predictions, pixels: np.ndarray) -> str:
    """Return the images with the highest loss.

    Args:
        found: the predictions.
        pixels: the images of `found.hardest`, pixel values 0 to 255.
    """
    names, shown = found.class_names, []
    for index, image in zip(found.hardest, pixels, strict=True):
        label, predicted = names[found.labels[index]], names[found.predicted[index]]
        text = (
            f"{found.ids[index]}: label {label}, predicted {predicted} "
            f"({found.confidence[index]:.1%}), loss {found.losses[index]:.2f}"
        )
        kind = "patches" if max(image.shape[:2]) <= 64 else ""
        alternative = f"image {found.ids[index]}, label {label}"
        uri = photograph(image, THUMBNAIL)
        shown.append(figure(uri, alternative, text, kind))
    about = "There are no mistakes. " if found.correct.all() else ""
    about += (
        "The images whose labels have the lowest probability: mistakes of the model, "
        "wrong labels, and images that show something else. They are shown as the model "
        "sees them, resized and cropped."
    )
    return section("Most wrong images", about, [thumbnails(shown)])


def attention(model: Any, found: Predictions, pixels: np.ndarray) -> str:
    """Return overlays of attention on some of the images with the highest loss.

    Args:
        model: a `keras_vit` model with its classifier.
        found: the predictions.
        pixels: the images of `found.hardest`, pixel values 0 to 255.
    """
    inputs = found.inputs[:MOST_OVERLAYS]
    # One image at a time, because all attention weights and their gradients are held.
    views = {
        "rollout": attention_rollout(model, inputs, batch_size=1),
        "relevance": gradient_attention(model, inputs, batch_size=1),
    }
    rows = []
    for place, index in enumerate(found.hardest[:MOST_OVERLAYS]):
        name, image = found.ids[index], pixels[place]
        label, other = found.labels[index], found.predicted[index]
        caption = (
            f"{name}: label {found.class_names[label]}, predicted "
            f"{found.class_names[other]}"
        )
        kind = "patches" if max(image.shape[:2]) <= 64 else ""
        shown = [figure(photograph(image, THUMBNAIL), f"image {name}", caption, kind)]
        for view, maps in views.items():
            overlaid = picture(pictures.overlay(image, maps[place]))
            shown.append(figure(overlaid, f"{view} on image {name}", view, kind))
        rows.append(row(shown))
    about = (
        "Rollout: the contribution of each patch through all blocks, from attention "
        "alone. Relevance: attention weighted by the gradient of the predicted class. "
        "Yellow is the largest value."
    )
    return section("Where the model looked", about, rows)


def config(values: Mapping[str, Any]) -> str:
    """Return a config as JSON, folded.

    Args:
        values: the config.
    """
    text = html.escape(json.dumps(values, indent=1))
    shown = folded("config.json", f"<pre><code>{text}</code></pre>")
    return section("Config", "All settings of the run.", [shown])


def commands(texts: Mapping[str, str]) -> str:
    """Return commands to copy.

    Args:
        texts: dict from what a command does to the command.
    """
    parts = [f"<p>{html.escape(what)}</p>{command(text)}" for what, text in texts.items()]
    return section("Next commands", "Ready to copy into a shell.", parts)
