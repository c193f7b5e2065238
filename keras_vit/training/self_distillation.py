"""Self-distillation without labels (DINO): a network that learns from its own average."""

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit import processes
from keras_vit.data.multi_crop import GLOBAL, GLOBAL_CROPS, LOCAL, MultiCrop
from keras_vit.layers import Patches
from keras_vit.layers.patches import grid_shape
from keras_vit.models.adapt import copied
from keras_vit.models.vit import ViT
from keras_vit.training.backbone_model import UnlabeledModel
from keras_vit.training.distillation_head import DistillationHead
from keras_vit.training.flexible_patches import check_resizable, positions_on
from keras_vit.training.masking import float_dtype


@keras.saving.register_keras_serializable(package="keras_vit")
class SelfDistillation(UnlabeledModel):
    """Self-supervised training of a ViT by distillation from its own moving average.

    A student and a teacher, the exponential moving average of the student, each map crops
    of an image to a distribution over `prototypes`. The student sees two large and
    several small crops, the teacher only the large ones. The loss is the cross-entropy of
    the student's distribution for one crop and the teacher's for another one, averaged
    over all such pairs and then over images. The teacher's outputs are centered by their
    moving average and sharpened by a low temperature, so that neither one prototype nor
    the uniform distribution is the answer to every image.

    Compile the model with an optimizer and without a loss. Training updates the student
    `backbone`, and the teacher at the beginning of the next step. Save the backbone of
    the teacher, whose features are better: `model.teacher().save("name.keras")`.

    Input: a dict of crops as `backbone.preprocessor` scales them, `global_crops`
    `(b, 2, h, w, c)` and `local_crops` `(b, n, h', w', c)`, which
    `keras_vit.data.training_batches(..., crops=keras_vit.data.MultiCrop(...))` returns.
    `views` makes one from whole images for evaluation.
    Output: a dict with `"student"` `(b, 2 + n, prototypes)`, logarithms of probabilities,
    and `"teacher"` `(b, 2, prototypes)`, probabilities; float32 under every policy.

    Args:
        backbone: a `ViT` built with `include_top=False`, a `pooling`, and learned or no
            positions, without a `stem`. It is the student and is trained in place.
        crops: a `MultiCrop`, whose `local_size` the patch size must divide.
        prototypes: int, number of outputs of the projection heads.
        head_dim: int, width of their hidden layers.
        bottleneck_dim: int, width of the normalized features before their last layer.
        steps: int, number of training steps, over which the momentum grows to 1.
        momentum: float, momentum of the teacher in the first step.
        teacher_temperature: float, temperature of the teacher after its warm-up.
        warmup_temperature: float, temperature of the teacher in the first step.
        student_temperature: float, temperature of the student.
        center_momentum: float, momentum of the center of the teacher's outputs.
        warmup: float, fraction of the steps in which the temperature grows linearly.
        frozen: float, fraction of the steps in which the last layer of the student's head
            does not train.
        name: name of the model.

    Raises:
        ValueError: the backbone is not supported, the patch size does not divide the
            crops, or a number is out of its range.

    Example:

    >>> import keras, keras_vit
    >>> from keras_vit.training import AdamW, SelfDistillation
    >>> backbone = keras_vit.ViT(
    ...     input_shape=(16, 24, 3), patch_size=8, hidden_dim=24, num_layers=1,
    ...     num_heads=2, mlp_dim=48, include_top=False,
    ... )
    >>> model = SelfDistillation(
    ...     backbone, keras_vit.data.MultiCrop(local_crops=3, local_size=(8, 16)),
    ...     prototypes=32, head_dim=24, bottleneck_dim=8, steps=10,
    ... )
    >>> model.compile(AdamW(1e-3))
    >>> crops = model.views(keras.random.uniform((4, 16, 24, 3)))
    >>> history = model.fit(crops, batch_size=2, verbose=0).history
    >>> sorted(history)
    ['entropy', 'loss']
    >>> tuple(model.teacher()(crops["global_crops"][:, 0]).shape)
    (4, 24)

    Reference: DINO (arXiv:2104.14294). Deviation: the teacher is updated at the beginning
    of the next step, so a saved teacher does not yet have the student's last step.
    """

    def __init__(
        self,
        backbone: ViT,
        crops: MultiCrop | dict[str, Any],
        prototypes: int = 65536,
        head_dim: int = 2048,
        bottleneck_dim: int = 256,
        steps: int = 100_000,
        momentum: float = 0.996,
        teacher_temperature: float = 0.07,
        warmup_temperature: float = 0.04,
        student_temperature: float = 0.1,
        center_momentum: float = 0.9,
        warmup: float = 0.3,
        frozen: float = 0.01,
        name: str | None = None,
    ):
        if isinstance(crops, dict):
            crops = MultiCrop(**{k: _tuple(v) for k, v in crops.items()})
        arguments = {k: v for k, v in locals().items() if k in _NUMBERS}
        _check_backbone(backbone)
        _check_numbers(arguments)
        shapes = crops.shapes(backbone.input_shape[1:])
        grid_shape(shapes[LOCAL][1:], backbone.get_layer("patches").patch_size)
        inputs = {key: keras.Input(shape, name=key) for key, shape in shapes.items()}
        network = _Distillation(
            backbone, arguments, dtype=float_dtype(backbone), name="distillation"
        )
        outputs = network(inputs[GLOBAL], inputs[LOCAL])
        super().__init__(backbone, inputs, outputs, arguments, name)
        self.crops = crops
        self.network = network
        self.entropy = keras.metrics.Mean(name="entropy")

    @property
    def input_shape(self):
        """The shape of the large crops, which is that of the backbone's images."""
        return self.backbone.input_shape

    def views(self, images: Any) -> dict[str, Any]:
        """Return every image as each of its crops, for evaluation.

        Args:
            images: `(b, h, w, c)` as returned by `backbone.preprocessor`.

        Returns:
            A dict as the model takes it. The small crops are the whole image, resized.
        """
        return whole_views(images, self.crops, ops)

    def teacher(self) -> ViT:
        """Return a new model with the weights of the teacher's backbone."""
        paths = self.backbone.weights_by_path()
        averages = self.network.averages()
        values = {
            path: ops.convert_to_numpy(averages.get(id(weight), weight))
            for path, weight in paths.items()
        }
        return copied(self.backbone, self.backbone.get_config(), values)

    def compute_loss(
        self, x=None, y=None, y_pred=None, sample_weight=None, training=True
    ):
        losses = cross_entropy(y_pred["teacher"], y_pred["student"])
        if sample_weight is not None:
            losses = losses * ops.cast(sample_weight, losses.dtype)
        return ops.mean(losses)

    def compute_metrics(self, x, y, y_pred, sample_weight=None):
        p = y_pred["teacher"]
        entropy = -ops.sum(p * ops.log(ops.maximum(p, 1e-30)), axis=-1)
        self.entropy.update_state(ops.mean(entropy, axis=-1), sample_weight)
        return self.get_metrics_result()

    def _check_data(self, data):
        data = getattr(data, "element_spec", data)
        while isinstance(data, list | tuple) and data:
            data = data[0]
        shapes = self.crops.shapes(self.input_shape[1:])
        if not isinstance(data, dict) or set(data) != set(shapes):
            raise ValueError(
                f"The model takes a dict of {' and '.join(shapes)}, which "
                "training_batches(..., crops=MultiCrop(...)) or model.views(images) "
                f"returns; received {type(data).__name__}."
            )
        for key, shape in shapes.items():
            if tuple(data[key].shape)[1:] != shape:
                raise ValueError(
                    f"{key} must have shape {(None, *shape)}; received "
                    f"{tuple(data[key].shape)}."
                )

    def weights_by_path(self):
        """Return the weights by their paths within the model.

        The weights of the backbone come first and keep their paths in the backbone.

        Returns:
            Dict from path to `keras.Variable`.
        """
        return self._weights_beside_backbone(f"{self.network.path}/")

    def get_config(self):
        crops = {k: getattr(self.crops, k) for k in MultiCrop.__dataclass_fields__}
        return {**super().get_config(), "crops": crops}


