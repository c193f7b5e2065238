"""Image preprocessing: resize, crop and scale."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_vit.choices import check_choice

# torchvision's and timm's values, times 255.
IMAGENET_MEAN = [123.675, 116.28, 103.53]
IMAGENET_STD = [58.395, 57.12, 57.375]

# A single image with more channels than colors and alpha is more likely a batch of gray
# images without a channel axis, unless mean or std have as many values.
_MOST_CHANNELS_UNASKED = 4

# Arguments (interpolation, antialias) of Keras's resize for which every backend returns
# the same pixels.
RESIZES = {
    "bilinear": ("bilinear", False),
    "bilinear_antialias": ("bilinear", True),
    "bicubic_antialias": ("bicubic", True),
}
CROP_ROUNDINGS = ("nearest", "floor")
# Arguments that have an effect only together with `image_size`.
_GEOMETRY = ("resize", "crop_fraction", "crop_to_aspect_ratio", "crop_rounding")


@keras.saving.register_keras_serializable(package="keras_vit")
class Preprocessor(keras.layers.Rescaling):
    """Layer that resizes, crops and scales images from pixels to the input of a model.

    Training, evaluation and export of a model all use its `model.preprocessor`. Like
    Keras's own preprocessing layers, it works on the tensors of any backend and inside
    `tf.data.Dataset.map` under every backend, with the same pixels.

    Input: `(h, w, c)` or `(b, h, w, c)`, pixel values 0 to 255, integer or float. With
    an `image_size`, h and w are arbitrary and may be unknown while a graph is traced.
    Output: `(pixels - mean) / std`, in float32, of `image_size` or of the input's size.

    Without `crop_fraction`, the image is resized to exactly `image_size`, which changes
    its aspect ratio. With a `crop_fraction`, the resized image keeps its aspect ratio and
    covers `(sh, sw) = (floor(height / crop_fraction), floor(width / crop_fraction))`: its
    size is `(max(sh, h * sw / w), max(sw, w * sh / h))`, rounded down if sh = sw and to
    the nearest int otherwise. The crop starts at row and column `round(excess / 2)`, with
    halves rounded to even, or at `floor(excess / 2)` with `crop_rounding="floor"`.

    With `crop_to_aspect_ratio=True`, as in `keras.layers.Resizing`, the crop comes first:
    the largest central area with the aspect ratio of `image_size`, in whole pixels, is
    resized to `image_size`. The contents differ by up to a pixel from those of
    `crop_fraction=1.0`.

    Published conventions, where `s` stands for `(size, size)` in pixels:

    - Google's JAX checkpoints: `Preprocessor(image_size=s)`.
    - transformers' `ViTImageProcessor`: `Preprocessor(image_size=s,
      resize="bilinear_antialias")`.
    - transformers' `BitImageProcessor` (DINOv2) and `CLIPImageProcessor`:
      `Preprocessor(image_size=s, resize="bicubic_antialias", crop_fraction=size /
      shortest_edge, crop_rounding="floor")`, with their own mean and std.
    - timm with mean and std 0.5: `Preprocessor(image_size=s,
      resize="bicubic_antialias", crop_fraction=0.9)`; mostly 1.0 for a size of 384.
    - timm and DeiT with ImageNet's mean and std: `Preprocessor.imagenet(s, 0.9)`.
    - KerasHub: `Preprocessor(image_size=s, crop_to_aspect_ratio=True)`.

    Args:
        mean: float, or one float for each channel, in pixel values 0 to 255.
        std: float, or one float for each channel; positive.
        image_size: None for no resizing, or `(height, width)` of the output.
        resize: `"bilinear"` (TensorFlow's default, without antialiasing),
            `"bilinear_antialias"` or `"bicubic_antialias"` (Pillow's, with cubic
            a = -0.5, clipped to 0 to 255).
        crop_fraction: None to resize the whole image to `image_size`, or a number in
            (0, 1], the side of the crop as a fraction of the shorter side.
        crop_to_aspect_ratio: bool, whether to crop the image to the aspect ratio of
            `image_size` before the resize. It excludes a `crop_fraction`.
        crop_rounding: `"nearest"` (torchvision and timm) or `"floor"` (transformers), the
            rounding of the first row and column of the crop. The two differ by one pixel
            if the number of rows or columns to remove is 3, 7, 11, ...

    Raises:
        ValueError: an argument is out of its range; an input has another rank, boolean or
            string dtype, or another number of channels than `mean` and `std`; a single
            image has more than 4 channels while both are one float (see `with_channels`).

    Example:

    >>> import numpy as np, keras, keras_vit
    >>> preprocess = keras_vit.layers.Preprocessor()
    >>> pixels = np.array([[[[0], [255]]]], "uint8")
    >>> keras.ops.convert_to_numpy(preprocess(pixels)).ravel().tolist()
    [-1.0, 1.0]
    >>> preprocess = keras_vit.layers.Preprocessor.imagenet((224, 224), 0.875)
    >>> tuple(preprocess(np.zeros((375, 500, 3), "uint8")).shape)
    (224, 224, 3)

    Reference: the default scaling is that of the ViT paper's code. Sizes are computed as
    in torchvision's `Resize` and `CenterCrop`, and for a rectangular `image_size` as in
    timm's `ResizeKeepRatio`. Deviation: Pillow, which timm and transformers use, rounds
    and clips after each axis of a resize, and this layer does not. The pixels differ by
    0.3 on average, and after a bilinear resize by at most 1. After a bicubic resize about
    one in a thousand differs by more than 1: those at hard edges of black or white, where
    Pillow clips the first axis. The largest difference on ten photographs was 10. Keras
    and KerasHub round the resized pixels of uint8 images, and do not clip those of float
    images after a bicubic resize; this layer clips both and rounds neither.
    """

    def __init__(
        self,
        mean: float | Sequence[float] = 127.5,
        std: float | Sequence[float] = 127.5,
        image_size: tuple[int, int] | None = None,
        resize: str = "bilinear",
        crop_fraction: float | None = None,
        crop_to_aspect_ratio: bool = False,
        crop_rounding: str = "nearest",
        dtype="float32",
        **kwargs,
    ):
        self.mean = np.asarray(mean, "float64").tolist()
        self.std = np.asarray(std, "float64").tolist()
        if not np.all(np.asarray(self.std) > 0):
            raise ValueError(
                f"std must be positive (in pixel values 0 to 255); received {std}."
            )
        _check_geometry(image_size, resize, crop_fraction, crop_to_aspect_ratio)
        _check_rounding(crop_rounding, crop_fraction)
        self.image_size = image_size and tuple(image_size)
        self.resize = resize
        self.crop_fraction = crop_fraction
        self.crop_to_aspect_ratio = crop_to_aspect_ratio
        self.crop_rounding = crop_rounding
        scale = 1.0 / np.asarray(self.std)
        offset = -np.asarray(self.mean) * scale
        super().__init__(scale.tolist(), offset.tolist(), dtype=dtype, **kwargs)
        self.built = True  # Nothing depends on the size of the images.

    @classmethod
    def imagenet(
        cls,
        image_size: tuple[int, int],
        crop_fraction: float | None = 0.875,
        resize: str = "bicubic_antialias",
        **kwargs,
    ) -> "Preprocessor":
        """Return a preprocessor with the ImageNet mean and std of PyTorch's checkpoints.

        Args:
            image_size: `(height, width)` of the output.
            crop_fraction: as for the class.
            resize: as for the class.
            **kwargs: arguments of `keras.layers.Layer`, such as `name` and `dtype`.

        Returns:
            A `Preprocessor`.

        Raises:
            ValueError: an argument is out of its range.

        Example:

        >>> import keras_vit
        >>> keras_vit.layers.Preprocessor.imagenet((224, 224)).mean
        [123.675, 116.28, 103.53]

        Reference: torchvision's and timm's mean (0.485, 0.456, 0.406) and std (0.229,
        0.224, 0.225), times 255.
        """
        return cls(
            mean=IMAGENET_MEAN,
            std=IMAGENET_STD,
            image_size=image_size,
            resize=resize,
            crop_fraction=crop_fraction,
            **kwargs,
        )

    def with_image_size(self, image_size: tuple[int, int] | None) -> "Preprocessor":
        """Return the preprocessor for another output size.

        Args:
            image_size: `(height, width)` of the new output, or None to scale only.

        Returns:
            A new `Preprocessor`; this one is unchanged.

        Raises:
            ValueError: `image_size` is not two positive ints.

        Example:

        >>> import keras_vit
        >>> small = keras_vit.layers.Preprocessor(image_size=(224, 224))
        >>> small.with_image_size((384, 512)).image_size
        (384, 512)
        """
        config = {**self.get_config(), "image_size": image_size}
        if image_size is None:
            for key in _GEOMETRY:
                del config[key]
        return self.from_config(config)

    def with_channels(self, channels: int) -> "Preprocessor":
        """Return the preprocessor for images with another number of channels.

        For one channel, `mean` and `std` are averaged; for other numbers of channels
        their entries are repeated in order. A `mean` or `std` that is one float stays as
        it is, except that for more than 4 channels `mean` becomes a list, which allows
        single images `(h, w, c)`.

        Args:
            channels: int, the number of channels.

        Returns:
            A new `Preprocessor`; this one is unchanged.

        Raises:
            ValueError: `channels` is not a positive int.

        Example:

        >>> import keras_vit
        >>> color = keras_vit.layers.Preprocessor([120.0, 110.0, 100.0], 50.0)
        >>> color.with_channels(1).mean, color.with_channels(4).mean
        ([110.0], [120.0, 110.0, 100.0, 120.0])
        """
        if not isinstance(channels, int) or channels < 1:
            raise ValueError(f"channels must be a positive int; received {channels!r}.")

        def entries(values):
            if not isinstance(values, list) or len(values) == channels:
                return values
            if channels == 1:
                return [float(np.mean(values))]
            return np.resize(values, channels).tolist()

        config = self.get_config()
        values = {"mean": entries(self.mean), "std": entries(self.std)}
        if self._holds_for_any_channels() and channels > _MOST_CHANNELS_UNASKED:
            values["mean"] = [self.mean] * channels
        return self.from_config({**config, **values})

    def __call__(self, images, **kwargs):
        # Checked before Keras converts booleans into numbers.
        self._check(images)
        return super().__call__(images, **kwargs)

    def _check(self, images):
        if not hasattr(images, "shape") or not hasattr(images, "dtype"):
            raise ValueError(
                f"Expected an array or tensor of images; received {type(images)}."
            )
        if getattr(images.shape, "rank", 0) is None:
            raise ValueError(
                "Images of unknown rank: decode them with tf.io.decode_jpeg(..., "
                "channels=3) or tf.io.decode_image(..., expand_animations=False), or "
                "call set_shape((None, None, 3))."
            )
        shape = tuple(images.shape)
        dtype = keras.backend.standardize_dtype(images.dtype)
        if len(shape) not in (3, 4):
            raise ValueError(
                "Images must have shape (height, width, channels) or (batch, height, "
                f"width, channels); received {shape}. Gray images need images[..., None]."
            )
        if not dtype.startswith(("int", "uint", "float", "bfloat")):
            raise ValueError(
                "Images must hold pixel values 0 to 255 as integers or floats; "
                f"received dtype {dtype}."
            )
        self._check_channels(shape)

    def _check_channels(self, shape):
        own = max(
            (len(v) for v in (self.mean, self.std) if isinstance(v, list)), default=1
        )
        gray_batch = len(shape) == 3 and (shape[-1] or 0) > _MOST_CHANNELS_UNASKED
        if own not in (1, shape[-1]):
            gray = f"np.repeat(images[..., None], {own}, axis=-1)"
            raise ValueError(
                f"This preprocessor has a mean and std for {own} channels; received "
                f"images of shape {shape}."
                + f" A batch of gray images needs {gray}."
                * gray_batch
            )
        if own == 1 and gray_batch:
            several = f" An image of {shape[-1]} channels needs "
            several += f"preprocessor.with_channels({shape[-1]})."
            raise ValueError(
                f"Received shape {shape}, which is one image of {shape[-1]} channels. "
                "A batch of gray images needs images[..., None]."
                + several
                * self._holds_for_any_channels()
            )

    def _holds_for_any_channels(self):
        return not isinstance(self.mean, list) and not isinstance(self.std, list)

    def call(self, images):
        if self.image_size is not None:
            images = self.backend.cast(self.cropped(images), "float32")
            images = self._resize(images, self.image_size)
        # `Rescaling.call` follows Keras's global image data format; here channels are
        # always last.
        cast, dtype = self.backend.cast, self.compute_dtype
        return cast(images, dtype) * cast(self.scale, dtype) + cast(self.offset, dtype)

    def _resize(self, images, image_size):
        *batch, height, width, channels = self.backend.shape(images)
        size, start = self.resize_and_crop(height, width)
        interpolation, antialias = RESIZES[self.resize]
        images = self.backend.image.resize(
            images,
            size,
            interpolation=interpolation,
            antialias=antialias,
            data_format="channels_last",
        )
        if interpolation == "bicubic":
            images = self.backend.numpy.clip(images, 0.0, 255.0)
        if self.crop_fraction is None:
            return images
        shape = (*batch, *image_size, channels)
        return self.backend.core.slice(images, (*[0] * len(batch), *start, 0), shape)

    @property
    def central_fraction(self):
        """Fraction of an image's center that the output shows, or 0 for the whole image.

        The fraction is that of the sides of the largest central area with the aspect
        ratio of `image_size`.
        """
        return 1.0 if self.crop_to_aspect_ratio else self.crop_fraction or 0.0

    def cropped(self, images):
        """Crop images to the aspect ratio of `image_size`, the step before the resize.

        Args:
            images: tensor of the backend, `(h, w, c)` or `(b, h, w, c)`.

        Returns:
            The images, unchanged unless `crop_to_aspect_ratio` is true.

        Example:

        >>> import numpy as np, keras_vit
        >>> preprocess = keras_vit.layers.Preprocessor(
        ...     image_size=(24, 32), crop_to_aspect_ratio=True)
        >>> preprocess.cropped(np.zeros((300, 500, 3))).shape
        (300, 400, 3)

        Reference: `keras.ops.image.resize(crop_to_aspect_ratio=True)`.
        """
        if self.image_size is None or not self.crop_to_aspect_ratio:
            return images
        *_, height, width, _ = self.backend.shape(images)
        rows, columns = self.image_size
        minimum, maximum = self._extrema(height, width)
        cropped_height = maximum(1, minimum(height, width * rows // columns))
        cropped_width = maximum(1, minimum(width, height * columns // rows))
        top, left = (height - cropped_height) // 2, (width - cropped_width) // 2
        return images[..., top : top + cropped_height, left : left + cropped_width, :]

    def _extrema(self, height, width):
        # Ints must stay ints: under jit, JAX's maximum would return a tracer.
        if isinstance(height, int) and isinstance(width, int):
            return min, max
        return self.backend.numpy.minimum, self.backend.numpy.maximum

    def resize_and_crop(self, height, width):
        """Return the size to which an image is resized, and where the crop starts.

        Args:
            height: int or integer tensor of the backend, height of the image after
                `cropped`.
            width: int or integer tensor of the backend, its width.

        Returns:
            `(height, width)` of the resized image, and the first row and column of the
            crop, as ints or tensors; zeros if nothing is cropped.

        Example:

        >>> import keras_vit
        >>> preprocess = keras_vit.layers.Preprocessor.imagenet((224, 224), 0.875)
        >>> preprocess.resize_and_crop(500, 375)
        ((341, 256), (58, 16))
        """
        if self.image_size is None:
            return (height, width), (0, 0)
        if self.crop_fraction is None:
            return self.image_size, (0, 0)
        covered = [math.floor(side / self.crop_fraction) for side in self.image_size]
        size = self._covering_size(height, width, covered)
        row, column = (
            resized - cropped
            for resized, cropped in zip(size, self.image_size, strict=True)
        )
        if self.crop_rounding == "floor":
            return size, (row // 2, column // 2)
        return size, (_rounded_quotient(row, 2), _rounded_quotient(column, 2))

    def _covering_size(self, height, width, covered):
        square = covered[0] == covered[1]

        def longer(side, other, other_covered):
            product = side * other_covered
            return product // other if square else _rounded_quotient(product, other)

        _, maximum = self._extrema(height, width)
        return (
            maximum(covered[0], longer(height, width, covered[1])),
            maximum(covered[1], longer(width, height, covered[0])),
        )

    def compute_output_shape(self, input_shape):
        height_width = self.image_size or tuple(input_shape[-3:-1])
        return (*input_shape[:-3], *height_width, input_shape[-1])

    def get_config(self):
        config = super().get_config()
        del config["scale"], config["offset"]
        return {
            **config,
            "mean": self.mean,
            "std": self.std,
            "image_size": self.image_size,
            "resize": self.resize,
            "crop_fraction": self.crop_fraction,
            "crop_to_aspect_ratio": self.crop_to_aspect_ratio,
            "crop_rounding": self.crop_rounding,
        }

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)


def _rounded_quotient(dividend, divisor):
    """Return `round(dividend / divisor)` with halves to even, for integer tensors too."""
    odd = dividend // divisor % 2
    return (2 * dividend + divisor - 1 + odd) // (2 * divisor)


def _check_geometry(image_size, resize, crop_fraction, crop_to_aspect_ratio):
    if resize not in RESIZES:
        raise ValueError(
            f"Unknown resize {resize!r} of images; choose one of "
            f"{', '.join(map(repr, RESIZES))}."
        )
    if image_size is None:
        if resize != "bilinear" or crop_fraction is not None or crop_to_aspect_ratio:
            raise ValueError(
                f"resize={resize!r}, crop_fraction={crop_fraction!r} and "
                f"crop_to_aspect_ratio={crop_to_aspect_ratio!r} define how images get "
                "their size; received image_size=None. Give image_size=(height, width)."
            )
        return
    if (
        not isinstance(image_size, list | tuple)
        or len(image_size) != 2
        or not all(isinstance(side, int) and side > 0 for side in image_size)
    ):
        raise ValueError(
            "image_size must be None or (height, width), two positive ints; received "
            f"{image_size!r}."
        )
    if crop_fraction is not None and not (
        isinstance(crop_fraction, int | float) and 0 < crop_fraction <= 1
    ):
        raise ValueError(
            "crop_fraction must be None or a number above 0 and at most 1; received "
            f"{crop_fraction!r}."
        )
    if not isinstance(crop_to_aspect_ratio, bool) or (
        crop_to_aspect_ratio and crop_fraction is not None
    ):
        raise ValueError(
            "crop_to_aspect_ratio must be False, or True without a crop_fraction; "
            f"received {crop_to_aspect_ratio!r} with crop_fraction={crop_fraction!r}."
        )


def _check_rounding(crop_rounding, crop_fraction):
    check_choice("crop_rounding", crop_rounding, CROP_ROUNDINGS)
    if crop_rounding != "nearest" and crop_fraction is None:
        raise ValueError(
            f"crop_rounding={crop_rounding!r} needs a crop_fraction; received None. Give "
            "crop_fraction=..., or omit crop_rounding."
        )
