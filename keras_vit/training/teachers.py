"""Teachers of distillation: checkpoints, Keras classifiers and exports."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import keras

from keras_vit.data.class_names import check_class_names
from keras_vit.data.host import tensorflow
from keras_vit.exported_model import SUFFIXES, Export, is_export
from keras_vit.models.restorable_model import RestorableModel
from keras_vit.training import config as configs
from keras_vit.training import known_class_names
from keras_vit.training.networks import classifier
from keras_vit.training.teacher_input import TeacherInput
from keras_vit.weights.archive import open_archive


def load(config: configs.Config, names: Sequence[str]) -> Any:
    """Load the teacher of a run, and compare its classes with those of the training set.

    Args:
        config: config of the run, with `distillation.teacher`.
        names: names of the classes of the training set, in the order of the labels.

    Returns:
        A Keras model that returns logits or, if it is not of `keras_vit`, probabilities;
        or an `Export`.

    Raises:
        FileNotFoundError: there is no teacher.
        ValueError: the teacher is no classifier, or has other classes.
    """
    path = config.distillation.teacher
    assert path is not None
    teacher = _opened(path, config.dtype)
    _check_classes(teacher, path, config, names)
    return teacher


def _opened(path, dtype):
    if path.endswith(SUFFIXES):
        raise ValueError(
            f"distillation.teacher={path!r}: an export must be a SavedModel. Use its "
            "checkpoint, or export it as a SavedModel (keras-vit export)."
        )
    if is_export(path):
        return Export(path)
    if path.endswith(".keras") and os.path.isfile(path) and _is_foreign(path):
        return keras.saving.load_model(path, compile=False)
    settings: dict[str, Any] = dict.fromkeys(
        ("about", "command", "hardware", "expected"), ""
    )
    model = configs.Model(weights=path)
    teacher = configs.Config(model=model, dtype=dtype, **settings)
    return classifier(teacher, classifier_activation=None)


def _is_foreign(path):
    """Return True if a `.keras` file holds a Keras model that is not of `keras_vit`."""
    try:
        with open_archive(path) as archive:
            config = json.loads(archive.read("config.json"))
        name = config.get("registered_name") or config.get("class_name")
    except Exception:  # `load_checkpoint` describes damaged files.
        return False
    known = keras.saving.get_registered_object(str(name))
    return not (isinstance(known, type) and issubclass(known, RestorableModel))


def _check_classes(teacher, path, config, names):
    """Raise a `ValueError` unless a teacher has the classes of the training set."""
    given = f"data.train={config.data.train!r}"
    known, classes = f"distillation.teacher={path!r}", teacher.output_shape[-1]
    remedy = "Use a teacher that was trained on these classes in the same order."
    found = None
    if isinstance(teacher, RestorableModel | Export):
        own = dataclasses.replace(config, model=configs.Model(weights=path))
        found = known_class_names.known(teacher, own)
    if found is not None:
        check_class_names(given, names, known, found, remedy)
    elif classes != len(names):
        raise ValueError(f"{given} has {len(names)} classes, {known} {classes}. {remedy}")


def with_logits(batches: Any, teacher: Export, student: keras.Model) -> Any:
    """Add the logits of an exported teacher to training batches.

    The teacher sees the same images as the student. TensorFlow runs it under every
    backend, beside the training steps.

    Args:
        batches: a `tf.data.Dataset` of images, labels and perhaps weights.
        teacher: the export.
        student: the student.

    Returns:
        Batches with a dict instead of the labels; see `Distillation`.
    """
    tf = tensorflow()
    convert = TeacherInput(
        student.input_shape[1:], student.preprocessor, teacher.input_shape[1:], None
    )

    def taught(images, labels, *weights):
        logits = teacher.logits(convert(images, tf.repeat))
        logits = tf.ensure_shape(logits, (None, student.output_shape[-1]))
        return images, {"labels": labels, "teacher_logits": logits}, *weights

    return batches.map(taught).prefetch(tf.data.AUTOTUNE)
