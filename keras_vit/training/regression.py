"""Units of the values that a regression predicts.

A run trains on standardized values: with a learning rate of 1e-3, Adam needs 50,000 steps
to move an output from 0 to 50. The models that it saves return the values in their own
units; the mean and the standard deviation become part of the weights of their heads.
"""

import dataclasses
from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops

from keras_vit.data.source import Source
from keras_vit.training import config as configs

# Largest mean square of values that are standardized with a given scale.
FARTHEST = 4.0
# Mean and standard deviation of each value.
Scale = Sequence[tuple[float, float]]


def with_scale(config: configs.Config, sources: Mapping[str, Source]) -> configs.Config:
    """Return the config with the means and standard deviations of the training set.

    Args:
        config: config of a run; one that is no regression or that has a `data.scale` is
            returned unchanged.
        sources: dict of the data sets, among them `train`.

    Raises:
        ValueError: `data.scale` is not near the values of the training set.
    """
    table = sources["train"].table
    if config.data.labels != "regression" or table is None:
        return config
    labels = np.asarray(table["label"], "float64")
    if config.data.scale:
        _check_scale(config.data.scale, labels)
        return config
    # A value that never changes is an error elsewhere.
    scale = zip(labels.mean(axis=0).tolist(), labels.std(axis=0).tolist(), strict=True)
    data = dataclasses.replace(config.data, scale=tuple(scale))
    return dataclasses.replace(config, data=data)


def _check_scale(scale, labels):
    """Raise a ValueError if the standardized values would be far from 0 and 1."""
    columns = labels.reshape(len(labels), -1)
    mean, deviation = np.array(scale, "float64").reshape(-1, 2).T
    fits = len(mean) == columns.shape[1] and (deviation > 0).all()
    if not fits or (((columns - mean) / deviation) ** 2).mean() > FARTHEST:
        found = zip(columns.mean(axis=0), columns.std(axis=0), strict=True)
        shown = ", ".join(f"({mean:.4g}, {deviation:.4g})" for mean, deviation in found)
        raise ValueError(
            f"data.scale={tuple(scale)} does not fit the values of the training set, "
            f"whose means and standard deviations are {shown}. With "
            "data.scale=None, a run computes them."
        )


def in_own_units(model: keras.Model, scale: Scale) -> None:
    """Change the heads of a model of standardized values so that it returns the values.

    Args:
        model: a `keras_vit` model with a classifier without activation.
        scale: mean and standard deviation of each value.
    """
    mean, deviation = np.array(scale, "float32").T
    for head in _heads(model):
        head.kernel.assign(head.kernel * deviation)
        head.bias.assign(head.bias * deviation + mean)


def standardized(model: keras.Model, scale: Scale) -> None:
    """Undo `in_own_units`.

    Args:
        model: a `keras_vit` model with a classifier without activation.
        scale: mean and standard deviation of each value.
    """
    mean, deviation = np.array(scale, "float32").T
    for head in _heads(model):
        head.kernel.assign(head.kernel / deviation)
        head.bias.assign((head.bias - mean) / deviation)


def _heads(model):
    names = ("classifier", "distillation_classifier")
    return [layer for layer in model.layers if layer.name in names]


class MeanAbsoluteError(keras.metrics.MeanMetricWrapper):
    """Mean absolute error of standardized values, in the units of the values.

    Args:
        deviations: standard deviation of each value.
        name: name of the metric.
    """

    def __init__(self, deviations: Sequence[float], name: str = "mean_absolute_error"):
        def error(labels, outputs):
            errors = ops.abs(ops.subtract(labels, outputs))
            scales = ops.convert_to_tensor(deviations, dtype=errors.dtype)
            return ops.mean(ops.multiply(errors, scales), axis=-1)

        super().__init__(error, name=name)