def whole_views(images: Any, crops: MultiCrop, numerics: Any) -> dict[str, Any]:
    """Return every image as each of its crops; see `SelfDistillation.views`.

    Args:
        images: `(b, h, w, c)`.
        crops: a `MultiCrop`.
        numerics: `keras.ops`, or TensorFlow in a data pipeline.
    """
    resize = numerics.image.resize
    small = resize(images, crops.local_size, "bilinear", antialias=True)
    counts = {GLOBAL: (images, GLOBAL_CROPS), LOCAL: (small, crops.local_crops)}
    return {
        key: numerics.stack([view] * count, axis=1)
        for key, (view, count) in counts.items()
    }


def cross_entropy(teacher: Any, student: Any) -> Any:
    """Return the mean cross-entropy of all pairs of different crops.

    Args:
        teacher: `(b, t, k)`, probabilities for the large crops.
        student: `(b, s, k)`, logarithms of probabilities, first for the same crops.

    Returns:
        `(b,)`.

    Reference: DINO (arXiv:2104.14294) equation 3.
    """
    pairs = -ops.einsum("btk,bsk->bts", teacher, student)
    count = teacher.shape[1]
    different = np.ones((count, student.shape[1]), "float32")
    different[:, :count] -= np.eye(count, dtype="float32")
    different = ops.convert_to_tensor(different / different.sum(), dtype=pairs.dtype)
    return ops.sum(pairs * different, axis=(1, 2))


