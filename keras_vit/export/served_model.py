"""What all formats share: a model is rebuilt under TensorFlow, written, and compared."""

import importlib.util
import itertools
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np

from keras_vit.export import comparison
from keras_vit.export.head import Head
from keras_vit.export.staging import place, staged
from keras_vit.export.stored_weights import restored, stored
from keras_vit.labels import imagenet_1k
from keras_vit.models.adaptation import merged
from keras_vit.models.checkpoint import load_checkpoint


def check_packages(modules, extra):
    """Raises where one of the modules that write and run a format is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"This export needs {', '.join(modules)}; not installed: "
            f"{', '.join(missing)}. pip install 'keras_vit[{extra}]'."
        )


def check_weights_dtype(weights_dtype, choices):
    if weights_dtype not in choices:
        raise ValueError(
            f"Unknown weights_dtype {weights_dtype!r}; choose one of "
            f"{', '.join(map(repr, choices))}."
        )


def loaded(model):
    """The model, which may be a checkpoint; raises where it cannot be exported."""
    if isinstance(model, str | os.PathLike):
        model = load_checkpoint(model)
    config = model.get_config() if hasattr(model, "preprocessor") else {}
    if "classifier_activation" not in config:
        raise ValueError(
            f"Exports are of keras_vit models, such as ViTB16(); received {model!r}."
        )
    if not config["include_top"]:
        raise ValueError("An export needs a classifier; the model has include_top=False.")
    for part in (model, *model.layers):
        package = type(part).__module__.split(".")[0]
        if package not in ("keras", "keras_vit"):
            raise ValueError(
                f"{type(part).__qualname__} is a class of {package!r}, which the process "
                "that writes exports does not know: use one of keras or keras_vit."
            )
    return merged(model)


def names_of_classes(model, labels):
    """A list with a label for each class; raises where `labels` are no such list."""
    config = model.get_config()
    classes = config["classes"]
    if labels is None:
        labels = config["class_names"]
    if labels is None and classes == 1000:
        labels = [name for _, name in imagenet_1k()]
    elif labels is None:
        labels = [str(number) for number in range(classes)]
    if isinstance(labels, str) or not all(isinstance(label, str) for label in labels):
        raise ValueError(
            f"labels must be a list of str, one a class; received {labels!r}."
        )
    if len(labels) != classes:
        raise ValueError(
            f"The model has {classes} classes and needs as many labels; received "
            f"{len(labels)}: {', '.join(labels[:3])}, ..."
        )
    return list(labels)


def export(
    model, targets, file_format, options, preprocessor, *, tolerance, rounded="float32"
):
    """Write an export to the first free one of `targets`, or nothing.

    Args:
        model: as `loaded` gives it.
        targets: paths in one directory; a generator may look for what is free by then.
        file_format: a key of `tensorflow_process.FORMATS`.
        options: dict for that format, which JSON can hold.
        preprocessor: a `Preprocessor`, what the export does with pixels.
        tolerance: float, see `comparison.difference`.
        rounded: of `WEIGHTS_DTYPES`: the export must have the outputs of the model with
            weights rounded to this.

    Returns:
        The path written, the largest difference, and what else the other process found,
        a dict.
    """
    targets = iter(targets)
    first = next(targets)
    with staged(first.parent) as staging:
        exact = _describe(model, file_format, options, preprocessor, rounded, staging)
        result = _run_under_tensorflow(staging)
        with np.load(staging / "check.npz") as check:
            head = Head.of(model.get_config()["classifier_activation"])
            difference = comparison.difference(
                exact, head, options, dict(check), tolerance
            )
        target = place(staging / "export", itertools.chain([first], targets))
    return target, difference, result


def _describe(model, file_format, options, preprocessor, rounded, staging):
    """Leaves for the other process what it needs to rebuild the model.

    Returns the model whose outputs the export must have.
    """
    config = {
        **model.get_config(),
        "dtype": "float32",
        "classifier_activation": None,
        "preprocessor": keras.saving.serialize_keras_object(preprocessor),
    }
    # On the CPU, as the other process: an accelerator rounds float32 products.
    with keras.device("cpu"):  # Not cpu:0: torch then refuses the seeds of dropout.
        exact = type(model).from_config(config)
        exact.set_weights(model.get_weights())
        exact.save_weights(staging / "model.weights.h5")
        if rounded != "float32":
            for weight in exact.weights:
                parts = stored(keras.ops.convert_to_numpy(weight), rounded)
                weight.assign(restored([part.astype("float32") for part in parts]))
    description = {
        "class": keras.saving.get_registered_name(type(model)),
        "config": config,
        "activation": model.get_config()["classifier_activation"],
        "format": file_format,
        "options": options,
    }
    (staging / "model.json").write_text(json.dumps(description))
    return exact


def _run_under_tensorflow(staging):
    package = pathlib.Path(__file__).parents[2]
    path = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",  # The accelerator may be another backend's.
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join(path),
        # What converters write in between goes when the rest goes.
        "TMPDIR": str(staging.resolve()),
    }
    # By its path and not by `-m`: it watches for the end of this process before it
    # imports anything of Keras.
    program = pathlib.Path(__file__).with_name("tensorflow_process.py")
    alive, until_end = os.pipe()
    try:
        process = subprocess.run(
            [sys.executable, "-P", program, staging.resolve()],
            env=environment,
            stdin=alive,
            capture_output=True,
            text=True,
        )
    finally:
        os.close(alive)
        os.close(until_end)
    if process.returncode:
        last_words = "\n".join(process.stderr.splitlines()[-20:])
        raise RuntimeError(
            f"The export under TensorFlow failed (exit status {process.returncode}; -9 "
            "is mostly a lack of memory); nothing was written. Its last words:\n"
            f"{last_words}"
        )
    return json.loads((staging / "result.json").read_text())
