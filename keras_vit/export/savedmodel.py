"""SavedModels for TF Serving, whatever backend trained the model."""

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile

import keras
import numpy as np

# Largest difference in a logit between the export and Keras, for logits up to 1; for
# larger ones, as a part of the largest.
TOLERANCE = 1e-4


def saved_model(
    model: keras.Model,
    directory: str | os.PathLike,
    version: int = 1,
    verbose: bool = True,
) -> pathlib.Path:
    """Writes a SavedModel that TF Serving loads: `directory/version/`.

    The graph is rebuilt under TensorFlow in a process of its own, in float32, from plain
    TensorFlow operations, so it does not depend on the backend, the policy or the machine
    that trained the model. It is compared with the model on random images before it
    gets its final name; where anything fails, nothing is left behind.

    The signature `serving_default` takes `images`: pixel values 0 to 255, float32,
    `(b, h, w, c)` with any `b`, and with any `h` and `w` where `model.preprocessor` has
    an `image_size`; they are resized, cropped and scaled inside as it says. It returns
    `logits` and `probabilities`, float32 `(b, classes)`. Probabilities are the model's
    `classifier_activation` of the logits; softmax where that is None.

    Args:
        model: a `keras_vit.ViT` with its classifier.
        directory: path of the served model; made if it does not exist.
        version: int, 1 or more; TF Serving serves the highest.
        verbose: whether to print where the export went.

    Returns:
        `pathlib.Path` of the version written.

    Raises:
        FileExistsError: this version exists already, or `directory` holds something
            other than versions of a model.
        ImportError: TensorFlow is not installed.
        RuntimeError: the export failed, or does not give the model's outputs.
        ValueError: `model` is no keras_vit model or has no classifier, or `version` is
            no positive int.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViTB16()  # doctest: +SKIP
    >>> keras_vit.export.saved_model(model, "served/vit")  # doctest: +SKIP
    PosixPath('served/vit/1')
    """
    root = pathlib.Path(directory)
    target = root / str(version)
    _check(model, root, target, version)
    if verbose:
        print(f"Exporting to {target} (TensorFlow, float32) ...", flush=True)
    made = [path for path in (root, *root.parents) if not path.exists()]
    root.mkdir(parents=True, exist_ok=True)
    try:
        # Beside the target, so that the last step is a rename on one file system.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=root) as temporary:
            staging = pathlib.Path(temporary)
            _describe(model, staging)
            difference = _run_under_tensorflow(staging)
            if target.exists():
                raise FileExistsError(f"{target} appeared during the export.")
            os.rename(staging / "saved_model", target)
    except BaseException:
        with contextlib.suppress(OSError):  # Something else has come to lie there.
            for path in made:
                path.rmdir()
        raise
    if verbose:
        print(
            f"Exported {target}: signature serving_default, images -> logits, "
            f"probabilities (logits within {difference:.1e} of Keras's)."
        )
    return target


def _check(model, directory, target, version):
    config = model.get_config() if hasattr(model, "preprocessor") else {}
    if "classifier_activation" not in config:
        raise ValueError(
            f"saved_model exports keras_vit models, such as ViTB16(); received {model!r}."
        )
    if not config["include_top"]:
        raise ValueError(
            "saved_model needs a classifier; the model has include_top=False."
        )
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ValueError(f"version must be an int, 1 or more; received {version!r}.")
    if importlib.util.find_spec("tensorflow") is None:
        raise ImportError(
            "A SavedModel is written by TensorFlow, which is not installed: "
            "pip install 'keras_vit[tensorflow]'."
        )
    if directory.exists() and not directory.is_dir():
        raise FileExistsError(f"{directory} is a file; saved_model needs a directory.")
    entries = [entry.name for entry in directory.iterdir()] if directory.exists() else []
    versions = [name for name in entries if name.isdecimal()]
    foreign = [
        name for name in entries if name not in versions and not name.startswith(".")
    ]
    if foreign:
        raise FileExistsError(
            f"{directory} holds other files ({', '.join(sorted(foreign)[:5])}); choose a "
            "new directory, or one that holds versions of this model only."
        )
    if target.exists():
        free = max(map(int, versions)) + 1
        raise FileExistsError(
            f"{target} exists and is not overwritten: use version={free} or another "
            "directory."
        )


def _describe(model, staging):
    """Leaves for the other process what it needs to rebuild the model and check it."""
    config = {**model.get_config(), "dtype": "float32", "classifier_activation": None}
    # On the CPU, as the other process: an accelerator rounds float32 products.
    with keras.device("cpu"):  # Not cpu:0: torch then refuses the seeds of dropout.
        exact = type(model).from_config(config)
        exact.set_weights(model.get_weights())
        generator = np.random.default_rng(0)
        height, width, channels = config["input_shape"]
        if exact.preprocessor.image_size is not None:
            height, width = height + 1, 2 * width  # So that the resize is compared too.
        images = generator.uniform(0, 255, (2, height, width, channels))
        images = images.astype("float32")
        logits = exact(exact.preprocessor(images), training=False)
        np.savez(
            staging / "check.npz",
            images=images,
            logits=keras.ops.convert_to_numpy(logits),
        )
        exact.save_weights(staging / "model.weights.h5")
    description = {
        "class": keras.saving.get_registered_name(type(model)),
        "config": config,
        "activation": model.get_config()["classifier_activation"] or "softmax",
    }
    (staging / "model.json").write_text(json.dumps(description))


def _run_under_tensorflow(staging):
    package = pathlib.Path(__file__).parents[2]
    path = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {
        **os.environ,
        "KERAS_BACKEND": "tensorflow",
        "CUDA_VISIBLE_DEVICES": "-1",  # The accelerator may be another backend's.
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "PYTHONPATH": os.pathsep.join(path),
    }
    process = subprocess.run(
        [sys.executable, "-P", "-m", "keras_vit.export.tensorflow_process", staging],
        env=environment,
        capture_output=True,
        text=True,
    )
    if process.returncode:
        raise RuntimeError(
            "The export under TensorFlow failed; nothing was written. Its last words:\n"
            + "\n".join(process.stderr.splitlines()[-20:])
        )
    difference = json.loads((staging / "difference.json").read_text())
    if not difference <= TOLERANCE:
        raise RuntimeError(
            f"The exported model's logits differ from Keras's by {difference:.1e} (limit "
            f"{TOLERANCE:.0e}); nothing was written."
        )
    return difference
