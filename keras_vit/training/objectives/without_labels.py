"""Objectives that train without labels."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_vit.training import MaskedAutoencoder, MaskedPatchPrediction
from keras_vit.training import config as configs
from keras_vit.training.networks import network
from keras_vit.training.objectives.base import Objective


class WithoutLabels(Objective):
    """Base class of the objectives that train on images alone."""

    tests_saved = False

    def __init__(self, config: configs.Config, names: Sequence[str]):
        self.config = config

    def backbone(self):
        return network(self.config, include_top=False)

    def kept(self, model: keras.Model) -> keras.Model:
        """Return the part of the trained model that is saved, here the backbone."""
        return model.backbone

    def saved(self, model: keras.Model) -> keras.Model:
        """Return the model to save, which is the backbone."""
        return self.kept(model)

    def compilation(self) -> dict[str, Any]:
        """Return no arguments: these models define their own loss and metrics."""
        return {}

    def examples(self, batches: Any) -> Any:
        """Return the batches unchanged: these models ignore the labels."""
        return batches


class MaskedPatches(WithoutLabels):
    """Masked patch prediction, as in the ViT paper."""

    def build(self) -> keras.Model:
        """Build the model to train."""
        return MaskedPatchPrediction(self.backbone(), ratio=self.config.masking.ratio)

    def loss_of_guessing(self) -> float:
        """Return the loss of a uniform prediction of 8 levels for each channel."""
        return self.config.model.arguments.get("input_shape", (0, 0, 3))[-1] * math.log(8)


class Autoencoding(WithoutLabels):
    """Masked autoencoding (MAE)."""

    watched, better = "val_loss", min

    def build(self) -> keras.Model:
        """Build the model to train."""
        masking = self.config.masking
        return MaskedAutoencoder(
            self.backbone(),
            ratio=masking.ratio,
            decoder_dim=masking.decoder_dim,
            decoder_layers=masking.decoder_layers,
            decoder_heads=masking.decoder_heads,
        )

    def loss_of_guessing(self) -> float:
        """Return the loss of predicting the mean: the variance of normalized pixels."""
        return 1.0
