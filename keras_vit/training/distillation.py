"""Distillation from a teacher, the training of DeiT."""

from typing import Any

import keras
from keras import ops

from keras_vit.data.class_names import check_class_names
from keras_vit.layers import Preprocessor
from keras_vit.models.image_model import ImageModel
from keras_vit.models.restorable_model import RestorableModel
from keras_vit.training.losses import DistillationLoss
from keras_vit.training.schedules import is_number
from keras_vit.training.teacher_input import TeacherInput


@keras.saving.register_keras_serializable(package="keras_vit")
class Distillation(ImageModel):
    """Training of a student to predict both the labels and the outputs of a teacher.

    The loss is `(1 - alpha) * loss(labels, class_logits) + alpha *
    DistillationLoss(teacher_logits, distillation_logits)`, where `loss` is the one that
    `compile` was given. For a student with a distillation token, `class_logits` are those
    of its class head, and `distillation_logits` those of its distillation head. For any
    other student, both are its logits.

    In each training step, the teacher sees the images of the student in its own size and
    scale. It is frozen and runs in inference mode. `weights_by_path()`, the optimizer and
    `trainable_variables` have the weights of the student only.

    Outside training, the model is the student: metrics and `evaluate` use its logits, the
    mean of both heads. Save and export the student: `student.save("name.keras")`.

    Input: images `(b, h, w, c)` of the student's size, as `preprocessor` returns them.
    Output: logits `(b, classes)`; with `training=True`, a dict with `"logits"`,
    `"class_logits"` and `"distillation_logits"`.

    Args:
        student: a `keras_vit` classifier that returns logits. It is trained in place.
        teacher: a classifier with the same classes, which is frozen in place, or None.
            A model without a `preprocessor` gets pixel values 0 to 255. If its last
            layer is a softmax, the logarithms of the probabilities are its logits. With
            None, `fit` takes a dict as labels, with `"labels"` and the logits of
            a teacher as `"teacher_logits"`, which were computed before.
        kind: `"hard"` or `"soft"`; see `DistillationLoss`.
        alpha: float, weight of the teacher, 0 to 1. The paper has 0.5 for `"hard"` and
            0.1 for `"soft"`.
        temperature: float, temperature of `"soft"`.
        name: name of the model.

    Raises:
        ValueError: an argument is out of its range, the student or the teacher is no
            classifier, or the two differ in their classes or channels.

    Example:

    >>> import keras, keras_vit
    >>> size = {"hidden_dim": 48, "num_layers": 1, "num_heads": 3, "mlp_dim": 96}
    >>> size |= {"classes": 5, "classifier_activation": None}
    >>> student = keras_vit.ViT(
    ...     input_shape=(32, 32, 3), patch_size=16, distillation_token=True, **size)
    >>> teacher = keras_vit.ViT(input_shape=(64, 64, 3), patch_size=16, **size)
    >>> model = keras_vit.training.Distillation(student, teacher)
    >>> model.compile("adamw", keras.losses.SparseCategoricalCrossentropy(True))
    >>> images = student.preprocessor(keras.random.uniform((4, 32, 32, 3), maxval=255))
    >>> _ = model.fit(images, keras.ops.arange(4), verbose=0)
    >>> len(model.trainable_variables) == len(student.trainable_variables)
    True

    Reference: DeiT (arXiv:2012.12877) section 4.
    """

    def __init__(
        self,
        student: keras.Model,
        teacher: keras.Model | None = None,
        kind: str = "hard",
        alpha: float = 0.5,
        temperature: float = 3.0,
        name: str | None = None,
    ):
        _check_student(student)
        if not is_number(alpha) or not 0 <= alpha <= 1:
            raise ValueError(f"alpha must be a number from 0 to 1; received {alpha!r}.")
        loss = DistillationLoss(kind, temperature)
        # Keras must not track the teacher, whose weights are not those of the model.
        frozen = None if teacher is None else _Teacher(teacher, student)
        super().__init__(inputs=student.inputs, outputs=student.outputs[0], name=name)
        self.student = student
        self.distillation_loss = loss
        self._teacher = frozen
        self._heads = keras.Model(student.inputs, _heads(student), name="heads")
        self._arguments: dict[str, Any] = {
            "kind": kind,
            "alpha": alpha,
            "temperature": temperature,
        }

    @property
    def preprocessor(self):
        """The student's preprocessor."""
        return self.student.preprocessor

    @property
    def teacher(self) -> keras.Model | None:
        """The teacher, or None."""
        return None if self._teacher is None else self._teacher.model

    @property
    def backbone(self):
        """The student, by the name that other models for training have for it."""
        return self.student

    @property
    def teacher_variables(self) -> list[keras.Variable]:
        """The variables of the teacher, which no step changes."""
        return [] if self.teacher is None else self.teacher.variables

    @property
    def non_trainable_variables(self):
        # Under JAX, a step receives these variables as arguments. It would compile the
        # values of all others into its program.
        return [*super().non_trainable_variables, *self.teacher_variables]

    def call(self, images, training=None, mask=None):
        if training:
            self._check_data(images)
            return self._heads(images, training=True)
        return super().call(images, training=training, mask=mask)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        if not isinstance(y_pred, dict):
            labels = _labels(y)
            return super().compute_loss(x, labels, y_pred, sample_weight, training)
        alpha, logits = self._arguments["alpha"], y_pred["class_logits"]
        loss = super().compute_loss(x, _labels(y), logits, sample_weight, training)
        target = self._teacher_logits(x, y)
        distilled = y_pred["distillation_logits"]
        taught = self.distillation_loss(target, distilled, sample_weight)
        return (1 - alpha) * loss + alpha * taught

    def _teacher_logits(self, images, y):
        if self._teacher is not None:
            return ops.stop_gradient(self._teacher.logits(images))
        if not isinstance(y, dict):
            raise ValueError(
                "Distillation without a teacher needs its logits: pass fit a dict with "
                "'labels' and 'teacher_logits' instead of the labels."
            )
        return y["teacher_logits"]

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        logits = y_pred["logits"] if isinstance(y_pred, dict) else y_pred
        return super().compute_metrics(x, _labels(y), logits, sample_weight)

    def resized(self, input_shape: tuple[int, int, int], resize: str = "google"):
        """Return the same training for images of another size.

        Args:
            input_shape: `(height, width, channels)` of the new images.
            resize: convention for resizing position embeddings.

        Returns:
            A new, uncompiled `Distillation` with the same teacher.
        """
        return self._with_student(self.student.resized(input_shape, resize))

    def resized_values(self, values: dict[str, Any], model: Any, resize: str = "google"):
        """Resize the position embeddings among some values; see `ViT.resized_values`."""
        return self.student.resized_values(values, model.student, resize)

    def _with_student(self, student):
        return type(self)(student, self.teacher, **self._arguments, name=self.name)

    def weights_by_path(self):
        """Return the weights of the student by their paths within the student.

        Returns:
            Dict from path to `keras.Variable`.
        """
        return self.student.weights_by_path()

    def get_config(self):
        student, teacher = (
            None if model is None else keras.saving.serialize_keras_object(model)
            for model in (self.student, self.teacher)
        )
        own = {"student": student, "teacher": teacher, "name": self.name}
        return {**own, **self._arguments}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        models = {
            part: keras.saving.deserialize_keras_object(
                config[part], custom_objects=custom_objects
            )
            for part in ("student", "teacher")
            if config[part] is not None
        }
        return cls(**{**config, **models})


