"""Training objectives: the model to train, its loss, and the part that is saved."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

import keras_vit
from keras_vit import lora
from keras_vit.data.class_names import check_class_names
from keras_vit.data.host import tensorflow
from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.models.checkpoint import NoHeadError
from keras_vit.models.lora import merged_values
from keras_vit.training import (
    FlexiblePatches,
    MaskedAutoencoder,
    MaskedPatchPrediction,
    known_class_names,
    regression,
)
from keras_vit.training import config as configs
from keras_vit.training.losses import SigmoidLoss
from keras_vit.weights.checks import assign


def constructor(config: configs.Config) -> Any:
    """Return the constructor that `model.architecture` names.

    Args:
        config: config of the run.

    Raises:
        ValueError: `keras_vit` has no such constructor.
    """
    found = getattr(keras_vit, config.model.architecture, None)
    if not callable(found):
        raise ValueError(
            f"model.architecture={config.model.architecture!r} is not a constructor of "
            "keras_vit, such as ViTS16 or T2TViT14."
        )
    return found


def network(config: configs.Config, **settled: Any) -> keras.Model:
    """Build the network of a config, from its checkpoint or with random weights.

    Args:
        config: config with the architecture or the checkpoint, and the arguments.
        **settled: arguments that override those of the config.
    """
    arguments = {"dtype": config.dtype, **config.model.arguments, **settled}
    arguments = {k: tuple(v) if type(v) is list else v for k, v in arguments.items()}
    stem = arguments.get("stem")
    if isinstance(stem, dict):  # The ResNet stem of a hybrid; JSON has no objects.
        arguments["stem"] = keras_vit.layers.ResNetStem(**stem)
    if config.model.weights is None:
        return constructor(config)(**arguments)
    if arguments["include_top"]:
        arguments = {"head": "new", **arguments}
    else:
        arguments["head"] = "drop"
    return keras_vit.load_checkpoint(config.model.weights, **arguments)


def classifier(config: configs.Config, **settled: Any) -> keras.Model:
    """Build the network of a config with the classifier of its checkpoint.

    Args:
        config: config with the checkpoint, and the arguments.
        **settled: arguments that override those of the config.

    Raises:
        ValueError: the checkpoint has no classifier.
    """
    try:
        return network(config, include_top=True, head="keep", **settled)
    except NoHeadError:
        raise ValueError(
            f"{config.model.weights} has no classifier, only features. Fit a classifier "
            "to them (keras-vit probe), fine-tune the model (keras-vit finetune), or "
            "export it to serve its features (keras-vit export)."
        ) from None


def activation(config: configs.Config) -> str | None:
    """Return the activation that matches the loss of a run, or None if there is none.

    Args:
        config: config of the run.
    """
    if config.data.labels != "single":
        return "sigmoid" if config.data.labels == "multi" else None
    named = config.optimization.loss in ("softmax", "sigmoid")
    return config.optimization.loss if named else None


class Classification:
    """Classification objective.

    Args:
        config: config of the run.
        names: names of the classes in the order of the labels.
    """

    # The metric that selects the best checkpoint, and the function that selects its best
    # value.
    watched, better = "val_accuracy", max
    # Metrics that are printed at the end, besides the loss.
    printed: tuple[str, ...] = ("accuracy",)
    # Whether the saved model can be tested.
    tests_saved = True

    def __init__(self, config: configs.Config, names: Sequence[str]):
        self.config, self.names, self.classes = config, list(names), len(names)
        self._saved: tuple[keras.Model, keras.Model] | None = None

    def build(self) -> keras.Model:
        """Build the model to train, which returns logits."""
        arguments: dict[str, Any] = {"include_top": True, "classifier_activation": None}
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
            loss = SigmoidLoss(label_smoothing=smoothing)
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


class MultiLabel(Classification):
    """Classification of images that have any number of classes."""

    watched, better = "val_mean_average_precision", max
    printed = ("mean_average_precision", "label_accuracy")

    def compilation(self) -> dict[str, Any]:
        """Return the arguments of `compile` for the loss and the metrics."""
        precision = keras.metrics.AUC(
            curve="PR",
            multi_label=True,
            num_labels=self.classes,
            from_logits=True,
            name="mean_average_precision",
        )
        return {
            "loss": SigmoidLoss(label_smoothing=self._label_smoothing()),
            "weighted_metrics": [
                precision,
                keras.metrics.BinaryAccuracy(threshold=0.0, name="label_accuracy"),
            ],
        }

    def loss_of_guessing(self) -> float:
        """Return the loss of sigmoids that are all one half."""
        return self.classes * math.log(2)


class Regression(Classification):
    """Prediction of one or several numbers, which are standardized for training."""

    watched, better = "val_mean_absolute_error", min
    printed = ("mean_absolute_error", "r2")

    @property
    def _scale(self):
        scale = self.config.data.scale
        assert scale is not None  # A run sets it before it builds the objective.
        return scale

    def build(self) -> keras.Model:
        """Build the model to train, which returns standardized values."""
        model = super().build()
        if self.config.model.arguments.get("head") == "keep":
            regression.standardized(model, self._scale)
        return model

    def saved(self, model: keras.Model) -> keras.Model:
        """Return the model to save, a copy that returns the values in their own units."""
        copy = super().saved(model)
        regression.in_own_units(copy, self._scale)
        return copy

    def restored(self, saved: keras.Model) -> keras.Model:
        """Return the model to test from one that `saved` returned."""
        regression.standardized(saved, self._scale)
        return saved

    def compilation(self) -> dict[str, Any]:
        """Return the arguments of `compile` for the loss and the metrics.

        Raises:
            ValueError: `optimization.label_smoothing` is not 0.
        """
        if smoothing := self.config.optimization.label_smoothing:
            raise ValueError(
                f"optimization.label_smoothing={smoothing} requires classes, and "
                "data.labels is 'regression'. Set it to 0."
            )
        deviations = [deviation for _, deviation in self._scale]
        return {
            "loss": keras.losses.MeanSquaredError(),
            "weighted_metrics": [
                regression.MeanAbsoluteError(deviations),
                keras.metrics.R2Score(name="r2"),
            ],
        }

    def examples(self, batches: Any) -> Any:
        """Return the batches with standardized values."""
        mean, deviation = np.array(self._scale, "float32").T

        def standardized(images, values, *weights):
            return images, (values - mean) / deviation, *weights

        return batches.map(standardized)

    def loss_of_guessing(self) -> float:
        """Return the loss of predicting the means."""
        return 1.0


class FlexibleClassification(Classification):
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

    def kept(self, model: keras.Model) -> keras.Model:
        """Return the network that is trained."""
        return model.backbone

    def saved(self, model: keras.Model) -> keras.Model:
        """Return the network to save, which ends in the activation of the loss."""
        return super().saved(model.backbone)


class _WithoutLabels:
    """Base class of the objectives that reconstruct masked parts of the image."""

    printed: tuple[str, ...] = ("accuracy",)
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


class MaskedPatches(_WithoutLabels):
    """Masked patch prediction, as in the ViT paper."""

    watched, better = "val_accuracy", max

    def build(self) -> keras.Model:
        """Build the model to train."""
        return MaskedPatchPrediction(self.backbone(), ratio=self.config.masking.ratio)

    def loss_of_guessing(self) -> float:
        """Return the loss of a uniform prediction of 8 levels for each channel."""
        return self.config.model.arguments.get("input_shape", (0, 0, 3))[-1] * math.log(8)


class Autoencoding(_WithoutLabels):
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


OBJECTIVES: dict[str, Any] = {
    "classification": Classification,
    "masked_patch_prediction": MaskedPatches,
    "mae": Autoencoding,
}


# Objectives of `"classification"` for images that do not have one class each.
LABELS: dict[str, Any] = {"multi": MultiLabel, "regression": Regression}


def objective(config: configs.Config, names: Sequence[str]) -> Any:
    """Return the training objective of a config.

    Args:
        config: config of the run.
        names: names of the classes of the training set, in the order of the labels.

    Raises:
        ValueError: `config.objective` is unknown.
    """
    if config.objective not in OBJECTIVES:
        raise ValueError(
            f"objective must be one of {', '.join(map(repr, OBJECTIVES))}; received "
            f"{config.objective!r}."
        )
    _check_lora(config)
    labels = config.data.labels
    if labels != "single" and config.objective == "classification":
        if config.flexible.patch_sizes:
            raise ValueError(
                "flexible.patch_sizes requires data.labels='single'; received "
                f"{labels!r}."
            )
        return LABELS[labels](config, names)
    if not config.flexible.patch_sizes:
        return OBJECTIVES[config.objective](config, names)
    if config.objective != "classification" or config.resolutions:
        raise ValueError(
            "flexible.patch_sizes requires objective='classification' and no "
            f"resolutions; received {config.objective!r} and {config.resolutions}."
        )
    return FlexibleClassification(config, names)


def _check_lora(config):
    if config.lora.rank is None:
        return
    if config.objective != "classification" or config.model.weights is None:
        raise ValueError(
            f"lora.rank={config.lora.rank} requires objective='classification' and "
            f"model.weights; received {config.objective!r} and {config.model.weights!r}. "
            "LoRA adapts a trained model: use the command keras-vit finetune."
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
