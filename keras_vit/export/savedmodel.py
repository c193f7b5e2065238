"""SavedModels for TF Serving, whatever backend trained the model."""

import contextlib
import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

import keras
import numpy as np

from keras_vit.export.attention import attention_rollout
from keras_vit.export.features import outputs_and_features
from keras_vit.labels import imagenet_1k
from keras_vit.models.checkpoint import load_checkpoint

# Largest difference of an output between the export and Keras, for outputs up to 1; for
# larger ones, as a part of the largest.
TOLERANCE = 1e-4

WEIGHTS_DTYPES = ("float32", "bfloat16")


def saved_model(
    model: keras.Model | str | os.PathLike,
    directory: str | os.PathLike,
    version: int | None = None,
    labels: Sequence[str] | None = None,
    top_k: int = 5,
    max_pixels: int = 2**25,
    weights_dtype: str = "float32",
    verbose: bool = True,
) -> pathlib.Path:
    """Writes a SavedModel that TF Serving loads: `directory/version/`.

    The graph is rebuilt under TensorFlow in a process of its own, in float32, from plain
    TensorFlow operations, so it does not depend on the backend, the policy or the machine
    that trained the model. Every signature is compared with the model, in batches of 1, 2
    and 7 parts of photographs (those of scikit-learn where it is installed, drawn waves
    where not), before the export gets its final name; where anything fails, nothing is
    left behind.

    Each signature takes one input and returns outputs by name; b is any number:

    - `serving_default`: `images` float32 `(b, h, w, c)` to `probabilities`, `logits`;
    - `predict_uint8`: the same of uint8 `images`;
    - `predict_bytes`: `image_bytes` string `(b,)` to `probabilities`, `classes`,
      `labels`, `scores`, `error`;
    - `features`: `images` float32 `(b, h, w, c)` to `pooled`, `tokens`;
    - `attention`: `image_bytes` string `(b,)` to `attention`, `crop_fraction`, `error`.

    `images` are pixel values 0 to 255, of any height and width where `model.preprocessor`
    has an `image_size`; they are resized, cropped and scaled inside as it says.
    `image_bytes` are files, which may differ in size: JPEG, PNG, GIF (its first frame),
    BMP of 24 or 32 bits, WebP without animation (where the server's TensorFlow reads
    it). Colours become grey and grey becomes colours as the model needs, alpha is
    dropped, 16 bits become 8; a rotation that EXIF asks for is not done. Models of other
    than 1 or 3 channels have no `predict_bytes` and no `attention`.

    `logits` and `probabilities` are float32 `(b, classes)`; probabilities are the model's
    `classifier_activation` of the logits, softmax where that is None. `classes` int32,
    `labels` string and `scores` float32, all `(b, top_k)`, name the most probable, best
    first. `error` int32 `(b,)` is 0, or says why the image was not classified: 1, it
    cannot be decoded; 2, it has more than `max_pixels`; 3, it is not of the size that a
    model takes whose preprocessor does not resize. Its other outputs are then 0, classes
    -1 and labels empty (JSON has no NaN); the rest of the batch is not touched by it.
    `pooled` float32 `(b, d)` is what the model gives with `include_top=False`, `tokens`
    float32 `(b, gh, gw, d)` the grid of tokens that the pooling takes. `attention`
    float32 `(b, gh, gw)` says how much each part of the image counts, by attention
    rollout (arXiv:2005.00928); it covers the image, or where `crop_fraction` float32
    `(b,)` is not 0, that part of the largest area in its middle that has the model's
    proportions.

    With the package `tensorflow-serving-api` (extra `serving`), a request for each
    signature goes into `assets.extra`, which TF Serving sends itself before it says that
    the model is ready.

    Args:
        model: a `keras_vit.ViT` with its classifier, or what
            `keras_vit.load_checkpoint` takes.
        directory: path of the served model; made if it does not exist.
        version: int, 1 or more; TF Serving serves the highest. None for one more than
            the highest there.
        labels: a name for each class; None for ImageNet-1k's where there are 1000
            classes, and the class's number where not.
        top_k: int, how many classes `predict_bytes` names; all where there are fewer.
        max_pixels: int, the most pixels (height times width) that an image may have,
            as it comes and after the resize that comes before a crop. A file of some
            kilobytes can declare gigabytes.
        weights_dtype: `"float32"`, or `"bfloat16"` to store all but vectors with half of
            the bytes and an eighth of the digits; computed in float32 either way.
            The comparison is then with the model of these rounded weights.
        verbose: whether to print what is done.

    Returns:
        `pathlib.Path` of the version written.

    Raises:
        FileExistsError: this version exists already, or `directory` holds something
            other than versions of a model.
        FileNotFoundError: there is no such checkpoint.
        ImportError: TensorFlow is not installed.
        RuntimeError: the export failed, or does not give the model's outputs.
        ValueError: `model` is no keras_vit model or has no classifier, or another
            argument is out of its range.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViTB16()  # doctest: +SKIP
    >>> keras_vit.export.saved_model(model, "served/vit")  # doctest: +SKIP
    PosixPath('served/vit/1')
    """
    root = pathlib.Path(directory)
    version = _check_place(root, version)
    target = root / str(version)
    if isinstance(model, str | os.PathLike):
        model = load_checkpoint(model)
    serving = _serving(model, labels, top_k, max_pixels, weights_dtype)
    if verbose:
        print(f"Exporting to {target} (TensorFlow, {weights_dtype}) ...", flush=True)
    made = [path for path in (root, *root.parents) if not path.exists()]
    root.mkdir(parents=True, exist_ok=True)
    try:
        # Beside the target, so that the last step is a rename on one file system.
        with tempfile.TemporaryDirectory(prefix=".export-", dir=root) as temporary:
            staging = pathlib.Path(temporary)
            exact, activation = _describe(model, serving, staging)
            warm = _run_under_tensorflow(staging)["warm_up"]
            with np.load(staging / "check.npz") as check:
                difference = _difference(exact, activation, serving, dict(check))
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
            f"Exported {target}: every output within {difference:.1e} of Keras's "
            f"(limit {TOLERANCE:.0e})."
        )
        if not warm:
            print(
                "No warm-up requests were written, so a server's first request is slow: "
                "pip install 'keras_vit[serving]', and export again."
            )
    return target


