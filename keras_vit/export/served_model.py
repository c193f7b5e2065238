"""Export steps of all formats: rebuild a model under TensorFlow, write it, compare it."""

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
from keras_vit.export.staging import place, placed, staged
from keras_vit.export.stored_weights import restored, stored
from keras_vit.labels import imagenet_1k
from keras_vit.models.adapt import copied
from keras_vit.models.checkpoint import load_checkpoint
from keras_vit.models.lora import merged


def check_packages(modules, extra):
    """Raise `ImportError` if a module that the export format needs is not installed."""
    missing = [name for name in modules if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            f"This export needs {', '.join(modules)}; not installed: "
            f"{', '.join(missing)}. pip install 'keras_vit[{extra}]'."
        )


def loaded(model):
    """Return the model, loaded if it is a checkpoint; raise if it cannot be exported."""
    if isinstance(model, str | os.PathLike):
        model = load_checkpoint(model)
    config = model.get_config() if hasattr(model, "preprocessor") else {}
    if "classifier_activation" not in config:
        raise ValueError(
            f"Exports are of keras_vit models, such as ViTB16(); received {model!r}."
            f"{_advice(model)}"
        )
    for part in (model, model.preprocessor, *model.layers):
        package = type(part).__module__.split(".")[0]
        if package not in ("keras", "keras_vit"):
            raise ValueError(
                f"{type(part).__qualname__} is a class of {package!r}, which the process "
                "that writes exports does not know: use one of keras or keras_vit."
            )
    return merged(model)


def _advice(model):
    """Return a sentence about a model that wraps one of keras_vit, or nothing."""
    if hasattr(model, "backbone") and hasattr(model, "preprocessor"):
        return " Its backbone can be exported: model.backbone."
    for layer in getattr(model, "layers", ()):
        if hasattr(layer, "preprocessor") and isinstance(layer, keras.Model):
            return (
                f" It contains one: export model.get_layer({layer.name!r}), without the "
                "layers around it. Give it an activation by classifier_activation=, for "
                "instance keras_vit.load_checkpoint(FILE, "
                "classifier_activation='softmax')."
            )
    return ""


def names_of_classes(model, labels):
    """Return a list with one label per class, or an empty list without a classifier.

    Raises:
        ValueError: `labels` is not None, and not such a list.
    """
    config = model.get_config()
    if not config["include_top"]:
        if labels is not None:
            raise ValueError(
                "labels name the classes of a classifier; the model has "
                "include_top=False. Leave them out."
            )
        return []
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
    model,
    targets,
    file_format,
    options,
    preprocessor,
    *,
    tolerance,
    verbose,
    rounded="float32",
):
    """Write an export to the first free path of `targets`; write nothing on failure.

    Args:
        model: model returned by `loaded`.
        targets: iterable of paths in one directory. A generator can look for a free path
            at the time when the export is complete.
        file_format: a key of `tensorflow_process.FORMATS`.
        options: dict of options for that format, serializable as JSON.
        preprocessor: the `Preprocessor` that becomes part of the export.
        tolerance: float, see `comparison.difference`.
        verbose: whether to print progress.
        rounded: one of `WEIGHTS_DTYPES`. The export is compared with the model whose
            weights are rounded to this dtype.

    Returns:
        The path written, and a dict of further results of the TensorFlow process.
    """
    targets = iter(targets)
    first = next(targets)
    if verbose:
        print(f"Exporting to {first} ({options['weights_dtype']}) ...", flush=True)
    with staged(first.parent) as staging:
        exact = _describe(model, file_format, options, preprocessor, rounded, staging)
        result = _run_under_tensorflow(staging)
        with np.load(staging / "check.npz") as check:
            head = Head.of(model.get_config())
            difference = comparison.difference(
                exact, head, options, dict(check), tolerance
            )
        weights_file = options.get("weights_file", "weights")
        with placed(staging / weights_file, first.with_name(weights_file)):
            target = place(staging / "export", itertools.chain([first], targets))
    if verbose:
        print(
            f"Exported {target}: every output within {difference:.1e} of Keras's "
            f"(relative to the largest if beyond 1; limit {tolerance:.0e})."
        )
    return target, result


def _describe(model, file_format, options, preprocessor, rounded, staging):
    """Save what the TensorFlow process needs to rebuild the model.

    Returns the model whose outputs the export must reproduce.
    """
    config = {
        **model.get_config(),
        "dtype": "float32",
        "classifier_activation": None,
        "preprocessor": keras.saving.serialize_keras_object(preprocessor),
    }
    # Use the CPU like the TensorFlow process, because accelerators round float32
    # products. The device is not "cpu:0", for which torch refuses the seeds of dropout.
    with keras.device("cpu"):
        exact = copied(model, config)
        exact.trainable = False  # Torch would keep what gradients need.
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
        "CUDA_VISIBLE_DEVICES": "-1",  # Another backend may hold the accelerator.
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join(path),
        # Temporary files of converters are removed together with the staging directory.
        "TMPDIR": str(staging.resolve()),
    }
    # Run the file by its path instead of `-m`, so that it starts to watch for the end of
    # this process before it imports Keras.
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
            "mostly means out of memory); nothing was written. Its last output:\n"
            f"{last_words}"
        )
    return json.loads((staging / "result.json").read_text())
