"""SavedModels for TF Serving, whatever backend trained the model."""

import math
import os
import pathlib
from collections.abc import Sequence

import keras

from keras_vit.export.comparison import TOLERANCE
from keras_vit.export.served_model import (
    check_packages,
    check_weights_dtype,
    export,
    loaded,
    names_of_classes,
)
from keras_vit.export.stored_weights import WEIGHTS_DTYPES


def saved_model(
    model: keras.Model | str | os.PathLike,
    directory: str | os.PathLike,
    version: int | None = None,
    labels: Sequence[str] | None = None,
    top_k: int = 5,
    max_pixels: int = 2**25,
    weights_dtype: str = "float32",
    exif: bool = True,
    verbose: bool = True,
) -> pathlib.Path:
    """Writes a SavedModel that TF Serving loads: `directory/version/`.

    The graph is rebuilt under TensorFlow in a process of its own, in float32, from plain
    TensorFlow operations, so it does not depend on the backend, the policy or the machine
    that trained the model. Every signature is compared with the model, in batches of 1, 2
    and 7 parts of photographs (those of scikit-learn where it is installed, drawn waves
    where not), before the export gets its final name; where anything fails, or an output
    differs by more than 1e-4 (of the largest, where that is beyond 1), nothing is left
    behind.

    Each signature takes one input and returns outputs by name; b is any number:

    - `serving_default`: `images` float32 `(b, h, w, c)` to `logits`, `probabilities`;
    - `predict_uint8`: the same of uint8 `images`;
    - `predict_bytes`: `image_bytes` string `(b,)` to `probabilities`, `classes`,
      `labels`, `scores`, `error`;
    - `features`: `images` float32 `(b, h, w, c)` to `pooled`, `tokens`;
    - `attention`: `image_bytes` string `(b,)` to `attention`, `crop_fraction`,
      `orientation`, `error`.

    `images` are pixel values 0 to 255, of any height and width where `model.preprocessor`
    has an `image_size`; they are resized, cropped and scaled inside as it says.
    `image_bytes` are files, which may differ in size: JPEG, PNG, GIF (its first frame,
    which must fill its screen), uncompressed BMP of 24 or 32 bits, WebP without
    animation (where the server's TensorFlow reads it). Files whose EXIF states an
    orientation are turned upright first. Colors become grey and grey becomes colors as
    the model needs, alpha is dropped, 16 bits become 8.
    Models of other than 1 or 3 channels have no `predict_bytes` and no `attention`.

    `logits` and `probabilities` are float32 `(b, classes)`; probabilities are the model's
    `classifier_activation` of the logits, softmax or sigmoid. A model that ends in its
    logits (`classifier_activation=None`, a regression for instance) has no
    `probabilities`: `predict_bytes` then returns `logits`. The values of any other
    activation are called `outputs`. `classes` int32, `labels` string and `scores`
    float32, all `(b, top_k)`, name the classes with the highest values, best first.
    `error` int32 `(b,)` is 0, or says why the image was not classified: 1, it cannot be
    decoded; 2, it has more than `max_pixels`; 3, it is not of the size that a model takes
    whose preprocessor does not resize. Its other outputs are then 0, classes -1 and
    labels empty (JSON has no NaN); the rest of the batch is not touched by it.
    `pooled` float32 `(b, d)` is what the model gives with `include_top=False`, `tokens`
    float32 `(b, gh, gw, d)` the grid of tokens that the pooling takes. `attention`
    float32 `(b, gh, gw)` says how much each part of the image counts, by attention
    rollout (arXiv:2005.00928); it covers the image as `orientation` int32 `(b,)`, the
    EXIF orientation that was applied, turns it upright, or where `crop_fraction` float32
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
            as it comes and after the resize that comes before a crop; a little more than
            twice the model's at least. A file of some kilobytes can declare gigabytes.
        weights_dtype: `"float32"`; `"bfloat16"` to store all but vectors with half of
            the bytes and 8 bits of each number; or `"int8"`, a quarter of the bytes:
            whole numbers from -127 to 127 of a step that every output channel has,
            a 127th of its largest absolute weight. Computed in float32 either way.
            The comparison is then with the model of these rounded weights.
        exif: whether to turn files upright as their EXIF orientation asks for, as
            training does. False for a model that was trained without.
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
    root = pathlib.Path(directory).expanduser()
    check_packages(["tensorflow"], "tensorflow")
    _check_place(root, version)
    check_weights_dtype(weights_dtype, WEIGHTS_DTYPES)
    for name, value in (("top_k", top_k), ("max_pixels", max_pixels)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an int, 1 or more; received {value!r}.")
    model = loaded(model)
    _check_max_pixels(model, max_pixels)
    labels = names_of_classes(model, labels)
    options = {
        "labels": labels,
        "top_k": min(top_k, len(labels)),
        "max_pixels": max_pixels,
        "weights_dtype": weights_dtype,
        "exif": exif,
    }
    target = root / str(version or _next_version(root))
    if verbose:
        print(f"Exporting to {target} (TensorFlow, {weights_dtype}) ...", flush=True)
    target, difference, result = export(
        model,
        [target] if version else _free_versions(root),
        "saved_model",
        options,
        model.preprocessor,
        tolerance=TOLERANCE,
        rounded=weights_dtype,
    )
    if verbose:
        print(
            f"Exported {target}: every output within {difference:.1e} of Keras's "
            f"(of the largest where that is beyond 1; limit {TOLERANCE:.0e})."
        )
        if not result["warm_up"]:
            print(
                "No warm-up requests were written, so a server's first request is slow: "
                "pip install 'keras_vit[serving]', and export again."
            )
    return target


def _check_place(directory, version):
    """Raise if nothing can be written to the directory."""
    if version is not None and (
        not isinstance(version, int) or isinstance(version, bool) or version < 1
    ):
        raise ValueError(f"version must be an int, 1 or more; received {version!r}.")
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
    if version is not None and (directory / str(version)).exists():
        raise FileExistsError(
            f"{directory / str(version)} exists and is not overwritten: use "
            f"version={_next_version(directory)} or another directory."
        )


def _next_version(directory):
    names = [path.name for path in directory.glob("*") if path.name.isdecimal()]
    return max(map(int, names), default=0) + 1


def _free_versions(directory):
    """Yield the next version, again and again: other exports may take it meanwhile."""
    while True:
        yield directory / str(_next_version(directory))


def _check_max_pixels(model, max_pixels):
    """Raises where the images that exports are compared on would be refused."""
    height, width, _ = model.input_shape[1:]
    if model.preprocessor.image_size is None:
        least = height * width
    else:
        crop_fraction = model.preprocessor.crop_fraction or 1.0
        least = math.ceil(2 * (height + 1) * width / crop_fraction**2)
    if max_pixels < least:
        raise ValueError(
            f"max_pixels must be {least} or more for this model; received {max_pixels}."
        )
