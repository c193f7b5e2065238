"""Token merging (ToMe): blocks in which similar tokens become one."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.kernels.precision import to_float32
from keras_vit.layers.base import Layer
from keras_vit.layers.block import TransformerBlock


def bipartite_matching(keys, merged, num_prefix_tokens=0):
    """Choose the tokens to merge, and return the new place of every token.

    Tokens at even places propose an edge to the token at an odd place whose key has the
    largest cosine similarity. The `merged` best edges are merged. The result starts with
    the prefix tokens, followed by the remaining even tokens and the odd tokens.

    Args:
        keys: `(b, n, d)`, the mean of the keys over the heads.
        merged: int, number of tokens to remove, at most half of those after the prefix.
        num_prefix_tokens: int, number of tokens in front that are not merged.

    Returns:
        `(b, n)`, int32: the place of every token among the `n - merged` new ones. A token
        that is merged has the place of its partner.

    Reference: ToMe (arXiv:2210.09461) section 3 and the authors' `tome/merge.py`. Without
    prefix tokens the remaining even tokens are in the order of their similarities, as
    there.
    """
    length, prefix = keys.shape[1], num_prefix_tokens
    keys = to_float32(keys)
    squares = ops.sum(ops.square(keys), axis=-1, keepdims=True)
    keys = keys * ops.rsqrt(ops.maximum(squares, 1e-30))
    scores = ops.matmul(keys[:, ::2], ops.transpose(keys[:, 1::2], (0, 2, 1)))
    even, odd = np.arange(0, length, 2), np.arange(1, length, 2)
    allowed = (even[:, None] >= prefix) & (odd >= prefix)
    scores = ops.where(allowed, scores, -np.inf)
    best = ops.max(scores, axis=-1)
    # Keras's argmax uses operations on bits, which neither ONNX nor LiteRT has.
    places = np.arange(len(odd), dtype="int32")
    is_best = ops.equal(scores, ops.expand_dims(best, -1))
    partner = ops.where(is_best, places, len(odd))
    partner = ops.cast(ops.min(partner, axis=-1), "int32")
    rank = descending_ranks(best)
    kept = rank >= merged
    if prefix:
        movable = ops.logical_and(kept, even >= prefix)
        place = ops.cumsum(ops.cast(movable, "int32"), axis=1) - 1
    else:
        place = rank - merged
    first_odd = length - merged - int((odd >= prefix).sum())
    first_of_grid = int((odd < prefix).sum())
    place = ops.where(kept, place + prefix, partner + (first_odd - first_of_grid))
    place = ops.where(even < prefix, even.astype("int32"), place)
    odd_place = np.where(
        odd < prefix, odd, np.arange(len(odd)) - first_of_grid + first_odd
    )
    odd_place = ops.add(ops.zeros_like(partner[:, :1]), odd_place.astype("int32"))
    both = ops.concatenate([ops.cast(place, "int32"), odd_place], axis=1)
    return ops.take(both, np.argsort(np.concatenate([even, odd])), axis=1)


def descending_ranks(values):
    """Return the place of each value in descending order; equal ones keep their order.

    Comparing all pairs needs no sort, which is slow on CPUs for rows this short.

    Args:
        values: `(b, n)`.

    Returns:
        `(b, n)`, int32.
    """
    left, right = values[:, None, :], values[:, :, None]
    index = np.arange(values.shape[1])
    earlier = ops.logical_and(ops.equal(left, right), index < index[:, None])
    before = ops.logical_or(left > right, earlier)
    return ops.sum(ops.cast(before, "int32"), axis=-1)


def merge_tokens(tokens, sizes, places, length):
    """Return the means of the tokens that have the same place, weighted by their sizes.

    Args:
        tokens: `(b, n, d)`.
        sizes: `(b, n)`, int32, number of patches that each token stands for.
        places: `(b, n)`, int32, new place of each token.
        length: int, number of new tokens.

    Returns:
        Tokens `(b, length, d)` and their sizes `(b, length)`, int32.
    """
    same = ops.equal(ops.expand_dims(places, -1), np.arange(length, dtype="int32"))
    weights = ops.where(same, ops.expand_dims(sizes, -1), 0)
    merged_sizes = ops.sum(weights, axis=1)
    shares = to_float32(weights) / to_float32(ops.expand_dims(merged_sizes, 1))
    merged = ops.matmul(ops.transpose(shares, (0, 2, 1)), to_float32(tokens))
    return ops.cast(merged, tokens.dtype), ops.cast(merged_sizes, "int32")


def unmerge_tokens(tokens, places):
    """Return the token of every original token: `(b, n, d)` from `(b, m, d)`.

    Args:
        tokens: `(b, m, d)`.
        places: `(b, n)`, int32, the place of each original token, as `MergingBlock`
            returns it.
    """
    return ops.take_along_axis(tokens, ops.expand_dims(places, -1), axis=1)


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenMerging(Layer):
    """Merging of similar tokens in every block (ToMe), an argument of `ViT`.

    It is a value of the argument `token_reduction` and has no weights.

    It needs no training: every block of a trained model merges `r` tokens between its
    attention and its MLP, and the next blocks have fewer tokens to compute. Prefix tokens
    (class token, registers) are never merged. Merged tokens are means, weighted by the
    number of patches that they stand for, and the attention counts each token as often
    (proportional attention).

    Args:
        r: int, number of tokens that each block removes, or a list with one int for each
            block; missing ones are 0. A block removes at most half of its tokens.
        inflection: float from -1 to 1: with -1, the numbers decrease linearly from `2 r`
            in the first block to 0 in the last; with 1 they increase; 0 for a constant
            `r`.
        proportional: bool, whether the logarithm of the sizes is added to the logits of
            the attention. The authors turn this off for models trained with merging and
            for MAE without fine-tuning.

    Raises:
        ValueError: an argument is out of its range.

    Example:

    >>> import keras_vit
    >>> model = keras_vit.ViTTi16(input_shape=(64, 64, 3), classes=10)
    >>> merging = keras_vit.layers.TokenMerging(1, inflection=-1.0)
    >>> merging.counts(12)
    [2, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0]
    >>> faster = model.with_token_reduction(merging)
    >>> faster.get_layer("norm").input.shape
    (None, 10, 192)

    Reference: ToMe (arXiv:2210.09461) and the authors' code, `parse_r`.
    """

    def __init__(
        self,
        r: int | Sequence[int] = 0,
        inflection: float = 0.0,
        proportional: bool = True,
        **kwargs,
    ):
        super().__init__(**kwargs)
        each = list(r) if isinstance(r, list | tuple) else [r]
        if not all(map(is_count, each)):
            raise ValueError(
                "token_reduction, or r of a TokenMerging, must be the number of tokens "
                "that each block removes, 0 or more, or a list of such ints; received "
                f"{r!r}."
            )
        if not isinstance(inflection, int | float) or not -1 <= inflection <= 1:
            raise ValueError(
                f"inflection must be a number from -1 to 1; received {inflection!r}."
            )
        if isinstance(r, list | tuple) and inflection:
            raise ValueError(
                f"inflection={inflection!r} is for one r; received the list {r!r}."
            )
        self.r: Any = list(r) if isinstance(r, list | tuple) else r
        self.inflection = inflection
        self.proportional = proportional

    def counts(self, num_layers: int) -> list[int]:
        """Return the number of tokens that each of `num_layers` blocks removes.

        Raises:
            ValueError: `r` is a list with more entries than there are blocks.
        """
        if isinstance(self.r, list):
            if len(self.r) > num_layers:
                raise ValueError(
                    f"r has {len(self.r)} entries, and the model {num_layers} blocks: "
                    "leave out the others."
                )
            return self.r + [0] * (num_layers - len(self.r))
        first = int(self.r * (1.0 - self.inflection))
        step = (2 * self.r - 2 * first) / max(num_layers - 1, 1)
        return [int(first + step * index) for index in range(num_layers)]

    def call(self, x):
        return x


def is_count(value: Any) -> bool:
    """Return True if a value is an int, 0 or more."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


