"""Tokens of any block of a model, as maps of features."""

import operator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.layers import TransformerBlock
from keras_vit.models.image_model import ImageModel
from keras_vit.models.token_reduction import original_tokens, tokens_of


class FeatureMethods:
    """Methods of a `ViT` that return features of its blocks."""

    _feature_models: Any = None

    def features(
        self: Any,
        images: Any,
        blocks: int | Sequence[int] = 1,
        as_grid: bool = True,
        norm: bool = True,
        prefix_tokens: bool = False,
    ) -> list[Any]:
        """Return the tokens of some blocks, all from one forward pass.

        The result can be differentiated, and the method works inside of `tf.function`,
        `tf.data.Dataset.map` (with the TensorFlow backend) and `jax.jit`. For many
        images, `model.feature_model(...).predict(dataset)` runs as one compiled program.

        Args:
            images: `(b, h, w, c)`, preprocessed as for the model itself.
            blocks: int n for the last n blocks, or a list of block numbers from 0, of
                which negative ones count from the end.
            as_grid: bool, whether grid tokens are returned as maps `(b, gh, gw, d)`, or
                else as `(b, gh * gw, d)`.
            norm: bool, whether the model's last norm is applied to the tokens. Models
                with the norm after the pooling, or with none, have no norm of tokens:
                they return the tokens as they are, as timm does.
            prefix_tokens: bool, whether the prefix tokens (class token, distillation
                token, registers) are returned as well.

        Returns:
            List with one entry for each block, in the order of `blocks`: the grid tokens,
            or with `prefix_tokens` a pair of grid tokens and prefix tokens `(b, p, d)`.

        Raises:
            ValueError: the model does not have such a block, the images have another size
                or dtype, or the norm does not fit the width of a block (T2T-ViT-Dense).

        Example:

        >>> import keras, keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(32, 48, 3), registers=4, num_layers=3)
        >>> images = model.preprocessor(keras.random.uniform((1, 32, 48, 3), maxval=255))
        >>> [tuple(grid.shape) for grid in model.features(images, blocks=[2, -1])]
        [(1, 2, 3, 192), (1, 2, 3, 192)]
        >>> ((grid, prefix),) = model.features(images, prefix_tokens=True)
        >>> tuple(prefix.shape)
        (1, 5, 192)

        Reference: timm's `forward_intermediates`.
        """
        network = self.feature_model(blocks, as_grid, norm, prefix_tokens)
        outputs = network(images, training=False)
        names = [f"block_{index}" for index in block_numbers(self, blocks)]
        if prefix_tokens:
            return [(outputs[name], outputs[f"{name}_prefix"]) for name in names]
        return [outputs[name] for name in names]

    def feature_model(
        self: Any,
        blocks: int | Sequence[int] = 1,
        as_grid: bool = True,
        norm: bool = True,
        prefix_tokens: bool = False,
    ) -> "FeatureModel":
        """Return a functional model from images to the tokens of some blocks.

        It shares the layers of this model, follows its training, and can be saved. Calls
        with the same arguments return the same model, so that `predict` is compiled once.

        Args:
            blocks: as for `features`.
            as_grid: as for `features`.
            norm: as for `features`.
            prefix_tokens: as for `features`.

        Returns:
            A `keras.Model` whose output is a dict: `block_11` and so on, and with
            `prefix_tokens` also `block_11_prefix`.

        Raises:
            ValueError: as for `features`.

        Example:

        >>> import numpy as np
        >>> import keras_vit
        >>> model = keras_vit.ViT((32, 48, 3), hidden_dim=192, num_layers=2)
        >>> network = model.feature_model(blocks=[1])
        >>> maps = network.predict(np.zeros((5, 32, 48, 3)), batch_size=2, verbose=0)
        >>> maps["block_1"].shape
        (5, 2, 3, 192)
        """
        if self._feature_models is None:
            self._feature_models = _Cache()
        numbers = tuple(sorted(set(block_numbers(self, blocks))))
        options = (bool(as_grid), bool(norm), bool(prefix_tokens))
        return self._feature_models.get(self, numbers, options)


class _Cache:
    """Feature models by their arguments, in an object that Keras does not track."""

    def __init__(self):
        self._variables: tuple[int, ...] = ()
        self._models: dict[Any, FeatureModel] = {}

    def get(self, model, numbers, options):
        # LoRA and quantization replace variables that compiled programs have captured.
        variables = tuple(id(variable) for variable in model.variables)
        if variables != self._variables:
            self._variables, self._models = variables, {}
        if (numbers, options) not in self._models:
            self._models[numbers, options] = FeatureModel(model, numbers, *options)
        return self._models[numbers, options]


