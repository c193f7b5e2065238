"""Head of anchor-free detectors, shared by all levels of a feature pyramid."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers.base import Layer
from keras_vit.layers.mlp import get_activation
from keras_vit.layers.norms import LayerNorm

# Distances are exponentials, in multiples of so many strides. A level finds objects that
# extend to 4 to 8 strides from a location, so that exponents are near 0.
_STRIDES = 4
_LARGEST_EXPONENT = 6.0
# Score of every class at every location before training, as in RetinaNet.
_PRIOR = 0.01


@keras.saving.register_keras_serializable(package="keras_vit")
class DetectionHead(Layer):
    """Convolutions that predict one box and the scores of its classes per location.

    Two towers of 3x3 convolutions, each with a norm and GELU, run on each map. One ends
    in the logits of the classes, the other in the distances from the center of the
    location to the sides of the box, and in the centerness, which ranks boxes that were
    predicted near the center of an object higher.

    Input: list of maps `(b, rows, columns, d)`, one for each stride, such as the output
    of `SimpleFeaturePyramid`.
    Output: `(b, locations, 5 + classes)`, float32 under every dtype policy. The entries
    of a location are `y_min, x_min, y_max, x_max` of the box in pixels, the logit of the
    centerness, and the logits of the classes. Locations are ordered by map, row, column.

    Args:
        classes: int, number of classes.
        strides: strides of the maps in pixels.
        num_convolutions: int, convolutions of each tower before the last one.
        layer_norm_epsilon: float, added to the variance.

    Raises:
        ValueError: the number of maps is not that of the strides.

    Example:

    >>> import keras, keras_vit
    >>> head = keras_vit.layers.DetectionHead(classes=3, strides=(8, 16))
    >>> maps = [keras.random.uniform((1, n, n, 32)) for n in (4, 2)]
    >>> tuple(head(maps).shape)
    (1, 20, 8)

    Reference: FCOS (arXiv:1904.01355) section 3. Norms are LayerNorm, as in the feature
    pyramid, and distances need no learned scale per level.
    """

    def __init__(
        self,
        classes: int,
        strides: tuple[int, ...] = (8, 16, 32),
        num_convolutions: int = 2,
        layer_norm_epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.classes = classes
        self.strides = tuple(strides)
        self.num_convolutions = num_convolutions
        self.layer_norm_epsilon = layer_norm_epsilon

    def _tower(self, part, width, outputs, bias=0.0):
        """Return the layers of one tower, which keep the size of their input."""
        own: dict[str, Any] = {"dtype": self.dtype_policy}
        convolution: dict[str, Any] = {
            "kernel_size": 3,
            "padding": "same",
            "data_format": "channels_last",
            **own,
        }
        layers: list[Any] = []
        for index in range(self.num_convolutions):
            name = f"{part}_{index}"
            layers += [
                keras.layers.Conv2D(width, use_bias=False, name=name, **convolution),
                LayerNorm(self.layer_norm_epsilon, name=f"{name}_norm", **own),
                keras.layers.Activation(
                    get_activation("gelu"), name=f"{name}_gelu", **own
                ),
            ]
        last = keras.layers.Conv2D(
            outputs,
            kernel_initializer=keras.initializers.RandomNormal(stddev=0.01),
            bias_initializer=keras.initializers.Constant(bias),
            name=f"{part}_output",
            **convolution,
        )
        return [*layers, last]

    def build(self, input_shapes):
        if len(input_shapes) != len(self.strides):
            raise ValueError(
                f"DetectionHead has the strides {self.strides} and received "
                f"{len(input_shapes)} maps: pass one map for each stride."
            )
        width = input_shapes[0][-1]
        self.class_tower = self._tower(
            "class", width, self.classes, bias=-math.log(1 / _PRIOR - 1)
        )
        self.box_tower = self._tower("box", width, 5)
        for tower in (self.class_tower, self.box_tower):
            shape = input_shapes[0]
            for layer in tower:
                layer.build(shape)
                shape = layer.compute_output_shape(shape)

    def call(self, maps):
        outputs = []
        for grid, stride in zip(maps, self.strides, strict=True):
            logits, boxes = (self._flat(grid, t) for t in self._towers())
            centers = ops.convert_to_tensor(_centers(grid.shape[1:3], stride))
            exponents = ops.clip(boxes[..., :4], -_LARGEST_EXPONENT, _LARGEST_EXPONENT)
            distances = _STRIDES * stride * ops.exp(exponents)
            corners = [centers - distances[..., :2], centers + distances[..., 2:]]
            outputs.append(ops.concatenate([*corners, boxes[..., 4:], logits], axis=-1))
        return ops.concatenate(outputs, axis=1)

    def _towers(self):
        return self.class_tower, self.box_tower

    def _flat(self, grid, tower):
        for layer in tower:
            grid = layer(grid)
        grid = ops.cast(grid, "float32")
        return ops.reshape(grid, (-1, grid.shape[1] * grid.shape[2], grid.shape[3]))

    def compute_output_shape(self, input_shapes):
        locations = sum(rows * columns for _, rows, columns, _ in input_shapes)
        return (input_shapes[0][0], locations, 5 + self.classes)

    def compute_output_spec(self, maps):
        shape = self.compute_output_shape([grid.shape for grid in maps])
        return keras.KerasTensor(shape, "float32")


def _centers(grid_shape, stride):
    """Return the centers of the cells of a map in pixels, `(rows * columns, 2)`."""
    y, x = ((np.arange(count) + 0.5) * stride for count in grid_shape)
    grid = np.stack(np.meshgrid(y, x, indexing="ij"), axis=-1)
    return grid.reshape(-1, 2).astype("float32")


def locations(image_size: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray:
    """Return the center and the stride of each location, `(locations, 3)` float32.

    Args:
        image_size: height and width of the images.
        strides: strides of the maps in pixels.
    """
    levels = []
    for stride in strides:
        grid_shape = [math.ceil(side / stride) for side in image_size]
        centers = _centers(grid_shape, stride)
        levels.append(np.pad(centers, ((0, 0), (0, 1)), constant_values=stride))
    return np.concatenate(levels)
