"""Image files, and their class scores."""

import pathlib
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from keras_vit.data import dark_images
from keras_vit.data.decoding import decode_pixels, reason
from keras_vit.data.folders import counted, image_files
from keras_vit.data.host import tensorflow


def images_in(paths: Sequence[str]) -> list[pathlib.Path]:
    """Return the image files at some paths, with folders replaced by their images.

    Args:
        paths: paths of image files and of folders, which are searched for images.

    Raises:
        FileNotFoundError: a path does not exist, or a folder holds no images.
    """
    found = []
    for path in map(pathlib.Path, paths):
        inside = [path]
        if path.is_dir():
            images, others = image_files(path)
            inside = [pathlib.Path(image) for image in images]
            if others:
                print(f"{path}: left out {counted(others)}", file=sys.stderr)
        if not inside or not path.exists():
            raise FileNotFoundError(f"No image at {path}.")
        found += inside
    return found


def read_images(
    paths: Iterable[pathlib.Path], channels: int, exif: bool = True
) -> Iterator[tuple[pathlib.Path, Any]]:
    """Read image files.

    Args:
        paths: paths of image files.
        channels: int, number of channels; see `keras_vit.data.decode_pixels`.
        exif: bool, whether to rotate images upright by their EXIF orientation.

    Yields:
        Pairs of a path and its pixels, a uint8 tensor of TensorFlow `(h, w, channels)`,
        or of a path and the reason why the image cannot be read, a string.
    """
    tf = tensorflow()
    for path in paths:
        try:
            content = path.read_bytes()
            if text := dark_images.warning(str(path), content):
                print(text, file=sys.stderr)
            yield path, decode_pixels(tf.constant(content), channels, exif=exif)
        except (OSError, tf.errors.OpError) as error:
            yield path, reason(error)


def predict(
    model, paths: Sequence[pathlib.Path], batch_size: int, exif: bool = True
) -> Iterator[tuple[pathlib.Path, np.ndarray | str]]:
    """Compute the class scores of image files.

    Args:
        model: a `keras_vit` model with its classifier.
        paths: paths of image files.
        batch_size: int, number of images in a batch.
        exif: bool, whether to rotate images upright by their EXIF orientation.

    Yields:
        Pairs of a path and its scores `(classes,)`, or of a path and the reason why the
        image cannot be read, a string.
    """
    for start in range(0, len(paths), batch_size):
        good, images = [], []
        chunk = paths[start : start + batch_size]
        for path, pixels in read_images(chunk, model.input_shape[-1], exif):
            if isinstance(pixels, str):
                yield path, pixels
            else:
                image = np.asarray(model.preprocessor(pixels))
                if image.shape != model.input_shape[1:]:
                    yield path, _other_size(image, model)
                    continue
                images.append(image)
                good.append(path)
        if images:
            scores = model.predict_on_batch(np.stack(images))
            yield from zip(good, scores, strict=True)


def _other_size(image, model):
    given, wanted = (f"{h}x{w}" for h, w, _ in (image.shape, model.input_shape[1:]))
    return f"It has {given} pixels, and the model takes images of {wanted}."
