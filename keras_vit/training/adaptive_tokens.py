"""Training of tokens that stop, each at its own depth (A-ViT)."""

from typing import Any

import keras
from keras import ops

from keras_vit.layers.token_halting import (
    HaltingBlock,
    depth_prior,
    ponder,
    prior_divergence,
)
from keras_vit.models.features import blocks_of
from keras_vit.models.token_reduction import halts
from keras_vit.training.backbone_model import BackboneModel


class _HaltingCosts(keras.layers.Layer):
    """Layer from the outputs of halting blocks to the costs of their tokens.

    Input: for every block its tokens, sums and active tokens. Output: a dict of the
    `ponder` cost and the `depth`, `(b,)`, and the scores and active tokens of all blocks.
    """

    def __init__(self, blocks, **kwargs):
        super().__init__(**kwargs)
        self._blocks = [(block.scale, block.center) for block in blocks]
        self._convert_input_args = False

    def call(self, tokens, sums, active):
        scores = [
            ops.sigmoid(scale * ops.cast(x[..., 0], "float32") - center)
            for x, (scale, center) in zip(tokens, self._blocks, strict=True)
        ]
        computed = ops.stack([ops.cast(mask, "float32") for mask in active], axis=1)
        return {
            "ponder": ops.mean(ponder(sums, active), axis=1),
            "depth": ops.mean(ops.sum(computed, axis=1), axis=1),
            "scores": ops.stack(scores, axis=1),
            "active": computed,
        }


@keras.saving.register_keras_serializable(package="keras_vit")
class AdaptiveTokens(BackboneModel):
    """Training of a classifier whose tokens stop, each at its own depth (A-ViT).

    The loss is that of the classifier, plus `ponder_weight` times the mean number of
    blocks that a token needs (with the remainder that makes it differentiable), plus
    `prior_weight` times the divergence of the mean scores from a Gaussian over the
    blocks. The metric `depth` is the mean number of blocks of a token.

    Compile the model with a loss and metrics of the classifier. Training updates
    `backbone`; `keras_vit.drop_halted_tokens` makes it fast.

    Input: images `(b, h, w, c)` as `preprocessor` returns them.
    Output: a dict with the `predictions` of the backbone, `ponder` and `depth` `(b,)`,
    and for each of `L` blocks the `scores` and `active` `(b, L, n)` of all tokens.

    Args:
        backbone: a `ViT` with `token_reduction=TokenHalting(...)` without `kept`. It is
            trained in place; start from a trained one.
        ponder_weight: float, weight of the ponder cost.
        prior_weight: float, weight of the prior of the depths.
        target_depth: float, number of the block, counted from 1, at the peak of the
            prior.
        name: name of the model.

    Raises:
        ValueError: the tokens of the backbone do not stop, or it drops them.

    Example:

    >>> import keras, keras_vit
    >>> from keras_vit.training import AdaptiveTokens, AdamW
    >>> backbone = keras_vit.ViT(
    ...     (32, 48, 3), hidden_dim=48, num_layers=2, num_heads=3, mlp_dim=96, classes=10,
    ...     classifier_activation=None, token_reduction=keras_vit.layers.TokenHalting())
    >>> model = AdaptiveTokens(backbone, ponder_weight=0.01, target_depth=1.0)
    >>> model.compile(AdamW(1e-3), keras.losses.SparseCategoricalCrossentropy(True))
    >>> images = keras.random.uniform((4, 32, 48, 3))
    >>> history = model.fit(images, keras.ops.arange(4), batch_size=2, verbose=0).history
    >>> sorted(history)
    ['depth', 'loss']

    Reference: A-ViT (arXiv:2112.07658) section 3. The authors train with weights of 5e-4
    and 1e-3, from scores that are close to 0.
    """

    def __init__(
        self,
        backbone,
        ponder_weight: float = 5e-4,
        prior_weight: float = 1e-3,
        target_depth: float = 8.0,
        name: str | None = None,
    ):
        if not halts(backbone) or any(b.kept is not None for b in blocks_of(backbone)):
            raise ValueError(
                "backbone must be a ViT with token_reduction=TokenHalting(...) without "
                f"`kept`; received {backbone!r}."
            )
        blocks: list[HaltingBlock] = blocks_of(backbone)
        costs = _HaltingCosts(blocks, name="halting_costs")(
            [block.output[0] for block in blocks],
            [block.output[1] for block in blocks],
            [block.output[4] for block in blocks],
        )
        outputs = {"predictions": backbone.output, **costs}
        arguments = {
            "ponder_weight": ponder_weight,
            "prior_weight": prior_weight,
            "target_depth": target_depth,
        }
        super().__init__(backbone, backbone.input, outputs, arguments, name)
        self.prior = ops.convert_to_tensor(depth_prior(len(blocks), target_depth))
        self.depth = keras.metrics.Mean(name="depth")
        self._own_metrics: list[Any] = []

    def compile(
        self,
        optimizer="rmsprop",
        loss=None,
        metrics=None,
        weighted_metrics=None,
        **kwargs,
    ):
        """Configure the training; see `keras.Model.compile`.

        Args:
            optimizer: the optimizer.
            loss: the loss of the predictions, a `keras.losses.Loss`.
            metrics: None, or a list of `keras.metrics.Metric` of the predictions.
            weighted_metrics: None, or a list of further ones, which use sample weights.
            **kwargs: as for `keras.Model.compile`.

        Raises:
            ValueError: `loss` or a metric is a name or a function.
        """
        # Keras would match them with all outputs, and turn names into objects then.
        metrics, weighted_metrics = list(metrics or ()), list(weighted_metrics or ())
        own = [(loss, keras.losses.Loss)]
        own += [(m, keras.metrics.Metric) for m in (*metrics, *weighted_metrics)]
        for given, kind in own:
            if not isinstance(given, kind):
                raise ValueError(
                    "Pass instances, such as keras.losses.SparseCategoricalCrossentropy("
                    f"from_logits=True); received {given!r}, which is no {kind.__name__}."
                )
        for metric, _ in self._own_metrics:  # Keras would keep those of before too.
            self._tracker.untrack(metric)
        self.objective = loss
        self._own_metrics = [
            *((metric, False) for metric in metrics),
            *((metric, True) for metric in weighted_metrics),
        ]
        super().compile(optimizer, **kwargs)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        loss = self.objective(y, y_pred["predictions"], sample_weight)
        costs, active = y_pred["ponder"], y_pred["active"] > 0.5
        if sample_weight is not None:
            weights = ops.cast(sample_weight, costs.dtype)
            costs = costs * weights
            # Images of weight 0 only fill a batch.
            active = ops.logical_and(active, (weights > 0)[:, None, None])
        loss = loss + self._arguments["ponder_weight"] * ops.mean(costs)
        blocks = range(y_pred["scores"].shape[1])
        divergence = prior_divergence(
            [y_pred["scores"][:, block] for block in blocks],
            [active[:, block] for block in blocks],
            self.prior,
        )
        return loss + self._arguments["prior_weight"] * divergence

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        self.depth.update_state(y_pred["depth"], sample_weight)
        for metric, weighted in self._own_metrics:
            weights = sample_weight if weighted else None
            metric.update_state(y, y_pred["predictions"], weights)
        return self.get_metrics_result()
