"""Export to ONNX and LiteRT files, from any backend."""

import os
import pathlib
from collections.abc import Sequence

import keras

from keras_vit.choices import check_choice
from keras_vit.export.comparison import TOLERANCE
from keras_vit.export.served_model import (
    check_packages,
    export,
    loaded,
    names_of_classes,
)

FILE_WEIGHTS_DTYPES = ("float32", "int8")

# Largest allowed difference of an int8 file's outputs from the model's: absolute for
# probabilities, relative to the largest value for logits and features.
INT8_TOLERANCE = 0.1

# Bytes of weights in a file. Protocol buffers and flatbuffers have signed 32-bit offsets;
# 32 MiB are reserved for everything except the weights.
LARGEST_FILE = 2**31 - 2**25


def onnx(
    model: keras.Model | str | os.PathLike,
    path: str | os.PathLike,
    labels: Sequence[str] | None = None,
    weights_dtype: str = "float32",
    batch_size: int | None = None,
    verbose: bool = True,
) -> pathlib.Path:
    """Write an ONNX file, opset 18, for onnxruntime and other runtimes.

    As for `saved_model`, the graph is rebuilt under TensorFlow in a separate process, in
    float32, whatever backend trained the model; tf2onnx converts it. Before the file
    gets its final name, onnxruntime runs it in batches of 1, 2 and 7 crops of
    photographs, and its outputs are compared with the model's. If anything fails, or an
    output differs by more than 1e-4 (relative to the largest value if that exceeds 1),
    nothing is left behind.

    An ONNX file has at most 2 GB. The weights of larger models are written beside it, in
    a file with the same name and the ending `.onnx.data`, from which runtimes read them:
    copy both files, and do not rename the second one.

    The input is `images`, float32 `(b, h, w, c)` with pixel values 0 to 255. b is any
    batch size; h and w are arbitrary if `model.preprocessor` has an `image_size`, and
    those of the model otherwise. The file resizes, crops and scales images as the
    preprocessor does. The outputs are those of the signature `serving_default` of
    `saved_model`: `logits` and, for softmax or sigmoid, `probabilities`, float32
    `(b, classes)`; or, for a model without a classifier, `pooled` `(b, d)` and `tokens`
    `(b, gh, gw, d)`.

    Args:
        model: a `keras_vit.ViT`, or an argument of `keras_vit.load_checkpoint`. Without
            a classifier (`include_top=False`), the file returns features.
        path: path of the file, ending in `.onnx`; its directory is created if it does
            not exist.
        labels: a name for each class. None for the model's `class_names`; if it has
            none, the ImageNet-1k names for 1000 classes, otherwise the class indices; a
            model without a classifier takes None only. The file stores them as JSON in
            `labels` of its `metadata_props`.
        weights_dtype: `"float32"`, or `"int8"` to store the matrices of all dense layers
            in 8 bits, each output channel with its own scale, and to compute these
            layers in 8 bits, with activations rounded at run time. This changes the
            outputs. The export fails if they differ by more than 0.1: absolute for
            probabilities, relative to the largest value for logits and features.
        batch_size: None for any number of images in a call, or an int: the file then
            takes exactly so many images of the model's size, as delegates of mobile
            devices need it. All of its tensors have fixed sizes, and the client resizes
            and crops the images like `model.preprocessor`.
        verbose: whether to print progress.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        FileExistsError: `path`, or the file of weights beside it, exists already.
        FileNotFoundError: the checkpoint does not exist.
        ImportError: tensorflow, tf2onnx, onnx or onnxruntime is not installed.
        RuntimeError: the export failed, or its outputs differ from the model's.
        ValueError: `model` is not a keras_vit model, or another argument is out of its
            range.

    Example:

    >>> import keras_vit
    >>> import onnxruntime  # doctest: +SKIP
    >>> path = keras_vit.export.onnx(keras_vit.ViTS16(), "vit.onnx")  # doctest: +SKIP
    >>> session = onnxruntime.InferenceSession(path)  # doctest: +SKIP
    >>> session.run(["probabilities"], {"images": pixels})  # doctest: +SKIP

    Reference: https://onnx.ai/onnx/intro
    """
    target = _checked_path(path, ".onnx")
    weights_file = target.with_name(f"{target.name}.data")
    _check_absent(weights_file)
    check_packages(("tensorflow", "tf2onnx", "onnx", "onnxruntime"), "onnx")
    check_choice("weights_dtype", weights_dtype, FILE_WEIGHTS_DTYPES)
    _check_batch_size(batch_size)
    model = loaded(model)
    preprocessor = model.preprocessor
    if batch_size is not None:
        preprocessor = preprocessor.with_image_size(None)
    options = {
        "labels": names_of_classes(model, labels),
        "weights_dtype": weights_dtype,
        "batch_size": batch_size,
        "weights_file": weights_file.name,
        "largest_file": LARGEST_FILE,
    }
    return _write(model, target, "onnx", options, preprocessor, verbose)


