"""What a run learns: which model trains, by which loss, and what is kept of it."""

import math
from collections.abc import Sequence
from typing import Any

import keras

import keras_vit
from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.training import MaskedAutoencoder, MaskedPatchPrediction, known_class_names
from keras_vit.training import config as configs
from keras_vit.training.class_names import check_class_names
from keras_vit.training.host import tensorflow
from keras_vit.training.losses import SigmoidLoss


def constructor(config: configs.Config) -> Any:
    """The constructor that a config names."""
    found = getattr(keras_vit, config.model.architecture, None)
    if not callable(found):
        raise ValueError(
            f"model.architecture={config.model.architecture!r} is no constructor of "
            "keras_vit, such as ViTS16 or T2TViT14."
        )
    return found


def network(config: configs.Config, **settled: Any) -> keras.Model:
    """The network of a config: from its weights, if it has any, else from random values.

    Args:
        config: says the architecture or the checkpoint, and arguments.
        **settled: arguments that the objective settles.
    """
    arguments = {"dtype": config.dtype, **config.model.arguments, **settled}
    arguments = {k: tuple(v) if type(v) is list else v for k, v in arguments.items()}
    stem = arguments.get("stem")
    if isinstance(stem, dict):  # A hybrid's, as plain data.
        arguments["stem"] = keras_vit.layers.ResNetStem(**stem)
    if config.model.weights is None:
        return constructor(config)(**arguments)
    if arguments["include_top"]:
        arguments = {"head": "new", **arguments}
    else:
        arguments["head"] = "drop"
    return keras_vit.load_checkpoint(config.model.weights, **arguments)


def activation(config: configs.Config) -> str | None:
    """Return the activation that belongs to the loss of a run, None without one."""
    named = config.optimization.loss in ("softmax", "sigmoid")
    return config.optimization.loss if named else None


class Classification:
    """Images to classes, with labels.

    Args:
        config: of the run.
        names: the names of the classes in the order of the labels.
    """

    # What tells which checkpoint is best, and which of two values is better.
    watched, better = "val_accuracy", max

    def __init__(self, config: configs.Config, names: Sequence[str]):
        self.config, self.names, self.classes = config, list(names), len(names)
        self._saved: tuple[keras.Model, keras.Model] | None = None

    def build(self) -> keras.Model:
        """The model that trains: it gives logits."""
        arguments: dict[str, Any] = {"include_top": True, "classifier_activation": None}
        if self.config.model.arguments.get("head") == "keep":
            model = network(self.config, **arguments)
            self._check_head(model)
            return model
        return network(
            self.config, classes=self.classes, class_names=self.names, **arguments
        )

    def _check_head(self, model):
        """Check that a head that is kept was trained on the run's classes."""
        train, weights = self.config.data.train, self.config.model.weights
        classes = model.output_shape[-1]
        remedy = "Leave model.arguments.head out for a new head."
        names = known_class_names.known(model, self.config)
        if names is not None:
            check_class_names(train, self.names, str(weights), names, remedy)
        elif classes != self.classes:
            raise ValueError(
                f"{weights} has {classes} classes, data.train={train!r} {self.classes}. "
                f"{remedy}"
            )

    def kept(self, model: keras.Model) -> keras.Model:
        """What is saved of the model that trains: the model itself."""
        return model

    def saved(self, model: keras.Model) -> keras.Model:
        """Return the model to save: a copy that ends in the activation of its loss.

        The model itself ends in logits, and is compiled with a loss of logits. The copy
        of a model is built once, and gets the model's weights at every call.
        """
        if self._saved is None or self._saved[0] is not model:
            config = model.get_config()
            config["classifier_activation"] = activation(self.config)
            with checkpoint_follows(), keras.device("cpu"):
                self._saved = model, type(model).from_config(config)
        _, copy = self._saved
        copy.set_weights(model.get_weights())
        return copy

    def compilation(self) -> dict[str, Any]:
        """Arguments of `compile`: loss and metrics."""
        settings = self.config.optimization
        if settings.loss == "softmax":
            loss = keras.losses.CategoricalCrossentropy(
                from_logits=True, label_smoothing=settings.label_smoothing
            )
        elif settings.loss == "sigmoid":
            loss = SigmoidLoss(label_smoothing=settings.label_smoothing)
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

    def examples(self, batches: Any) -> Any:
        """Batches whose labels are distributions, as mixed ones are already."""
        return one_hot(batches, self.classes)

    def loss_of_guessing(self) -> float:
        """Of a softmax; or of as many sigmoids, each at one half."""
        sigmoid = self.config.optimization.loss == "sigmoid"
        return self.classes * math.log(2) if sigmoid else math.log(self.classes)


class _WithoutLabels:
    """What the objectives share that hide a part of the image."""

    def __init__(self, config: configs.Config, names: Sequence[str]):
        self.config = config

    def backbone(self):
        return network(self.config, include_top=False)

    def kept(self, model: keras.Model) -> keras.Model:
        """The backbone, without what only the objective needs."""
        return model.backbone

    def saved(self, model: keras.Model) -> keras.Model:
        """Return the model to save: what is kept."""
        return self.kept(model)

    def compilation(self) -> dict[str, Any]:
        """Nothing: these models have their own loss and metrics."""
        return {}

    def examples(self, batches: Any) -> Any:
        """The batches as they are; the models do not look at labels."""
        return batches


class MaskedPatches(_WithoutLabels):
    """The ViT paper's masked patch prediction."""

    watched, better = "val_accuracy", max

    def build(self) -> keras.Model:
        """The model that trains."""
        return MaskedPatchPrediction(self.backbone(), ratio=self.config.masking.ratio)

    def loss_of_guessing(self) -> float:
        """Of 8 levels for each channel."""
        return self.config.model.arguments.get("input_shape", (0, 0, 3))[-1] * math.log(8)


class Autoencoding(_WithoutLabels):
    """MAE."""

    watched, better = "val_loss", min

    def build(self) -> keras.Model:
        """The model that trains."""
        masking = self.config.masking
        return MaskedAutoencoder(
            self.backbone(),
            ratio=masking.ratio,
            decoder_dim=masking.decoder_dim,
            decoder_layers=masking.decoder_layers,
            decoder_heads=masking.decoder_heads,
        )

    def loss_of_guessing(self) -> float:
        """The variance of normalised pixels."""
        return 1.0


OBJECTIVES: dict[str, Any] = {
    "classification": Classification,
    "masked_patch_prediction": MaskedPatches,
    "mae": Autoencoding,
}


def objective(config: configs.Config, names: Sequence[str]) -> Any:
    """The objective of a config.

    Args:
        config: of the run.
        names: the names of the training set's classes.

    Raises:
        ValueError: there is no such objective.
    """
    if config.objective not in OBJECTIVES:
        raise ValueError(
            f"objective must be one of {', '.join(map(repr, OBJECTIVES))}; received "
            f"{config.objective!r}."
        )
    return OBJECTIVES[config.objective](config, names)


def one_hot(batches: Any, classes: int) -> Any:
    """A `tf.data.Dataset` whose labels are one-hot, unless they are mixed already."""
    tf = tensorflow()

    def convert(images, labels, *weights):
        if labels.shape.rank == 1:
            labels = tf.one_hot(labels, classes)
        return (images, labels, *weights)

    return batches.map(convert)
