"""Models and optimizers of configs whose variables have shapes, but no values."""

import keras

import keras_vit
from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.training import compilation, networks
from keras_vit.training import config as configs
from keras_vit.training.known_sets import known_set

# Number of classes of unknown sets without `model.arguments.classes`.
CLASSES = 1000


def abstract_model(config: configs.Config) -> keras_vit.ViT:
    """Build the network of a config without memory for its weights.

    The model cannot be called. It has the arguments, layers, and shapes of the weights of
    the one that is trained.

    Args:
        config: config of classification by a ViT.

    Raises:
        ValueError: the config trains something else than a whole ViT from random weights,
            or an argument of the network is invalid.

    Example:

    >>> from keras_vit.training import config as configs
    >>> from keras_vit.training.abstract_model import abstract_model
    >>> config = configs.override(
    ...     configs.load("digits_vit"), ["model.arguments.num_layers=2"])
    >>> abstract_model(config).count_params()
    190254
    """
    _check(config)
    found = known_set(config)
    classes = CLASSES if found is None else found.classes
    settled = {
        "classes": config.model.arguments.get("classes", classes),
        "classifier_activation": None,
    }
    # Zeros because the initial values would be drawn even though nothing stores them.
    with keras.StatelessScope(initialize_variables=False), checkpoint_follows():
        model = networks.network(config, **settled)
    if type(model) is not keras_vit.ViT:
        raise ValueError(
            f"model.architecture={config.model.architecture!r} is a "
            f"{type(model).__name__}; the memory of a step is known for ViT only. Use "
            "keras-vit pretrain CONFIG --dry-run to measure it."
        )
    return model


def abstract_optimizer(
    model: keras.Model, config: configs.Config
) -> keras.optimizers.Optimizer:
    """Build the optimizer of a config for an abstract model, without memory.

    Args:
        model: as returned by `abstract_model`.
        config: its config.

    Raises:
        ValueError: the settings of the optimizer are invalid.

    Example:

    >>> from keras_vit.training import config as configs
    >>> from keras_vit.training.abstract_model import abstract_model, abstract_optimizer
    >>> config = configs.load("digits_vit")
    >>> model = abstract_model(config)
    >>> variables = abstract_optimizer(model, config).variables
    >>> [tuple(v.shape) for v in variables if "classifier_kernel" in v.path]
    [(96, 10), (96, 10)]
    """
    optimizer = compilation.make_optimizer(
        model, config.optimization, config.optimization.learning_rate
    )
    # Under TensorFlow, the default is an attribute of the value.
    optimizer._var_key = id
    with keras.StatelessScope(initialize_variables=False):
        optimizer.build(model.trainable_variables)
    return optimizer


def _check(config):
    """Raise unless all weights of a network with random weights are trained."""
    expected = (
        ("objective", config.objective, "classification"),
        ("model.weights", config.model.weights, None),
        ("distillation.teacher", config.distillation.teacher, None),
        ("lora.rank", config.lora.rank, None),
        ("adaptive.ponder_weight", config.adaptive.ponder_weight, None),
        ("flexible.patch_sizes", config.flexible.patch_sizes, ()),
        ("resolutions", config.resolutions, ()),
        ("optimization.frozen", config.optimization.frozen, ()),
        ("optimization.unfreeze", config.optimization.unfreeze, ()),
    )
    for key, value, needed in expected:
        if value != needed:
            raise ValueError(
                f"A plan needs {key}={needed!r}, because only the memory of training a "
                f"whole classifier from random weights is known; received {value!r}. "
                f"Use --set {key}={needed}, or measure the run: keras-vit pretrain "
                "CONFIG --dry-run."
            )