@keras.saving.register_keras_serializable(package="keras_vit")
class FeatureModel(ImageModel):
    """Model from images to the tokens of some blocks; see `ViT.feature_model`.

    Args:
        model: a `ViT`, whose layers the new model shares.
        blocks: as for `ViT.features`.
        as_grid: as for `ViT.features`.
        norm: as for `ViT.features`.
        prefix_tokens: as for `ViT.features`.
        name: name of the model.
    """

    def __init__(
        self,
        model: Any,
        blocks: int | Sequence[int] = 1,
        as_grid: bool = True,
        norm: bool = True,
        prefix_tokens: bool = False,
        name: str | None = None,
    ):
        numbers = block_numbers(model, blocks)
        blocks_of_model = blocks_of(model)
        outputs = {}
        for number in numbers:
            block = blocks_of_model[number]
            tokens = _normalized(model, block) if norm else tokens_of(block)
            tokens = original_tokens(block, tokens)
            grid = tokens[:, model.num_prefix_tokens :]
            if as_grid:
                grid = ops.reshape(grid, (-1, *model.grid_shape, grid.shape[-1]))
            outputs[block.name] = grid
            if prefix_tokens:
                prefix = tokens[:, : model.num_prefix_tokens]
                outputs[f"{block.name}_prefix"] = prefix
        super().__init__(inputs=model.input, outputs=outputs, name=name)
        self.preprocessor = model.preprocessor
        self.grid_shape = model.grid_shape
        self.num_prefix_tokens = model.num_prefix_tokens
        self._feature_config = {
            "model": keras.saving.serialize_keras_object(model),
            "blocks": list(numbers),
            "as_grid": as_grid,
            "norm": norm,
            "prefix_tokens": prefix_tokens,
        }

    def get_config(self):
        return {**self._feature_config, "name": self.name}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        model = keras.saving.deserialize_keras_object(
            config["model"], custom_objects=custom_objects
        )
        return cls(**{**config, "model": model})


def blocks_of(model: keras.Model) -> list[Any]:
    """Return the Transformer blocks of a model, in their order."""
    return [layer for layer in model.layers if isinstance(layer, TransformerBlock)]


def block_numbers(model, blocks):
    """Return the numbers of the chosen blocks, from 0; raise if there is none such."""
    depth = len(blocks_of(model))
    if not depth:
        raise ValueError(f"A {type(model).__name__} has no Transformer blocks.")
    if isinstance(blocks, np.ndarray):
        blocks = blocks.tolist()
    remedy = (
        f"The model has {depth} blocks. Pass an int from 1 to {depth} for the last "
        f"blocks, or a list of block numbers from {-depth} to {depth - 1}."
    )

    def as_int(value):
        if isinstance(value, bool):
            raise ValueError(f"blocks={blocks!r} is not a block number. {remedy}")
        try:
            return operator.index(value)
        except TypeError:
            raise ValueError(
                f"blocks={blocks!r} has to be an int or a list of ints. {remedy}"
            ) from None

    if isinstance(blocks, Sequence) and not isinstance(blocks, str):
        numbers = [as_int(number) for number in blocks]
        unknown = [number for number in numbers if not -depth <= number < depth]
        if unknown or not numbers:
            received = f"has no block {unknown[0]}" if unknown else "is empty"
            raise ValueError(f"blocks={blocks!r}: the list {received}. {remedy}")
        return [number % depth for number in numbers]
    count = as_int(blocks)
    if not 1 <= count <= depth:
        raise ValueError(f"blocks={blocks!r} is out of range. {remedy}")
    return list(range(depth - count, depth))


def _normalized(model, block):
    """Return the symbolic tokens of a block after the last norm, if it is for tokens."""
    tokens = tokens_of(block)
    if model.resolved_config()["final_norm"] != "before_pooling":
        return tokens
    norm = model.get_layer("norm")
    if tokens.shape[-1] != norm.input.shape[-1]:
        raise ValueError(
            f"norm=True needs tokens of width {norm.input.shape[-1]}, for which the "
            f"model's last norm is made; {block.name} has width "
            f"{tokens.shape[-1]}. Pass norm=False."
        )
    if tokens is norm.input:
        return norm.output
    return norm(tokens)