def litert(
    model: keras.Model | str | os.PathLike,
    path: str | os.PathLike,
    labels: Sequence[str] | None = None,
    weights_dtype: str = "float32",
    batch_size: int | None = None,
    verbose: bool = True,
) -> pathlib.Path:
    """Write a LiteRT (TensorFlow Lite) file that uses built-in LiteRT operations only.

    As for `saved_model`, the graph is rebuilt under TensorFlow in a separate process, in
    float32, whatever backend trained the model. Before the file gets its final name,
    LiteRT's interpreter runs it in batches of 1, 2 and 7 crops of photographs, and its
    outputs are compared with the model's. If anything fails, or an output differs by
    more than 1e-4 (relative to the largest value if that exceeds 1), nothing is left
    behind.

    The input of the signature `serving_default` is `images`, float32 `(b, h, w, c)` with
    pixel values 0 to 255. b is any batch size; h and w are those of the model. The file
    scales the pixel values, but the client must resize and crop images like
    `model.preprocessor`, because LiteRT has no antialiased resize and its delegates need
    fixed sizes. The outputs are those of the signature `serving_default` of
    `saved_model`: `logits` and, for softmax or sigmoid, `probabilities`, float32
    `(b, classes)`; or, for a model without a classifier, `pooled` `(b, d)` and `tokens`
    `(b, gh, gw, d)`.

    The class names are stored in the file, one per line, in the order of the outputs. As
    in files with LiteRT metadata, they are the entry `labels.txt` of a zip archive at the
    end of the file: `unzip -p vit.tflite labels.txt` prints them.

    Args:
        model: a `keras_vit.ViT`, or an argument of `keras_vit.load_checkpoint`. Without
            a classifier (`include_top=False`), the file returns features.
        path: path of the file, ending in `.tflite`; its directory is created if it does
            not exist.
        labels: a name for each class, without line breaks. None for the model's
            `class_names`; if it has none, the ImageNet-1k names for 1000 classes,
            otherwise the class indices; a model without a classifier takes None only.
        weights_dtype: `"float32"`, or `"int8"` to store matrices in 8 bits and to compute
            with them in 8 bits where LiteRT supports it (dynamic range quantization, in
            which activations are quantized at run time). The outputs change slightly; the
            export fails if probabilities change by more than 0.1, or logits or features
            by more than 0.1 relative to the largest.
        batch_size: None for any number of images in a call, or an int: the file then
            takes exactly so many images, and all of its tensors have fixed sizes, as
            delegates of mobile devices need it.
        verbose: whether to print progress.

    Returns:
        `pathlib.Path` of the file.

    Raises:
        ImportError: tensorflow or ai_edge_litert is not installed.
        ValueError: the model is too large for one file, or a label has a line break.
        Other errors: as for `onnx`.

    Example:

    >>> import keras_vit
    >>> from ai_edge_litert.interpreter import Interpreter  # doctest: +SKIP
    >>> path = keras_vit.export.litert(keras_vit.ViTS16(), "vit.tflite")  # doctest: +SKIP
    >>> predict = Interpreter(str(path)).get_signature_runner()  # doctest: +SKIP
    >>> predict(images=pixels)["probabilities"]  # doctest: +SKIP

    Reference: https://ai.google.dev/edge/litert/models/metadata
    """
    target = _checked_path(path, ".tflite")
    check_packages(("tensorflow", "ai_edge_litert"), "litert")
    check_choice("weights_dtype", weights_dtype, FILE_WEIGHTS_DTYPES)
    _check_batch_size(batch_size)
    model = loaded(model)
    _check_fits(model)
    only_scales = model.preprocessor.with_image_size(None)
    labels = names_of_classes(model, labels)
    if broken := [label for label in labels if "\n" in label]:
        raise ValueError(
            f"labels.txt has a line for each class; the label {broken[0]!r} has a line "
            "break. Rename it."
        )
    options = {
        "labels": labels,
        "weights_dtype": weights_dtype,
        "batch_size": batch_size,
    }
    return _write(model, target, "litert", options, only_scales, verbose)


def _checked_path(path, ending):
    path = pathlib.Path(path).expanduser()
    if path.suffix != ending:
        raise ValueError(f"The name of the file must end in {ending}; received {path}.")
    _check_absent(path)
    return path


def _check_absent(path):
    if path.exists():
        raise FileExistsError(
            f"{path} exists and is not overwritten: remove it, or choose another name."
        )


def _check_fits(model):
    size = 4 * model.count_params()
    if size > LARGEST_FILE:
        raise ValueError(
            f"The model's weights have {size / 1e9:.1f} GB; .tflite files, and what they "
            f"are converted from, have at most {LARGEST_FILE / 1e9:.1f} GB. Use "
            "keras_vit.export.onnx or keras_vit.export.saved_model."
        )


def _check_batch_size(batch_size):
    whole = isinstance(batch_size, int) and not isinstance(batch_size, bool)
    if batch_size is not None and not (whole and batch_size > 0):
        raise ValueError(
            "batch_size must be None, for any number of images, or a positive int; "
            f"received {batch_size!r}."
        )


def _write(model, target, file_format, options, preprocessor, verbose):
    tolerance = INT8_TOLERANCE if options["weights_dtype"] == "int8" else TOLERANCE
    target, _ = export(
        model,
        [target],
        file_format,
        options,
        preprocessor,
        tolerance=tolerance,
        verbose=verbose,
    )
    return target
