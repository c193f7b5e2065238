"""Big Transfer (BiT): the ResNets that ViT is compared with."""

import os
from collections.abc import Callable, Sequence
from typing import Any

import keras

from keras_vit.choices import check_choice
from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.layers import (
    GroupNorm,
    PreActivationUnit,
    Preprocessor,
    StandardizedConv2D,
)
from keras_vit.layers.big_transfer import ZeroPaddedMaxPool
from keras_vit.layers.resnet import EPSILONS
from keras_vit.models.arguments import (
    check_image_shape,
    check_preprocessor,
    check_ranges,
)
from keras_vit.models.convolutional import (
    ConvolutionalModel,
    check_pooling,
    pooled_outputs,
)
from keras_vit.models.loading import WeightLoader
from keras_vit.models.variants import named_variant
from keras_vit.weights.source import Source


@keras.saving.register_keras_serializable(package="keras_vit")
class BiT(ConvolutionalModel):
    """ResNet-v2 of Big Transfer, the convolutional network that ViT is compared with.

    Kernels are standardized and norms are group norms, so the output for an image does
    not depend on the rest of its batch. The named variants (`BiTR50x1`, ...) have
    predefined sizes. It is a functional Keras model with the interface of `ViT`:
    `preprocessor`, `resized`, `save`, `load_checkpoint`, recipes and exports work alike.

    The input is a batch of images `(b, h, w, c)` of any size, floats that
    `model.preprocessor` computes from pixel values 0 to 255.

    The output is `(b, classes)` in float32: probabilities, or the result of another
    `classifier_activation`. With `include_top=False` it is the pooled features `(b, d)`
    in float32, and with `pooling=None` in addition the feature map
    `(b, ceil(h / 32), ceil(w / 32), d)` in the dtype of the policy; `d = channels[-1]`.

    Args:
        input_shape: `(height, width, channels)` of the images; may be rectangular.
        num_blocks: sequence of ints, number of units in each stage. Every stage except
            the first halves the sides of the feature map.
        channels: sequence of ints, number of channels of each stage.
        stem_channels: int, number of channels of the first convolution.
        classes: int, number of classes.
        class_names: None, or a list of str, the names of the classes; see `ViT`.
        include_top: bool, whether the model has a classifier.
        pooling: `"gap"`, or None with `include_top=False`.
        groups: int, number of groups in the norms; must divide `stem_channels` and a
            quarter of the channels of each stage.
        epsilons: `"bit"` or `"timm"`, the library whose small numbers are added to
            variances; see `ResNetStem`.
        classifier_activation: name of a Keras activation, or None for logits.
        classifier_bias: float, initial bias of the classifier.
        preprocessor: None for the default, or a `Preprocessor`; see `ViT`.
        weights: None for random weights, or a checkpoint; see `ViT`.
        head: with `weights`, `"keep"`, `"new"` or `"drop"`; see `ViT`.
        check_finite: with `weights`, bool, whether NaN and infinity raise an error.
        name: name of the model.
        dtype: dtype policy; None for the global policy. Statistics and the classifier
            are computed in float32 under every policy.

    Raises:
        ValueError: an argument is out of its range, or the checkpoint does not match the
            model.
        FileNotFoundError: the checkpoint does not exist.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.BiT(
    ...     input_shape=(40, 64, 3), num_blocks=(1, 1), channels=(32, 64),
    ...     stem_channels=16, groups=8, classes=10,
    ... )
    >>> pixels = keras.random.uniform((2, 40, 64, 3), maxval=255)
    >>> tuple(model(model.preprocessor(pixels)).shape)
    (2, 10)

    Reference: Big Transfer (arXiv:1912.11370) section 3 and its code.
    """

    _first_layer = "root"

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (224, 224, 3),
        num_blocks: Sequence[int] = (3, 4, 6, 3),
        channels: Sequence[int] = (256, 512, 1024, 2048),
        stem_channels: int = 64,
        classes: int = 1000,
        class_names: Sequence[str] | None = None,
        include_top: bool = True,
        pooling: str | None = "gap",
        groups: int = 32,
        epsilons: str = "bit",
        classifier_activation: str | None = "softmax",
        classifier_bias: float = 0.0,
        preprocessor: Preprocessor | None = None,
        weights: str | os.PathLike | Source | None = None,
        head: str = "keep",
        check_finite: bool = True,
        name: str | None = None,
        dtype: str | keras.DTypePolicy | None = None,
    ):
        loader = WeightLoader(weights, head, None, None, check_finite)
        config: dict[str, Any] = {
            "input_shape": input_shape,
            "num_blocks": num_blocks,
            "channels": channels,
            "stem_channels": stem_channels,
            "classes": classes,
            "class_names": class_names,
            "include_top": include_top and head != "drop",
            "pooling": pooling,
            "groups": groups,
            "epsilons": epsilons,
            "classifier_activation": classifier_activation,
            "classifier_bias": classifier_bias,
        }
        _check(config)
        for argument in ("input_shape", "num_blocks", "channels"):
            config[argument] = tuple(config[argument])
        if class_names is not None:
            config["class_names"] = list(class_names)
        if preprocessor is not None:
            check_preprocessor(preprocessor, config["input_shape"])
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        loader.compare(config)
        with checkpoint_follows(weights is not None):
            inputs, outputs = _connect(config, policy)
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy = policy  # Functional models have no argument `dtype`.
        self._constructor_config = config
        self._fixed: set[str] = set()
        self.grid_shape = self.get_layer("activation").output.shape[1:3]
        loader.load(self)
        if preprocessor is None:
            preprocessor = loader.preprocessor((input_shape[0], input_shape[1]), {})
            preprocessor = preprocessor.with_channels(input_shape[2])
        self.preprocessor = preprocessor