class _Teacher:
    """Frozen classifier that computes logits for the images of a student."""

    def __init__(self, model, student):
        _check_teacher(model, student)
        self.input = TeacherInput(
            student.input_shape[1:],
            student.preprocessor,
            model.input_shape[1:],
            getattr(model, "preprocessor", None),
        )
        model.trainable = False
        self.model = model
        self.activation = _activation(model)

    def logits(self, images):
        outputs = self.model(self.input(images), training=False)
        outputs = ops.cast(outputs, "float32")
        if self.activation != "softmax":
            return outputs
        return ops.log(ops.maximum(outputs, keras.config.epsilon()))


def _labels(y):
    return y["labels"] if isinstance(y, dict) else y


def _heads(student):
    """Return the symbolic outputs of a student in training."""
    names = [layer.name for layer in student.layers]
    logits = own = taught = student.outputs[0]
    if "distillation_classifier" in names:
        own = student.get_layer("classifier").output
        taught = student.get_layer("distillation_classifier").output
    return {"logits": logits, "class_logits": own, "distillation_logits": taught}


def _activation(model):
    """Return the name of the activation that computes the outputs of a model."""
    if isinstance(model, RestorableModel):
        return model.get_config()["classifier_activation"]
    last = model.layers[-1]
    if isinstance(last, keras.Model):
        return _activation(last)
    if isinstance(last, keras.layers.Softmax):
        return "softmax"
    return getattr(getattr(last, "activation", None), "__name__", None)


def _check_student(student: Any) -> None:
    """Raise a `ValueError` unless a student is a classifier that returns logits."""
    if not isinstance(student, RestorableModel):
        raise ValueError(
            "student must be a keras_vit classifier, such as a ViT; received "
            f"{student!r}."
        )
    config = student.get_config()
    activation = config["classifier_activation"]
    if not config["include_top"] or activation is not None:
        raise ValueError(
            "The student must return logits: build it with include_top=True and "
            "classifier_activation=None; received include_top="
            f"{config['include_top']} and classifier_activation={activation!r}."
        )


def _check_teacher(teacher: Any, student: Any) -> None:
    """Raise a `ValueError` unless a teacher has the classes of the student."""
    if not isinstance(teacher, keras.Model) or not hasattr(teacher, "input_shape"):
        raise ValueError(
            "teacher must be a built keras.Model with one input, images; received "
            f"{teacher!r}."
        )
    if teacher is student:
        raise ValueError("The teacher is the student: pass another model.")
    preprocessor = getattr(teacher, "preprocessor", None)
    if not isinstance(preprocessor, Preprocessor | None):
        raise ValueError(
            f"The teacher {teacher.name!r} has a preprocessor of its own kind, a "
            f"{type(preprocessor).__name__}: pass a model that takes pixels 0 to 255, "
            "whose first layers do the same."
        )
    config = teacher.get_config() if isinstance(teacher, RestorableModel) else {}
    shape, classes = teacher.output_shape, student.output_shape[-1]
    if not config.get("include_top", True) or not isinstance(shape, tuple):
        raise ValueError(
            "The teacher must be a classifier with one output; received "
            f"{teacher.name!r} with outputs of shape {shape}, which are features."
        )
    if len(shape) != 2 or shape[-1] != classes:
        raise ValueError(
            f"The teacher {teacher.name!r} returns outputs of shape {shape}, and the "
            f"student has {classes} classes: both must have the same classes."
        )
    if _activation(teacher) not in (None, "linear", "softmax"):
        raise ValueError(
            "The teacher must return logits or the probabilities of a softmax; its last "
            f"activation is {_activation(teacher)!r}."
        )
    names, own = config.get("class_names"), student.get_config().get("class_names")
    if names is not None and own is not None:
        remedy = "Use a teacher of the same classes in the same order."
        check_class_names("the student", own, "the teacher", names, remedy)
