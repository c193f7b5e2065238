"""Export to SavedModels for TF Serving, from any backend.

Each signature takes one input and returns a dict of outputs; b is any batch size:

- `serving_default`: `images` float32 `(b, h, w, c)` to `logits`, `probabilities`;
- `predict_uint8`: the same for uint8 `images`;
- `predict_bytes`: `image_bytes` string `(b,)` to `probabilities`, `classes`, `labels`,
  `scores`, `error`;
- `features`: `images` float32 `(b, h, w, c)` to `pooled`, `tokens`;
- `attention`: `image_bytes` string `(b,)` to `attention`, `crop_fraction`, `orientation`,
  `error`.

A model without a classifier (`include_top=False`) has these signatures instead:

- `serving_default`, `features`: `images` float32 `(b, h, w, c)` to `pooled`, `tokens`;
- `predict_uint8`: the same for uint8 `images`;
- `embed`: `image_bytes` string `(b,)` to `pooled`, `error`;
- `features_bytes`: `image_bytes` string `(b,)` to `pooled`, `tokens`, `error`;
- `attention`: as above.

With `pooling=None` there is no `pooled`, and no `embed`.

`images` are pixel values 0 to 255, of any height and width if `model.preprocessor` has an
`image_size`; the graph resizes, crops and scales them as the preprocessor does.
`image_bytes` are image files. `docs/serving.md` lists their formats, the values of
`error`, and what models have instead that return logits or that do not take 1 or 3
channels. The outputs are:

- `logits` and `probabilities`, float32 `(b, classes)`;
- `classes` int32, `labels` string and `scores` float32, all `(b, top_k)`: the classes
  with the highest values, best first;
- `error` int32 `(b,)`: 0, or the reason why an image was refused;
- `pooled` float32 `(b, d)`: the output of the model with `include_top=False`;
- `tokens` float32 `(b, gh, gw, d)`: the grid tokens before pooling;
- `attention` float32 `(b, gh, gw)`: the contribution of each patch to the output, by
  attention rollout (arXiv:2005.00928), for the part of the upright image that
  `crop_fraction` float32 `(b,)` states (0 for all of it);
- `orientation` int32 `(b,)`: the EXIF orientation that was applied.

If the package `tensorflow-serving-api` (extra `tf-serving`) is installed, the export
includes a warm-up request for each signature in `assets.extra`, which TF Serving runs
before it reports the model as ready.
"""

import math
import os
import pathlib
from collections.abc import Sequence

import keras

from keras_vit.choices import WEIGHTS_DTYPES, check_choice
from keras_vit.export.comparison import TOLERANCE
from keras_vit.export.served_model import (
    check_packages,
    export,
    loaded,
    names_of_classes,
)


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
    """Write a SavedModel for TF Serving to `directory/version/`.

    The graph is rebuilt under TensorFlow in a separate process, in float32 and from plain
    operations, whatever backend, dtype policy or machine trained the model. If an output
    differs from the model's by more than 1e-4 (relative to the largest value if that
    exceeds 1), nothing is left behind. The documentation of this module and
    `docs/serving.md` describe the signatures.

    Args:
        model: a `keras_vit.ViT`, or an argument of `keras_vit.load_checkpoint`. Without
            a classifier (`include_top=False`), the export returns features.
        directory: path of the served model, created if it does not exist.
        version: int, 1 or more; TF Serving serves the highest version. None for the
            highest existing version plus one.
        labels: a name for each class. None for the model's `class_names`; if it has
            none, the ImageNet-1k names for 1000 classes, otherwise the class indices. A
            model without a classifier takes None only.
        top_k: int, number of classes that `predict_bytes` returns, at most all.
        max_pixels: int, largest number of pixels (height times width) of an image, both
            as received and after the resize that precedes a crop; at least a little more
            than twice the number of pixels of the model's input. The limit protects the
            server: a file of a few kilobytes can declare gigabytes.
        weights_dtype: `"float32"`, or `"bfloat16"` or `"int8"` to store all weights
            except vectors in half or a quarter of the bytes. int8 values are multiplied
            by a step for each output channel, 1/127 of its largest absolute weight. The
            export computes in float32 and is compared with the model of these weights.
        exif: whether to apply the EXIF orientation of files, as training does. Use False
            for a model that was trained without it.
        verbose: whether to print progress.

    Returns:
        `pathlib.Path` of the version written.

    Raises:
        FileExistsError: this version exists already, or `directory` holds files other
            than versions of a model.
        FileNotFoundError: the checkpoint does not exist.
        ImportError: TensorFlow is not installed.
        RuntimeError: the export failed, or its outputs differ from the model's.
        ValueError: `model` is not a keras_vit model, or another argument is out of its
            range.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViTB16()  # doctest: +SKIP
    >>> keras_vit.export.saved_model(model, "served/vit")  # doctest: +SKIP
    PosixPath('served/vit/1')
    """
    root = pathlib.Path(directory).expanduser()
    check_packages(["tensorflow"], "tensorflow")
    if version is not None:
        _check_integers(version=version)
    _check_place(root, version)
    check_choice("weights_dtype", weights_dtype, WEIGHTS_DTYPES)
    _check_integers(top_k=top_k, max_pixels=max_pixels)
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
    targets = [root / str(version)] if version else _free_versions(root)
    return _write(model, targets, options, verbose)


def _write(model, targets, options, verbose):
    target, result = export(
        model,
        targets,
        "saved_model",
        options,
        model.preprocessor,
        tolerance=TOLERANCE,
        verbose=verbose,
        rounded=options["weights_dtype"],
    )
    if verbose and not result["warm_up"]:
        print(
            "The export has no warm-up requests, so the first request to TF Serving is "
            "slow. The extra tf-serving of keras_vit writes them."
        )
    return target


def _check_integers(**arguments):
    for name, value in arguments.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be an int, 1 or more; received {value!r}.")


def _check_place(directory, version):
    """Raise if the export cannot be written to the directory."""
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
    """Yield the next free version repeatedly, since other exports may take it first."""
    while True:
        yield directory / str(_next_version(directory))


def _check_max_pixels(model, max_pixels):
    """Raise if the images used to compare the export would exceed the limit."""
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
