"""Adaptive tokens (A-ViT): blocks in which tokens stop when their scores add up to 1."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.kernels.precision import to_float32
from keras_vit.layers.base import Layer
from keras_vit.layers.block import TransformerBlock
from keras_vit.layers.token_merging import descending_ranks, is_count

# Added to the logits of tokens that have stopped, as in the authors' code.
_MASKED = -1000.0


@keras.saving.register_keras_serializable(package="keras_vit")
class TokenHalting(Layer):
    """Tokens that stop, each at its own depth (A-ViT), an argument of `ViT`.

    It is a value of the argument `token_reduction` and has no weights. After every block,
    the first entry `t` of each token gives a score `sigmoid(scale * t - center)`. A token
    stops after the block in which the sum of its scores reaches `1 - epsilon`; the last
    block stops all. The others no longer attend to it. The classifier receives the mean
    of the class token over the blocks, weighted by its scores, with the remainder to 1 as
    the last weight.

    `keras_vit.training.AdaptiveTokens` trains the scores. Without `kept`, tokens that
    have stopped are masked, which saves no time. With it, each block first drops all
    tokens except those whose sums are smallest, so that those that have stopped go first.
    `keras_vit.drop_halted_tokens` chooses the numbers.

    Args:
        scale: float, factor of the first entry.
        center: float, subtracted from the product.
        epsilon: float; a token stops once its sum reaches `1 - epsilon`.
        kept: None, or a list of ints, the number of tokens that each block computes,
            including the prefix tokens, which are never dropped.

    Raises:
        ValueError: an argument is out of its range.

    Example:

    >>> import keras_vit
    >>> halting = keras_vit.layers.TokenHalting(kept=[17, 9])
    >>> model = keras_vit.ViT(
    ...     (64, 64, 3), hidden_dim=48, num_layers=2, num_heads=3, mlp_dim=96, classes=10,
    ...     token_reduction=halting)
    >>> model.output_shape
    (None, 10)

    Reference: A-ViT (arXiv:2112.07658) section 3 and the authors' code. Deviation: they
    mask tokens; dropping them gives the same result if `kept` leaves room for all tokens
    that have not stopped.
    """

    def __init__(
        self,
        scale: float = 5.0,
        center: float = 10.0,
        epsilon: float = 0.01,
        kept: Sequence[int] | None = None,
        **kwargs,
    ):
        super().__init__(**kwargs)
        for name, value in (("scale", scale), ("center", center), ("epsilon", epsilon)):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{name} must be a number; received {value!r}.")
        if not 0 < epsilon < 1:
            raise ValueError(f"epsilon must be between 0 and 1; received {epsilon!r}.")
        if kept is not None and not (
            isinstance(kept, list | tuple) and all(is_count(n) and n for n in kept)
        ):
            raise ValueError(
                "kept must be None or a list of positive ints, one for each block; "
                f"received {kept!r}."
            )
        self.scale, self.center, self.epsilon = scale, center, epsilon
        self.kept = None if kept is None else list(kept)

    def call(self, x):
        return x


def kept_indices(sums, kept, num_prefix_tokens):
    """Return the indices of the prefix tokens and of the tokens with the smallest sums.

    Args:
        sums: `(b, n)`, sums of the scores.
        kept: int, number of indices.
        num_prefix_tokens: int, number of tokens in front.

    Returns:
        `(b, kept)`, int32, in ascending order.
    """
    length = sums.shape[1]
    chosen = descending_ranks(-sums[:, num_prefix_tokens:]) < kept - num_prefix_tokens
    front = ops.ones_like(sums[:, :num_prefix_tokens], "bool")
    chosen = ops.concatenate([front, chosen], axis=1)
    # The number of chosen tokens up to each one, or 0 for the others.
    order = ops.cumsum(ops.cast(chosen, "int32"), axis=1) * ops.cast(chosen, "int32")
    numbers = np.arange(1, kept + 1, dtype="int32")
    same = ops.equal(ops.expand_dims(order, 1), numbers[:, None])
    return ops.sum(ops.where(same, np.arange(length, dtype="int32"), 0), axis=-1)


@keras.saving.register_keras_serializable(package="keras_vit")
class HaltingBlock(TransformerBlock):
    """Transformer block that computes only the tokens that have not stopped.

    Inputs: tokens `(b, n, d)`; `sums` `(b, n)`, float32, of their scores; `places`
    `(b, n)`, int32, where they were among all tokens; and `output` `(b, p, d)`, float32,
    the weighted sum of the prefix tokens so far; or None for the first block. Output: the
    same four for `k <= n` tokens, and `active` `(b, k)`, bool, whether a token was
    computed in this block.

    Args:
        num_heads: int, number of attention heads.
        mlp_dim: int, width of the MLP.
        scale: float, as for `TokenHalting`.
        center: float, as for `TokenHalting`.
        epsilon: float, as for `TokenHalting`.
        kept: None, or the number of tokens to keep.
        last: bool, whether all tokens stop after the block.
        num_prefix_tokens: int, number of tokens in front that are not dropped.
        **kwargs: as for `TransformerBlock`.

    Reference: A-ViT (arXiv:2112.07658) algorithm 1.
    """

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        scale: float = 5.0,
        center: float = 10.0,
        epsilon: float = 0.01,
        kept: int | None = None,
        last: bool = False,
        num_prefix_tokens: int = 1,
        **kwargs,
    ):
        super().__init__(num_heads, mlp_dim, **kwargs)
        self.scale = scale
        self.center = center
        self.epsilon = epsilon
        self.kept = kept
        self.last = last
        self.num_prefix_tokens = num_prefix_tokens
        # The sums of scores stay in float32 under mixed precision.
        self._convert_input_args = False

    def remaining(self, length: int) -> int:
        """Return the number of tokens that the block computes of `length` tokens."""
        return length if self.kept is None else min(self.kept, length)

    def scores(self, tokens):
        """Return the scores `(b, n)`, float32, of tokens `(b, n, d)`."""
        return ops.sigmoid(self.scale * to_float32(tokens[..., 0]) - self.center)

    def call(self, tokens, sums=None, places=None, output=None, training=None):  # type: ignore[override]
        prefix, limit = self.num_prefix_tokens, 1.0 - self.epsilon
        first = sums is None
        if first:
            sums = ops.zeros_like(to_float32(tokens[..., 0]))
            indices = np.arange(tokens.shape[1], dtype="int32")
            # In this order: see `MergingBlock`.
            places = ops.add(indices, ops.zeros_like(sums, "int32"))
            output = ops.zeros_like(to_float32(tokens[:, :prefix]))
        remaining = self.remaining(tokens.shape[1])
        if remaining < tokens.shape[1]:
            indices = kept_indices(sums, remaining, prefix)
            sums = ops.take_along_axis(sums, indices, axis=1)
            places = ops.take_along_axis(places, indices, axis=1)
            indices = ops.expand_dims(indices, -1)
            tokens = ops.take_along_axis(tokens, indices, axis=1)
        active = sums < limit
        bias = None if first else ops.where(active, 0.0, _MASKED)
        tokens = self._transformed(tokens, bias, training)
        scores = ops.ones_like(sums) if self.last else self.scores(tokens)
        new = ops.where(active, sums + scores, sums)
        shares = ops.where(active, ops.where(new < limit, scores, 1.0 - sums), 0.0)
        shares = ops.expand_dims(shares[:, :prefix], -1)
        output = output + shares * to_float32(tokens[:, :prefix])
        return tokens, new, places, output, active

    def _transformed(self, tokens, bias, training):
        """Return the tokens after both branches of the block."""
        normal = self.attention_norm(tokens)
        branch, _ = self.attention.mixed_with_keys(normal, bias, training)
        branch = self.attention_dropout(branch, training=training)
        tokens = self._add(tokens, branch, self.attention_scale, training)
        branch = self.mlp(self.mlp_norm(tokens), training=training)
        return self._add(tokens, branch, self.mlp_scale, training)

    def compute_output_spec(
        self, tokens, sums=None, places=None, output=None, training=None
    ):
        batch, length, width = tokens.shape
        length = self.remaining(length)
        prefix = (batch, self.num_prefix_tokens, width)
        float32 = keras.backend.result_type(self.compute_dtype, "float32")
        return (
            keras.KerasTensor((batch, length, width), self.compute_dtype),
            keras.KerasTensor((batch, length), float32),
            keras.KerasTensor((batch, length), "int32"),
            keras.KerasTensor(prefix, float32),
            keras.KerasTensor((batch, length), "bool"),
        )


def ponder(sums: Sequence[Any], active: Sequence[Any]) -> Any:
    """Return the ponder cost of each token: its blocks, plus its remainder at the end.

    Args:
        sums: the sums `(b, n)` after every block.
        active: `(b, n)`, bool, whether a token was computed, for every block.

    Returns:
        `(b, n)`, float32, between 1 and the number of blocks plus 1.

    Reference: A-ViT (arXiv:2112.07658) equation 8.
    """
    cost, before = 0.0, ops.zeros_like(sums[0])
    for block, (after, computed) in enumerate(zip(sums, active, strict=True)):
        stops = computed
        if block + 1 < len(active):
            stops = ops.logical_and(computed, ops.logical_not(active[block + 1]))
        cost = cost + ops.cast(computed, after.dtype)
        cost = cost + ops.where(stops, 1.0 - before, 0.0)
        before = after
    return cost


def depth_prior(num_layers: int, target_depth: float) -> np.ndarray:
    """Return a Gaussian of standard deviation 1 over the blocks, `(num_layers,)`.

    Args:
        num_layers: int, number of blocks.
        target_depth: float, number of the block at the peak, counted from 1.
    """
    density = np.exp(-0.5 * (np.arange(1, num_layers + 1) - target_depth) ** 2)
    return (density / density.sum()).astype("float32")


def prior_divergence(scores: Sequence[Any], active: Sequence[Any], prior: Any) -> Any:
    """Return the KL divergence of the mean scores of the blocks from a prior.

    Args:
        scores: `(b, n)` for every block.
        active: `(b, n)`, bool, for every block. Other tokens count as 0.
        prior: `(L,)`, sums to 1.

    Returns:
        `sum(prior * log(prior / mean))`, in which the means of the scores are scaled to a
        sum of 1.

    Reference: A-ViT (arXiv:2112.07658) equations 10 and 11, in the direction of the
    authors' code. Deviation: there, tokens that have stopped count too, the means are
    clipped to 0.01, and the result is divided by the number of blocks.
    """
    means = [
        ops.mean(ops.where(computed, score, 0.0))
        for score, computed in zip(scores, active, strict=True)
    ]
    means = ops.maximum(ops.stack(means), 1e-12)
    means = means / ops.sum(means)
    prior = ops.convert_to_tensor(prior, means.dtype)
    return ops.sum(prior * (ops.log(prior + 1e-12) - ops.log(means)))