class _Distillation(keras.layers.Layer):
    """Layer that runs the student and the teacher, and updates teacher and center.

    The weights of the teacher are copies of the student's that do not train. The teacher
    runs the layers of the student with these values instead.
    """

    def __init__(self, backbone, numbers, **kwargs):
        super().__init__(**kwargs)
        self.backbone = backbone
        self.numbers = numbers
        self.head = DistillationHead(
            numbers["prototypes"],
            numbers["head_dim"],
            numbers["bottleneck_dim"],
            dtype=self.dtype_policy,
            name="head",
        )
        names = [layer.name for layer in backbone.layers]
        self._rest = backbone.layers[names.index("patch_encoder") + 1 :]

    def build(self, global_crops_shape, local_crops_shape):
        self.head.build((None, self.backbone.output_shape[-1]))
        self._student = [*self.backbone.weights, *self.head.weights]
        paths = {id(w): path for path, w in self.backbone.weights_by_path().items()}
        self._teacher = []
        for weight in self._student:
            value = processes.whole(weight)
            path = paths.get(id(weight), f"head/{weight.path.partition('/head/')[2]}")
            average = self.add_weight(
                name=f"teacher/{path}".replace("/", "-"),
                shape=weight.shape,
                initializer=lambda shape, dtype=None, value=value: ops.cast(value, dtype),
                dtype=weight.dtype,
                trainable=False,
            )
            self._teacher.append(average)
        count = self.numbers["prototypes"]
        self.center = self.add_weight(
            name="center", shape=(count,), initializer="zeros", trainable=False
        )
        # Not a float, which cannot count beyond 2 ** 24.
        self.step = self.add_weight(
            name="step", shape=(), initializer="zeros", dtype="int32", trainable=False
        )

    def averages(self):
        """Return the weights of the teacher by the ids of the student's weights."""
        pairs = zip(self._student, self._teacher, strict=True)
        return {id(weight): average for weight, average in pairs}

    def call(self, global_crops, local_crops, training=None):
        numbers = self.numbers
        step = ops.convert_to_tensor(self.step)
        if training:
            self._update_teacher(step)
        center = ops.convert_to_tensor(self.center)
        outputs = self._teacher_outputs(global_crops)  # (b, 2, k)
        temperature = teacher_temperature(step, numbers)
        teacher = ops.softmax((outputs - center) / temperature, axis=-1)
        frozen = ops.logical_and(
            bool(training), step < round(numbers["frozen"] * numbers["steps"])
        )
        both = global_crops, local_crops
        student = [self._outputs(crops, training, frozen) for crops in both]
        student = ops.concatenate(student, axis=1) / numbers["student_temperature"]
        if training:
            m = numbers["center_momentum"]
            mean = ops.mean(outputs, axis=(0, 1))
            self.center.assign(m * center + (1 - m) * mean)
            self.step.assign(step + 1)
        return {"student": ops.log_softmax(student, axis=-1), "teacher": teacher}

    def _update_teacher(self, step):
        m = teacher_momentum(ops.maximum(step - 1, 0), self.numbers)
        for weight, average in zip(self._student, self._teacher, strict=True):
            value = ops.stop_gradient(ops.convert_to_tensor(weight.value))
            ratio = ops.cast(m, average.dtype)
            average.assign(ratio * average.value + (1 - ratio) * value)

    def _teacher_outputs(self, crops):
        pairs = zip(self._student, self._teacher, strict=True)
        mapping = [(weight, average.value) for weight, average in pairs]
        with keras.StatelessScope(state_mapping=mapping):
            outputs = self._outputs(crops, training=False, frozen=False)
        return ops.stop_gradient(outputs)

    def _outputs(self, crops, training, frozen):
        """Return the outputs of the head for crops `(b, n, h, w, c)`: `(b, n, k)`."""
        _, count, *shape = crops.shape
        images = ops.reshape(crops, (-1, *shape))
        x = self._features(images, training)
        x = self.head(x, frozen=frozen)
        return ops.reshape(x, (-1, count, self.numbers["prototypes"]))

    def _features(self, images, training):
        if images.shape[1:] == self.backbone.input_shape[1:]:
            return self.backbone(images, training=training)
        encoder, patches = (
            self.backbone.get_layer(name) for name in ("patch_encoder", "patches")
        )
        grid = grid_shape(images.shape[1:], patches.patch_size)
        own = Patches(patches.patch_size, dtype=patches.dtype_policy)
        tokens = encoder.projection(own(images))
        positions = positions_on(encoder.positions, grid)
        x = encoder.add_prefix_and_positions(tokens, positions)
        for layer in self._rest:
            x = layer(x)
        return x

    def compute_output_spec(self, global_crops, local_crops, training=None):
        batch, count = global_crops.shape[0], self.numbers["prototypes"]
        views = {"student": GLOBAL_CROPS + local_crops.shape[1], "teacher": GLOBAL_CROPS}
        return {
            name: keras.KerasTensor((batch, number, count), self.compute_dtype)
            for name, number in views.items()
        }