@keras.saving.register_keras_serializable(package="keras_vit")
class MergingBlock(TransformerBlock):
    """Transformer block that merges tokens between its attention and its MLP.

    Inputs: tokens `(b, n, d)`, sizes `(b, n)`, int32, or None if every token is one
    original token, and places `(b, m)`, int32, of the `m` original tokens among the `n`,
    or None. Output: the same three with `n - merged` tokens.

    Args:
        num_heads: int, number of attention heads.
        mlp_dim: int, width of the MLP.
        merged: int, number of tokens to remove; at most half of the tokens are.
        num_prefix_tokens: int, number of tokens in front that are not merged.
        proportional: bool, as for `TokenMerging`.
        **kwargs: as for `TransformerBlock`.

    Reference: ToMe (arXiv:2210.09461) section 3.
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        merged: int = 0,
        num_prefix_tokens: int = 0,
        proportional: bool = True,
        **kwargs,
    ):
        super().__init__(num_heads, mlp_dim, **kwargs)
        self.merged = merged
        self.num_prefix_tokens = num_prefix_tokens
        self.proportional = proportional

    def removed(self, length: int) -> int:
        """Return the number of tokens that the block removes from `length` tokens."""
        return max(min(self.merged, (length - self.num_prefix_tokens) // 2), 0)

    def call(self, tokens, sizes=None, places=None, training=None):  # type: ignore[override]
        length = tokens.shape[1]
        bias = None
        if sizes is not None and self.proportional:
            bias = ops.log(ops.cast(sizes, "float32"))
        branch, keys = self.attention.mixed_with_keys(
            self.attention_norm(tokens), bias, training
        )
        branch = self.attention_dropout(branch, training=training)
        tokens = self._add(tokens, branch, self.attention_scale, training)
        if places is None:
            places = ops.zeros_like(tokens[:, :, 0], "int32")
            # In this order: to add a vector on the right, Keras uses TensorFlow's
            # BiasAdd, which LiteRT does not have for ints.
            places = ops.add(np.arange(length, dtype="int32"), places)
        if sizes is None:
            sizes = ops.ones_like(places)
        if removed := self.removed(length):
            new = bipartite_matching(keys, removed, self.num_prefix_tokens)
            tokens, sizes = merge_tokens(tokens, sizes, new, length - removed)
            places = ops.take_along_axis(new, places, axis=1)
        branch = self.mlp(self.mlp_norm(tokens), training=training)
        return self._add(tokens, branch, self.mlp_scale, training), sizes, places

    def compute_output_spec(self, tokens, sizes=None, places=None, training=None):
        batch, length, width = tokens.shape
        original = length if places is None else places.shape[1]
        length -= self.removed(length)
        return (
            keras.KerasTensor((batch, length, width), self.compute_dtype),
            keras.KerasTensor((batch, length), "int32"),
            keras.KerasTensor((batch, original), "int32"),
        )
