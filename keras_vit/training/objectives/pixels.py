"""Objective that predicts pixels (iGPT)."""

import math
from typing import Any

import keras
import numpy as np

from keras_vit.data.augment import Augmentation
from keras_vit.data.pipeline import training_batches
from keras_vit.training import PixelPrediction, devices
from keras_vit.training.networks import network
from keras_vit.training.objectives.without_labels import WithoutLabels

# Number of images that the palette is fitted to.
PALETTE_IMAGES = 2000
_BATCH = 100


class Pixels(WithoutLabels):
    """Prediction of the next pixel or of masked pixels, with `keras_vit.ImageGPT`."""

    watched, better = "val_loss", min
    printed = ("bits_per_dim", "accuracy")

    def build(self) -> keras.Model:
        """Build the model to train.

        Raises:
            ValueError: `model.architecture` is not `"ImageGPT"`.
        """
        if self.config.model.weights is None and (
            self.config.model.architecture != "ImageGPT"
        ):
            raise ValueError(
                "objective='pixels' requires model.architecture='ImageGPT'; received "
                f"{self.config.model.architecture!r}."
            )
        settled = {} if self.config.model.weights is None else {"head": "keep"}
        backbone = network(self.config, include_top=True, **settled)
        return PixelPrediction(backbone, ratio=self.config.masking.ratio)

    def prepare(self, model: keras.Model, plan: Any, resumes: bool) -> None:
        """Fit the palette of a new run, unless it comes from a checkpoint.

        Args:
            model: the model that `build` returned.
            plan: the `runs.Plan` of the run.
            resumes: bool, whether the state of the run is restored after this.
        """
        if resumes or self.config.model.weights is not None:
            return
        source = plan.sources["train"]
        seed, backbone = self.config.seed, model.backbone
        with devices.alone():  # Every process fits the palette to the same images.
            batches = training_batches(
                source.with_channels(backbone.input_shape[-1]),
                backbone.preprocessor,
                Augmentation(),
                batch_size=min(_BATCH, source.num_examples),
                seed=seed,
                unreadable=self.config.data.unreadable,
            )
        count = math.ceil(min(PALETTE_IMAGES, source.num_examples) / _BATCH)
        images = [images.numpy() for images, _ in batches.take(count)]
        backbone.fit_palette(np.concatenate(images), seed)

    def loss_of_guessing(self) -> float:
        """Return the loss of a uniform prediction of the colors."""
        return math.log(self.config.model.arguments.get("colors", 512))
