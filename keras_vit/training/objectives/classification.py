"""Classification of images that have one class each."""

import math
from collections.abc import Sequence
from typing import Any

import keras

from keras_vit import lora
from keras_vit.data.class_names import check_class_names
from keras_vit.data.host import tensorflow
from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.models.lora import merged_values
from keras_vit.training import FlexiblePatches, known_class_names
from keras_vit.training import config as configs
from keras_vit.training.losses import SigmoidLoss
from keras_vit.training.networks import activation, network
from keras_vit.training.objectives.base import Objective
from keras_vit.weights.checks import assign


class Classification(Objective):
    """Classification objective.

    Args:
        config: config of the run.
        names: names of the classes in the order of the labels.
    """

    def __init__(self, config: configs.Config, names: Sequence[str]):
        self.config, self.names, self.classes = config, list(names), len(names)
        self._saved: tuple[keras.Model, keras.Model] | None = None

    def build(self) -> keras.Model:
        """Build the model to train, which returns logits."""
        arguments: dict[str, Any] = {
            "include_top": True,
            "classifier_activation": None,
            **self.arguments(),
        }
        if self.config.model.arguments.get("head") == "keep":
            model = network(self.config, **arguments)
            self._check_head(model)
        else:
            model = network(
                self.config, classes=self.classes, class_names=self.names, **arguments
            )
        settings = self.config.lora
        if settings.rank is not None:
            lora.enable(model, settings.rank, settings.alpha, settings.layers)
        return self.trainer(model)

    def arguments(self) -> dict[str, Any]:
        """Return arguments of the network that the objective needs, here none."""
        return {}

    def trainer(self, network: keras.Model) -> keras.Model:
        """Return the model that trains and tests a network, here the network itself.

        Args:
            network: a model that returns logits.
        """
        return network

    def _check_head(self, model):
        """Check that the head of the checkpoint has the classes of the training set."""
        train, weights = self.config.data.train, self.config.model.weights
        classes = model.output_shape[-1]
        remedy = "Remove model.arguments.head to train a new head."
        names = known_class_names.known(model, self.config)
        if names is not None:
            check_class_names(train, self.names, str(weights), names, remedy)
        elif classes != self.classes:
            raise ValueError(
                f"{weights} has {classes} classes, data.train={train!r} has "
                f"{self.classes}. {remedy}"
            )

    def kept(self, model: keras.Model) -> keras.Model:
        """Return the part of the trained model that is saved, here the whole model.

        Args:
            model: the model that was trained.
        """
        return model

    def restored(self, saved: keras.Model) -> keras.Model:
        """Return the model to test from one that `saved` returned.

        Args:
            saved: the model from the file, without the activation of its classifier.
        """
        return self.trainer(saved)

    def saved(self, model: keras.Model) -> keras.Model:
        """Return the model to save, a copy that ends in the activation of the loss.

        The model itself returns logits, because it is compiled with a loss on logits. The
        copy is built only once and receives the weights of the model in every call, with
        the updates of LoRA merged into the kernels.

        Args:
            model: the model that was trained.
        """
        if self._saved is None or self._saved[0] is not model:
            config = model.get_config()
            config["classifier_activation"] = activation(self.config)
            if self.config.lora.rank is not None:
                config |= {"lora": {}, "frozen": ()}
            with checkpoint_follows(), keras.device("cpu"):
                self._saved = model, type(model).from_config(config)
        _, copy = self._saved
        if self.config.lora.rank is None:
            copy.set_weights(model.get_weights())
        else:
            assign(copy.weights_by_path(), merged_values(model).items())
        return copy

    def compilation(self) -> dict[str, Any]:
        """Return the arguments of `compile` for the loss and the metrics.

        Raises:
            ValueError: `optimization.loss` is unknown, or `optimization.label_smoothing`
                is out of its range.
        """
        settings, smoothing = self.config.optimization, self._label_smoothing()
        if settings.loss == "softmax":
            loss = keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=smoothing
            )
        elif settings.loss == "sigmoid":
            loss = SigmoidLoss(smoothing, settings.binary_labels)
        else:
            raise ValueError(
                "optimization.loss must be 'softmax' or 'sigmoid'; received "
                f"{settings.loss!r}."
            )
        top5 = [keras.metrics.TopKCategoricalAccuracy(5, name="top5")]
        return {
            "loss": loss,
            "weighted_metrics": [
                keras.metrics.CategoricalAccuracy(name="accuracy"),
                *(top5 if self.classes > 10 else []),
            ],
        }

    def _label_smoothing(self):
        smoothing = self.config.optimization.label_smoothing
        if not 0 <= smoothing < 1:
            raise ValueError(
                "optimization.label_smoothing must be at least 0 and below 1; received "
                f"{smoothing}."
            )
        return smoothing

    def examples(self, batches: Any) -> Any:
        """Return the batches with one-hot labels.

        Args:
            batches: a `tf.data.Dataset`; labels mixed by mixup remain unchanged.
        """
        return one_hot(batches, self.classes)

    def loss_of_guessing(self) -> float:
        """Return the loss of a uniform softmax, or of sigmoids that are all one half."""
        sigmoid = self.config.optimization.loss == "sigmoid"
        return self.classes * math.log(2) if sigmoid else math.log(self.classes)


class BackboneClassification(Classification):
    """Classification by a model whose training updates a classifier, its `backbone`.

    A subclass implements `trainer`.
    """

    def kept(self, model: keras.Model) -> keras.Model:
        """Return the classifier that is trained.

        Args:
            model: the model that `trainer` returned.
        """
        return model.backbone

    def saved(self, model: keras.Model) -> keras.Model:
        """Return the classifier to save, which ends in the activation of the loss.

        Args:
            model: the model that `trainer` returned.
        """
        return super().saved(model.backbone)


class FlexibleClassification(BackboneClassification):
    """Classification with a random patch size in every step (FlexiViT)."""

    def trainer(self, network: keras.Model) -> keras.Model:
        """Return a `FlexiblePatches` model of the network."""
        sizes = self.config.flexible
        side = sizes.image_size
        return FlexiblePatches(
            network,
            sizes.patch_sizes,
            None if side is None else (side, side),
            sizes.evaluation_patch_size,
            seed=self.config.seed,
        )


def one_hot(batches: Any, classes: int) -> Any:
    """Return batches with one-hot labels.

    Args:
        batches: a `tf.data.Dataset`; labels that are distributions already, such as those
            mixed by mixup, remain unchanged.
        classes: int, number of classes.
    """
    tf = tensorflow()

    def convert(images, labels, *weights):
        if labels.shape.rank == 1:
            labels = tf.one_hot(labels, classes)
        return (images, labels, *weights)

    return batches.map(convert)