def teacher_momentum(step: Any, numbers: dict[str, Any]) -> Any:
    """Return the momentum of the teacher, which grows to 1 along a half cosine.

    Args:
        step: int tensor, the number of steps before.
        numbers: dict with `momentum`, the first value, and `steps`.

    Returns:
        float32 tensor.

    Reference: DINO (arXiv:2104.14294) section 3.1.
    """
    part = ops.minimum(ops.cast(step, "float32") / numbers["steps"], 1.0)
    return 1 - (1 - numbers["momentum"]) * (1 + ops.cos(math.pi * part)) / 2


def teacher_temperature(step: Any, numbers: dict[str, Any]) -> Any:
    """Return the temperature of the teacher, which grows linearly in its warm-up.

    Args:
        step: int tensor, the number of steps before.
        numbers: dict with `warmup_temperature`, `teacher_temperature`, `warmup` and
            `steps`.

    Returns:
        float32 tensor.
    """
    first, last = numbers["warmup_temperature"], numbers["teacher_temperature"]
    length = max(1.0, numbers["warmup"] * numbers["steps"])
    part = ops.minimum(ops.cast(step, "float32") / length, 1.0)
    return first + (last - first) * part


# Arguments that are numbers: the least and the largest value, and whether it is an int.
_NUMBERS = {
    "prototypes": (2, 2**24, True),
    "head_dim": (1, 2**20, True),
    "bottleneck_dim": (1, 2**20, True),
    "steps": (1, 2**31 - 1, True),
    "momentum": (0, 1, False),
    "teacher_temperature": (1e-3, 1e3, False),
    "warmup_temperature": (1e-3, 1e3, False),
    "student_temperature": (1e-3, 1e3, False),
    "center_momentum": (0, 1, False),
    "warmup": (0, 1, False),
    "frozen": (0, 1, False),
}


def _tuple(value):
    return tuple(value) if isinstance(value, list) else value


def _check_numbers(arguments):
    for name, (least, most, whole) in _NUMBERS.items():
        value = arguments[name]
        kinds = int if whole else (int, float)
        right = isinstance(value, kinds) and not isinstance(value, bool)
        if not right or not least <= value <= most:
            raise ValueError(
                f"{name} must be {'an int' if whole else 'a number'} from {least} to "
                f"{most}; received {value!r}."
            )


def _check_backbone(backbone: Any) -> None:
    """Raise a `ValueError` unless the backbone can be run on crops of another size."""
    settled = {"stem": None, "distillation_token": False, "token_reduction": None}
    check_resizable(backbone, "crops of two sizes", settled)
    config = backbone.resolved_config()
    if config["include_top"] or config["pooling"] is None:
        raise ValueError(
            "The backbone must end in pooled features: build it with include_top=False "
            f"and pooling='token' or 'gap'; received include_top={config['include_top']},"
            f" pooling={config['pooling']!r}."
        )
