"""Pixels to what a model was trained on."""

from collections.abc import Sequence

import keras
import numpy as np


@keras.saving.register_keras_serializable(package="keras_vit")
class Preprocessor(keras.layers.Rescaling):
    """Scales pixel values: `(images - mean) / std`, in float32.

    A model carries its own as `model.preprocessor`; training, evaluation and export
    all use that one. It is a Keras layer and, like Keras's own preprocessing layers,
    works on any backend's tensors and inside `tf.data.Dataset.map` under every backend.

    Input: `(h, w, c)` or `(b, h, w, c)`, pixel values 0 to 255, integer or float.
    Output: the same shape, float32.

    Args:
        mean: float, or one float for each channel, in pixel values 0 to 255.
        std: likewise; not zero.

    Raises:
        ValueError: an input of another rank, of boolean or string dtype, or with
            another number of channels than `mean` and `std` have; a `std` of zero.

    Example:

    >>> import numpy as np, keras, keras_vit
    >>> preprocess = keras_vit.layers.Preprocessor()
    >>> pixels = np.array([[[[0], [255]]]], "uint8")
    >>> keras.ops.convert_to_numpy(preprocess(pixels)).ravel().tolist()
    [-1.0, 1.0]

    Source: the default is the ViT paper's code: (x - 127.5) / 127.5.
    """

    def __init__(
        self,
        mean: float | Sequence[float] = 127.5,
        std: float | Sequence[float] = 127.5,
        dtype="float32",
        **kwargs,
    ):
        self.mean = np.asarray(mean, "float64").tolist()
        self.std = np.asarray(std, "float64").tolist()
        if not np.all(np.asarray(self.std) > 0):
            raise ValueError(
                f"std must be positive (in pixel values 0 to 255); received {std}."
            )
        scale = 1.0 / np.asarray(self.std)
        offset = -np.asarray(self.mean) * scale
        super().__init__(scale.tolist(), offset.tolist(), dtype=dtype, **kwargs)
        self.built = True  # Nothing depends on the size of the images.

    def __call__(self, images, **kwargs):
        # Before Keras converts: it would turn booleans into numbers.
        self._check(images)
        return super().__call__(images, **kwargs)

    def _check(self, images):
        if not hasattr(images, "shape") or not hasattr(images, "dtype"):
            raise ValueError(
                f"Expected an array or tensor of images; received {type(images)}."
            )
        shape = tuple(images.shape)
        dtype = keras.backend.standardize_dtype(images.dtype)
        if len(shape) not in (3, 4):
            raise ValueError(
                "Images must have shape (height, width, channels) or (batch, height, "
                f"width, channels); received {shape}. Grey images need images[..., None]."
            )
        if not dtype.startswith(("int", "uint", "float", "bfloat")):
            raise ValueError(
                "Images must hold pixel values 0 to 255 as integers or floats; "
                f"received dtype {dtype}."
            )
        channels = {len(v) for v in (self.mean, self.std) if isinstance(v, list)}
        if channels - {1, shape[-1]}:
            raise ValueError(
                f"This preprocessor has a mean and std for {max(channels)} channels; "
                f"received images of shape {shape}."
            )

    def get_config(self):
        config = super().get_config()
        del config["scale"], config["offset"]
        return {**config, "mean": self.mean, "std": self.std}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        return cls(**config)
