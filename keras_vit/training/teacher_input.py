"""Conversion of a student's images to the input of a teacher."""

from typing import Any

import numpy as np
from keras import ops

from keras_vit.layers import Preprocessor
from keras_vit.layers.unstated_preprocessor import UnstatedPreprocessor


class TeacherInput:
    """Function from the images of a student to those of a teacher.

    Both see the same augmented image. The scale of the student's preprocessor is undone,
    gray images are repeated for a teacher of color images, and the pixels get the size
    and the scale of the teacher. Nothing is cropped.

    Args:
        student_shape: `(height, width, channels)` of the student's images.
        preprocessor: the student's `Preprocessor`.
        teacher_shape: the same for the teacher, with None for any size.
        teacher_preprocessor: the teacher's `Preprocessor`, or None for a teacher that
            takes pixel values 0 to 255.

    Raises:
        ValueError: the numbers of channels differ, or the scale of the teacher is
            unknown.
    """

    def __init__(
        self,
        student_shape: tuple[int, int, int],
        preprocessor: Preprocessor,
        teacher_shape: tuple[int | None, ...],
        teacher_preprocessor: Preprocessor | None,
    ):
        for unstated in (preprocessor, teacher_preprocessor):
            if isinstance(unstated, UnstatedPreprocessor):
                raise unstated.error()
        *size, channels = student_shape
        *teacher_size, wanted = teacher_shape
        self.repeats = _repeats(channels, wanted)
        mean, std = (
            np.broadcast_to(values, channels)
            for values in (preprocessor.mean, preprocessor.std)
        )
        self._to_pixels = Preprocessor((-mean / std).tolist(), (1 / std).tolist())
        scale = Preprocessor(0.0, 1.0)
        if teacher_preprocessor is not None:
            scale = teacher_preprocessor
        same = all(
            own in (None, side) for own, side in zip(teacher_size, size, strict=True)
        )
        self._to_input = scale.with_image_size(None)
        if not same:
            self._to_input = _resizing(scale, tuple(teacher_size))

    def __call__(self, images: Any, repeat: Any = ops.repeat) -> Any:
        """Return the teacher's input for images that the student's preprocessor returned.

        Args:
            images: float tensor `(b, h, w, c)`.
            repeat: function of a tensor, a number and an axis: `tf.repeat` in a
                `tf.data.Dataset`.
        """
        images = self._to_pixels(images)
        if self.repeats > 1:
            images = repeat(images, self.repeats, axis=-1)
        return self._to_input(images)


def _repeats(channels, wanted):
    if wanted in (None, channels):
        return 1
    if channels == 1:
        return wanted
    raise ValueError(
        f"The student's images have {channels} channels, the teacher's {wanted}. Only "
        "gray images are converted: use a teacher of images with the same channels."
    )


def _resizing(scale, image_size):
    """Return a preprocessor that resizes and scales as another does, without a crop."""
    config = scale.get_config()
    for argument in ("crop_fraction", "crop_to_aspect_ratio", "crop_rounding"):
        del config[argument]
    return type(scale).from_config({**config, "image_size": image_size})
