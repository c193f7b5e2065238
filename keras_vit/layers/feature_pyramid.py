"""Feature pyramid on the last map of a plain ViT, for detection and segmentation."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_vit.layers.base import Layer
from keras_vit.layers.mlp import get_activation
from keras_vit.layers.norms import LayerNorm


@keras.saving.register_keras_serializable(package="keras_vit")
class SimpleFeaturePyramid(Layer):
    """Feature maps of several strides, computed from a single one.

    A level with a finer stride than the patches starts with deconvolutions (2x2, stride
    2), which halve the width each, with a norm and GELU between them; a level with a
    coarser stride starts with a max pooling. Every level ends in a 1x1 and a 3x3
    convolution, each with a norm.

    Input: `(b, gh, gw, d)`, a map of a ViT, such as one that `model.features` returns.
    Output: list of `(b, ceil(gh * patch_size / stride), ..., filters)`, one for each
    stride.

    Args:
        filters: int, width of the output.
        patch_size: int, side of the ViT's patches in pixels, with a stem the pixels from
            one token to the next.
        strides: strides of the output in pixels. Each one must be `patch_size` times a
            power of two (or a fraction such as 1/4).
        layer_norm_epsilon: float, added to the variance.

    Raises:
        ValueError: a stride does not fit the patch size, or the width of the tokens
            cannot be halved as often as necessary.

    Example:

    >>> import keras, keras_vit
    >>> pyramid = keras_vit.layers.SimpleFeaturePyramid(filters=32)
    >>> [tuple(x.shape) for x in pyramid(keras.random.uniform((1, 2, 4, 64)))]
    [(1, 8, 16, 32), (1, 4, 8, 32), (1, 2, 4, 32), (1, 1, 2, 32)]

    Reference: ViTDet (arXiv:2203.16527) section 3, simple feature pyramid; norms and GELU
    as in its code.
    """

    def __init__(
        self,
        filters: int = 256,
        patch_size: int = 16,
        strides: Sequence[int] = (4, 8, 16, 32),
        layer_norm_epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.filters = filters
        self.patch_size = patch_size
        self.strides = tuple(strides)
        self.layer_norm_epsilon = layer_norm_epsilon
        self._levels = [_level(patch_size, stride) for stride in self.strides]

    def _make_level(self, level, stride, width):
        """Return the layers of one stride.

        Args:
            level: int, how often the sides of the map double.
            stride: int, used in the names of the layers.
            width: int, width of the input.
        """
        own: dict[str, Any] = {"dtype": self.dtype_policy}
        place = {"data_format": "channels_last", **own}

        def name(part):
            return f"stride_{stride}_{part}"

        def norm(part):
            return LayerNorm(self.layer_norm_epsilon, name=name(part), **own)

        layers: list[Any] = []
        for index in range(level):
            if index:
                gelu = keras.layers.Activation(
                    get_activation("gelu"), name=name(f"gelu_{index}"), **own
                )
                layers += [norm(f"norm_{index}"), gelu]
            layers.append(
                keras.layers.Conv2DTranspose(
                    width // 2 ** (index + 1),
                    2,
                    strides=2,
                    name=name(f"deconvolution_{index}"),
                    **place,
                )
            )
        if level < 0:
            layers.append(
                keras.layers.MaxPooling2D(
                    2**-level, padding="same", name=name("pooling"), **place
                )
            )
        for part, size in (("lateral", 1), ("output", 3)):
            convolution = keras.layers.Conv2D(
                self.filters,
                size,
                padding="same",
                use_bias=False,
                name=name(part),
                **place,
            )
            layers += [convolution, norm(f"{part}_norm")]
        return layers

    def build(self, input_shape):
        width = input_shape[-1]
        deepest = max(0, *self._levels)
        if len(input_shape) != 4 or width % 2**deepest:
            raise ValueError(
                "SimpleFeaturePyramid needs maps (batch, rows, columns, width) whose "
                f"width is a multiple of {2**deepest}, since it is halved for strides "
                f"finer than patch_size={self.patch_size}; received {tuple(input_shape)}."
            )
        layers, self._ends = [], []
        for level, stride in zip(self._levels, self.strides, strict=True):
            shape = input_shape
            for layer in self._make_level(level, stride, width):
                layer.build(shape)
                shape = layer.compute_output_shape(shape)
                layers.append(layer)
            self._ends.append(len(layers))
        # Keras saves the layers of a list, but not those of nested lists.
        self.layers_of_all_strides = layers

    def call(self, grid):
        outputs = []
        for first, last in zip([0, *self._ends[:-1]], self._ends, strict=True):
            x = grid
            for layer in self.layers_of_all_strides[first:last]:
                x = layer(x)
            outputs.append(x)
        return outputs

    def compute_output_shape(self, input_shape):
        batch, *sides, _ = input_shape

        def scaled(side, level):
            return side and math.ceil(side * 2.0**level)

        return [
            (batch, *(scaled(side, level) for side in sides), self.filters)
            for level in self._levels
        ]


def _level(patch_size, stride):
    """Return how often the sides of the map double (negative: halve) for a stride."""
    sizes = (patch_size, stride)
    if all(type(size) is int and size > 0 for size in sizes):
        level = math.log2(patch_size / stride)
        if level == round(level):
            return round(level)
    possible = [patch_size]
    if type(patch_size) is int and patch_size > 0:
        while possible[0] % 2 == 0 and len(possible) < 3:
            possible.insert(0, possible[0] // 2)
        possible += [2 * patch_size]
    raise ValueError(
        f"A stride of {stride!r} pixels is not patch_size={patch_size!r} times a power "
        f"of two. Pass strides such as {tuple(possible)}, or load the model with "
        "another patch_size (keras_vit.load_checkpoint(path, patch_size=16))."
    )