def _check_place(directory, version):
    """Raises where nothing can be written; returns the number of the version."""
    if version is not None and (
        not isinstance(version, int) or isinstance(version, bool) or version < 1
    ):
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
    free = max(map(int, versions), default=0) + 1
    if version is not None and (directory / str(version)).exists():
        raise FileExistsError(
            f"{directory / str(version)} exists and is not overwritten: use "
            f"version={free} or another directory."
        )
    return version or free


def _serving(model, labels, top_k, max_pixels, weights_dtype):
    """Checks the model and what it is served with; returns the latter."""
    config = model.get_config() if hasattr(model, "preprocessor") else {}
    if "classifier_activation" not in config:
        raise ValueError(
            f"saved_model exports keras_vit models, such as ViTB16(); received {model!r}."
        )
    if not config["include_top"]:
        raise ValueError(
            "saved_model needs a classifier; the model has include_top=False."
        )
    classes = config["classes"]
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
    for name, value in (("top_k", top_k), ("max_pixels", max_pixels)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an int, 1 or more; received {value!r}.")
    if weights_dtype not in WEIGHTS_DTYPES:
        raise ValueError(
            f"Unknown weights_dtype {weights_dtype!r}; choose one of "
            f"{', '.join(map(repr, WEIGHTS_DTYPES))}."
        )
    return {
        "labels": list(labels),
        "top_k": min(top_k, classes),
        "max_pixels": max_pixels,
        "weights_dtype": weights_dtype,
    }


def _describe(model, serving, staging):
    """Leaves for the other process what it needs to rebuild the model.

    Returns the model whose outputs the export must have, and its activation.
    """
    config = {**model.get_config(), "dtype": "float32", "classifier_activation": None}
    activation = model.get_config()["classifier_activation"] or "softmax"
    # On the CPU, as the other process: an accelerator rounds float32 products.
    with keras.device("cpu"):  # Not cpu:0: torch then refuses the seeds of dropout.
        exact = type(model).from_config(config)
        exact.set_weights(model.get_weights())
        if serving["weights_dtype"] != "float32":
            for weight in exact.weights:
                if len(weight.shape) > 1:
                    rounded = keras.ops.cast(weight, serving["weights_dtype"])
                    weight.assign(keras.ops.cast(rounded, "float32"))
        exact.save_weights(staging / "model.weights.h5")
    description = {
        "class": keras.saving.get_registered_name(type(model)),
        "config": config,
        "activation": activation,
        "serving": serving,
    }
    (staging / "model.json").write_text(json.dumps(description))
    return exact, keras.activations.get(activation)


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
    return json.loads((staging / "result.json").read_text())


def _difference(model, activation, serving, check):
    """Largest difference between the export's outputs and Keras's; raises if too large.

    For batches of 1, 2 and 7; where an output has values beyond 1 or -1, as a part of
    the largest.
    """
    inputs = {name: check[name] for name in ("images", "decoded") if name in check}
    with keras.device("cpu"):
        # In one batch, so that it is computed once.
        images = model.preprocessor(np.concatenate(list(inputs.values())))
        outputs = outputs_and_features(model)(images, training=False)
        outputs["attention"] = attention_rollout(model)(images)
        outputs["probabilities"] = activation(outputs["logits"])
    outputs = {k: keras.ops.convert_to_numpy(value) for k, value in outputs.items()}
    count = len(inputs["images"])
    largest = 0.0
    for name, served in check.items():
        if name in inputs:
            continue
        signature, output, size = name.split()
        first = count if signature in ("predict_bytes", "attention") else 0
        batch = slice(first, first + int(size))
        if output in outputs:
            expected = outputs[output][batch]
        elif signature == "attention":  # The same for all images.
            crop_fraction = model.preprocessor.crop_fraction or 0.0
            expected = {"crop_fraction": crop_fraction, "error": 0}[output]
        else:
            classes = check[f"predict_bytes classes {size}"]
            served, expected = _of_files(
                output, served, classes, outputs["probabilities"][batch], serving
            )
        scale = max(1.0, float(np.max(np.abs(expected))))
        difference = float(np.max(np.abs(served - expected))) / scale
        if not difference <= TOLERANCE:
            raise RuntimeError(
                f"The exported model's {output} (signature {signature}, batch of {size}) "
                f"differ from Keras's by {difference:.1e} (limit {TOLERANCE:.0e}); "
                "nothing was written."
            )
        largest = max(largest, difference)
    return largest


def _of_files(output, served, classes, probabilities, serving):
    """What only `predict_bytes` returns, and what it should, as numbers."""
    best = -np.sort(-probabilities, axis=1)[:, : serving["top_k"]]
    if output == "classes":  # Two that are as likely may be in either order.
        return np.take_along_axis(probabilities, classes, axis=1), best
    if output == "labels":
        wrong = np.char.decode(served, "utf-8") != np.asarray(serving["labels"])[classes]
        return wrong, np.zeros(served.shape)
    return served, {"scores": best, "error": np.zeros(served.shape)}[output]