def _check(config):
    """Raise a `ValueError` unless the arguments of a `BiT` are possible."""
    check_image_shape(config["input_shape"])
    check_ranges(config)
    check_choice("epsilons", config["epsilons"], tuple(EPSILONS))
    check_pooling(config)
    blocks, channels, groups = (config[n] for n in ("num_blocks", "channels", "groups"))
    numbers = [*blocks, *channels, config["stem_channels"], groups]
    if (
        not blocks
        or len(blocks) != len(channels)
        or not all(isinstance(number, int) and number > 0 for number in numbers)
    ):
        raise ValueError(
            "num_blocks and channels must have one positive int for each stage, and "
            f"stem_channels and groups must be positive ints; received {blocks=}, "
            f"{channels=}, stem_channels={config['stem_channels']}, {groups=}."
        )
    if config["stem_channels"] % groups or any(c % (4 * groups) for c in channels):
        raise ValueError(
            f"groups={groups} must divide stem_channels={config['stem_channels']}, and a "
            f"quarter of each of the channels {tuple(channels)}: pass another groups=..."
        )


def _connect(config, policy):
    """Connect the layers of a BiT, from images to predictions or features."""
    groups, epsilons = config["groups"], config["epsilons"]
    images = keras.Input(config["input_shape"], name="images")  # (b, h, w, c)
    root = StandardizedConv2D(
        config["stem_channels"],
        kernel_size=7,
        strides=2,
        epsilons=epsilons,
        padding="symmetric",
        name="root",
        dtype=policy,
    )
    x = root(images)
    x = ZeroPaddedMaxPool(name="root_pool", dtype=policy)(x)  # (b, h / 4, w / 4, d)
    stages = zip(config["num_blocks"], config["channels"], strict=True)
    for stage, (count, channels) in enumerate(stages):
        for unit in range(count):
            strides = 2 if stage and not unit else 1
            own = {"name": f"stage_{stage}_unit_{unit}", "dtype": policy}
            x = PreActivationUnit(channels, strides, groups, epsilons, **own)(x)
    x = GroupNorm(groups, EPSILONS[epsilons].norm, name="norm", dtype=policy)(x)
    x = keras.layers.Activation("relu", name="activation", dtype=policy)(x)
    return images, pooled_outputs(x, config, policy)


# Number of units in each stage, and factor of all widths (arXiv:1912.11370).
BIT_SIZES = {
    "BiTR50x1": ((3, 4, 6, 3), 1),
    "BiTR50x3": ((3, 4, 6, 3), 3),
    "BiTR101x1": ((3, 4, 23, 3), 1),
    "BiTR101x3": ((3, 4, 23, 3), 3),
    "BiTR152x2": ((3, 8, 36, 3), 2),
    "BiTR152x4": ((3, 8, 36, 3), 4),
}


def _variant(model_name: str) -> Callable[..., BiT]:
    num_blocks, width = BIT_SIZES[model_name]
    sizes = {
        "num_blocks": num_blocks,
        "channels": tuple(width * c for c in (256, 512, 1024, 2048)),
        "stem_channels": 64 * width,
    }
    return named_variant(model_name, BiT, sizes)


BiTR50x1 = _variant("BiTR50x1")
BiTR50x3 = _variant("BiTR50x3")
BiTR101x1 = _variant("BiTR101x1")
BiTR101x3 = _variant("BiTR101x3")
BiTR152x2 = _variant("BiTR152x2")
BiTR152x4 = _variant("BiTR152x4")
