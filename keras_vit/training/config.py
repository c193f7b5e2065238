"""Configs of training runs as typed dataclasses, with checks and overrides.

The families in `keras_vit/configs` define configs by name, and a user's own file defines
one as `CONFIG`. `--set optimization.learning_rate=3e-4` changes one value.
"""

import ast
import dataclasses
import difflib
import functools
import importlib
import json
import pathlib
import pkgutil
import traceback
import types
import typing
from typing import Any

from keras_vit.data.augment import Augmentation
from keras_vit.weights.tensor_file import check_regular_file, parse_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """Settings of the network.

    Attributes:
        architecture: name of a constructor of `keras_vit`: `ViTS16`, `T2TViT14`, `ViT`.
        arguments: arguments of the constructor. The run adds `classes` and the
            preprocessor.
        weights: None for random weights, or a checkpoint. It is anything that
            `keras_vit.load_checkpoint` reads; the model is built from it, and
            `arguments` override its own.
    """

    architecture: str = "ViTS16"
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """Settings of the data sets.

    Attributes:
        train: training set: `digits`, `tfds:NAME[:SPLIT]`, `folder:PATH`,
            `table:PATH[:SPLIT]` or `datasets:PATH[:SPLIT]`.
        validation: set that decides which checkpoint is best. `"split:0.1"` takes a
            tenth of the images of every class out of `train`, always the same ones;
            `"split:0.1:1"` takes others.
        test: set that is evaluated once, after training; None for none.
        data_dir: directory of the TFDS data sets; None for the default of TFDS.
        download: whether TFDS may download.
        unreadable: `"error"`, or `"skip"` to omit and count unreadable images.
        cache: whether to keep the undecoded images in memory.
        shuffle_buffer: number of images among which a shuffle draws; None for all.
        exif: whether to rotate images upright by their EXIF orientation. Evaluation,
            prediction and export of the run do the same.
        labels: `"single"`, one class per image; `"multi"`, any number of classes per
            image, each with its own probability; or `"regression"`, numbers. The last two
            are for tables.
        path_column: name of the column of a table with the paths of the images.
        label_column: name of the column with the labels, or several names separated by
            commas.
        scale: mean and standard deviation that standardize each value of a regression;
            None for those of the training set.
        class_weights: None, or `"balanced"` to weight each training image by the inverse
            of the number of images in its class.
        sampling: None, or `"balanced"` to draw equally many images of every class in each
            epoch, which repeats images of small classes and leaves out images of large
            classes.
    """

    train: str = "digits:train"
    validation: str = "digits:validation"
    test: str | None = None
    data_dir: str | None = None
    download: bool = False
    unreadable: str = "error"
    cache: bool = True
    shuffle_buffer: int | None = None
    exif: bool = True
    labels: str = "single"
    path_column: str = "path"
    label_column: str = "label"
    scale: tuple[tuple[float, float], ...] | None = None
    class_weights: str | None = None
    sampling: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """Settings of the optimizer, its learning-rate schedule and the loss.

    Attributes:
        optimizer: `"adamw"`, `"adam"` or `"sgd"`.
        learning_rate: peak learning rate of the schedule.
        schedule: `"cosine"`, `"linear"`, `"rsqrt"` or `"constant"`.
        warmup_steps: updates from `warmup_start` to the peak; below 1.0, a fraction of
            all updates.
        warmup_start: learning rate of the first update.
        final_learning_rate: learning rate of the last update.
        cooldown_steps: updates of a linear decrease to the final learning rate; below
            1.0, a fraction of all updates.
        beta_1: decay rate of the first moment (Adam, AdamW).
        beta_2: decay rate of the second moment (Adam, AdamW).
        momentum: momentum of SGD.
        weight_decay: weight decay of kernels; other weights have none.
        scaled_decay: whether the learning rate scales the weight decay, as in AdamW. If
            not, only the shape of the schedule does, as in big_vision.
        clip_norm: largest norm of the whole gradient; None for no clipping.
        layer_decay: learning rate of each block relative to the block above it.
        backbone_multiplier: learning rate of all weights except the head's, relative to
            the head's. It has no effect on LoRA, whose factors have the head's rate.
        frozen: prefixes of the paths of weights that do not train. `"block_0/attention"`
            and `"block_1"` match only those layers, `"block_"` all blocks, `"backbone"`
            everything except the head and the factors of LoRA. All other weights train,
            even if the checkpoint had them frozen.
        accumulation_steps: number of batches whose gradients make one update.
        ema: momentum of the weight average that is evaluated and saved; None for none.
        loss: `"softmax"` or `"sigmoid"`, for one class per image. The loss of
            multi-label images is always the sigmoid's, that of regression the mean
            squared error.
        label_smoothing: fraction of each label that is replaced, under a softmax by
            equal parts of all classes, under a sigmoid by one half. Not for regression.
    """

    optimizer: str = "adamw"
    learning_rate: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int | float = 0.1
    warmup_start: float = 0.0
    final_learning_rate: float = 0.0
    cooldown_steps: int | float = 0
    beta_1: float = 0.9
    beta_2: float = 0.999
    momentum: float = 0.9
    weight_decay: float = 0.0
    scaled_decay: bool = True
    clip_norm: float | None = 1.0
    layer_decay: float = 1.0
    backbone_multiplier: float = 1.0
    frozen: tuple[str, ...] = ()
    accumulation_steps: int = 1
    ema: float | None = None
    loss: str = "softmax"
    label_smoothing: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRA:
    """Settings of fine-tuning with LoRA; see `keras_vit.lora.enable`.

    Only the low-rank factors and the head train.

    Attributes:
        rank: rank of the updates; None for no LoRA.
        alpha: factor of the updates, divided by the rank; None for the rank.
        layers: parts of the paths of the dense layers that get updates, such as
            `"attention/qkv"` or `"block_11"`.
    """

    rank: int | None = None
    alpha: float | None = None
    layers: tuple[str, ...] = ("attention", "mlp")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Masking:
    """Settings of pretraining without labels: masked patches and MAE's decoder.

    Attributes:
        ratio: fraction of the patches that is masked: 0.5 in masked patch prediction's
            paper, 0.75 in MAE's.
        decoder_dim: width of MAE's decoder.
        decoder_layers: number of blocks of MAE's decoder.
        decoder_heads: number of attention heads of MAE's decoder.
    """

    ratio: float = 0.5
    decoder_dim: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class FlexibleSizes:
    """Settings of training with random patch sizes (FlexiViT).

    Attributes:
        patch_sizes: patch sizes that the steps draw from; empty for the model's own in
            every step. See `keras_vit.training.FlexiblePatches`.
        image_size: side of the images in pixels; None for the model's own.
        evaluation_patch_size: patch size of the evaluations during training; None for the
            middle one.
    """

    patch_sizes: tuple[int, ...] = ()
    image_size: int | None = None
    evaluation_patch_size: int | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Config of a training run.

    Attributes:
        about: description, with the paper and any deviation from it.
        command: command that starts the run.
        hardware: hardware that the run is meant for, and the time it takes there.
        expected: metric that the paper or its authors' code reports.
        measured: `measured on DATE: ...`, or `not measured here`.
        objective: `"classification"`, `"masked_patch_prediction"` or `"mae"`.
        masking: settings of `"masked_patch_prediction"` and `"mae"`.
        model: the network.
        flexible: random patch sizes of `"classification"`.
        lora: low-rank updates of a frozen backbone in `"classification"`.
        data: the data sets.
        augmentation: changes to the training images.
        optimization: optimizer, learning-rate schedule and loss.
        epochs: number of passes over the training set.
        steps: number of batches; None for `epochs` passes.
        batch_size: images in a batch; an update uses `accumulation_steps` batches.
        seed: seed of the initial weights, the order of images and the augmentation.
        dtype: dtype policy: `"float32"` or `"mixed_bfloat16"`.
        steps_per_execution: batches that TensorFlow processes in one call; None for the
            default, 8.
        checkpoint_steps: batches between checkpoints; None for an epoch.
        early_stopping: number of checkpoints without a better validation result after
            which training stops; None to train all steps.
        trackers: where the metrics of every checkpoint are logged, besides log.csv:
            `"tensorboard"`, `"wandb"` or `"mlflow"`, or several of them.
        resolutions: progressive resizing: pairs of a fraction of the batches and a side
            in pixels. In `((0.5, 160), (0.5, 224))` the fractions add up to 1. Empty for
            the model's own size throughout.
        jit_compile: whether XLA compiles the step under TensorFlow. On CPUs this is
            faster for plain ViTs and slower for convolutions.
        grid: values that `keras-vit sweep` tries, by key of the config.
    """

    about: str
    command: str
    hardware: str
    expected: str
    measured: str = "not measured here"
    objective: str = "classification"
    masking: Masking = Masking()
    model: Model = Model()
    flexible: FlexibleSizes = FlexibleSizes()
    lora: LoRA = LoRA()
    data: Data = Data()
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    optimization: Optimization = Optimization()
    epochs: int = 10
    steps: int | None = None
    batch_size: int = 128
    seed: int = 0
    dtype: str = "float32"
    steps_per_execution: int | None = None
    checkpoint_steps: int | None = None
    early_stopping: int | None = None
    trackers: tuple[str, ...] = ("tensorboard",)
    resolutions: tuple[tuple[float, int], ...] = ()
    jit_compile: bool = True
    grid: dict[str, Any] = dataclasses.field(default_factory=dict)


@functools.cache
def _packaged() -> dict[str, Config]:
    """Return the configs of all families in `keras_vit/configs`, by name."""
    package = importlib.import_module("keras_vit.configs")
    found: dict[str, Config] = {}
    for family in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        found.update(importlib.import_module(family.name).CONFIGS)
    return found


def names() -> list[str]:
    """Return the names of the configs in `keras_vit/configs`."""
    return sorted(_packaged())


def is_config(what: str) -> bool:
    """Return True for the name of a config or the path of a Python or JSON file.

    Args:
        what: the name or path.
    """
    return what.endswith((".py", ".json")) or what in _packaged()


def load(name_or_path: str) -> Config:
    """Return a config by its name in `keras_vit/configs` or from a file.

    Args:
        name_or_path: a name, the path of a Python file that sets `CONFIG` (it is
            executed), or the path of a run's `config.json`.

    Raises:
        ValueError: there is no config of that name (the message has the nearest names),
            or the file does not hold a valid config.
    """
    if name_or_path.endswith(".py"):
        return _from_python(name_or_path)
    if name_or_path.endswith(".json"):
        path = pathlib.Path(name_or_path)
        check_regular_file(name_or_path)
        values = parse_json(path.read_bytes(), name_or_path)
        try:
            return from_dict(values)
        except ValueError as error:
            raise ValueError(f"{name_or_path} is not a valid config: {error}") from None
    if name_or_path not in _packaged():
        near = difflib.get_close_matches(name_or_path, names(), n=3, cutoff=0.3)
        raise ValueError(
            f"No config is called {name_or_path!r}. Near: {', '.join(near) or 'none'}; "
            f"all: {', '.join(names())}. A config of your own is the path of a Python "
            "file: my_config.py."
        )
    return _packaged()[name_or_path]


def _from_python(path):
    """Execute a Python file and return its `CONFIG`, with every value checked."""
    if not pathlib.Path(path).exists():
        raise FileNotFoundError(
            f"{path} does not exist. keras-vit new-config NAME > {path} writes a "
            "file to start from."
        )
    check_regular_file(path)
    variables: dict[str, Any] = {"__name__": pathlib.Path(path).stem, "__file__": path}
    try:
        exec(compile(pathlib.Path(path).read_bytes(), path, "exec"), variables)
    except Exception as error:
        # Name the innermost line in the file itself, since the error may come from a
        # function that it calls.
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == path]
        reason = str(error)
        if isinstance(error, SyntaxError):
            lines, reason = [error.lineno], error.msg
        place = f"{path}, line {lines[-1]}" if lines and lines[-1] else path
        raise ValueError(f"{place}: {type(error).__name__}: {reason}") from error
    config = variables.get("CONFIG")
    if not isinstance(config, Config):
        received = type(config).__name__ if "CONFIG" in variables else "no CONFIG"
        raise ValueError(
            f"{path} must set CONFIG to a {Config.__module__}.Config; received "
            f"{received}. keras-vit new-config NAME prints a file to start from."
        )
    try:
        return from_dict(to_dict(config))
    except (TypeError, ValueError) as error:  # TypeError: not a value of JSON.
        raise ValueError(f"CONFIG in {path} is not valid: {error}") from None


def to_dict(config: Any) -> dict[str, Any]:
    """Return a config as nested dicts with types of JSON."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any], kind: type = Config) -> Any:
    """Return the config that `to_dict` converted to `values`, and check every value."""
    hints = typing.get_type_hints(kind)
    if not isinstance(values, dict):
        raise ValueError(f"{kind.__name__} must be an object; received {values!r:.100}.")
    _check_keys(kind, values, "")
    arguments = {}
    for key, value in values.items():
        if dataclasses.is_dataclass(hints[key]):
            arguments[key] = from_dict(value, hints[key])
        else:
            arguments[key] = _checked(value, hints[key], key)
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.name not in arguments
        and field.default is field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ValueError(f"{', '.join(missing)} is missing.")
    return kind(**arguments)


def override(config: Any, settings: typing.Iterable[str]) -> Any:
    """Return a config with some values changed.

    Args:
        config: a `Config`.
        settings: texts `key=value`, such as `"optimization.learning_rate=3e-4"`,
            `"model.arguments.dropout_rate=0.1"`, `"data.test=None"`.

    Raises:
        ValueError: a key is unknown, for which the message has similar ones, or a value
            has another type.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value; received {setting!r}.")
        config = _replace(config, key.strip().split("."), text.strip(), key.strip())
    return config


def _replace(config, keys, text, whole):
    first, *rest = keys
    _check_keys(type(config), [first], whole)
    hint, value = typing.get_type_hints(type(config))[first], getattr(config, first)
    if rest and isinstance(value, dict):
        new = {**value, ".".join(rest): _parse(text)}
    elif rest:
        if not dataclasses.is_dataclass(value):
            raise ValueError(f"{whole}: {first} is one value and has no parts.")
        new = _replace(value, rest, text, whole)
    elif dataclasses.is_dataclass(value):
        parts = ", ".join(field.name for field in dataclasses.fields(value))
        raise ValueError(f"{whole} has parts; set one of them: {whole}.({parts}).")
    else:
        new = _checked(text if hint is str else _parse(text), hint, whole)
    return dataclasses.replace(config, **{first: new})


def _parse(text):
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return text  # Deep nesting raises the last two errors.


def _check_keys(kind, keys, whole):
    known = [field.name for field in dataclasses.fields(kind)]
    for key in keys:
        if key not in known:
            everywhere = [*known, *_all_keys()]
            near = difflib.get_close_matches(key, everywhere, n=3, cutoff=0.5)
            raise ValueError(
                f"Unknown key {whole or key!r}: {kind.__name__} has {', '.join(known)}."
                + (f" Did you mean {' or '.join(dict.fromkeys(near))}?" if near else "")
            )


def _all_keys(kind=Config, prefix=""):
    for name, hint in typing.get_type_hints(kind).items():
        yield prefix + name
        if dataclasses.is_dataclass(hint):
            yield from _all_keys(hint, f"{prefix}{name}.")


def _checked(value, hint, key):
    """Return a value converted to the exact type of its field, or raise ValueError."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is tuple and isinstance(value, str):
            value = value.split(",")  # --set trackers=tensorboard,wandb
        if origin is tuple and isinstance(value, list | tuple):
            if typing.get_args(option)[:1] == (str,) and any(
                not isinstance(part, str) for part in value
            ):
                continue
            return tuple(value)
        if option is float and type(value) in (int, float):
            if not abs(value) < 1e38:  # Reject NaN, infinity and ints beyond floats.
                continue
            return float(value)
        if option is type(None) and value is None:
            return None
        if origin is not tuple and type(value) is origin:
            return value
    raise ValueError(
        f"{key} must be {' or '.join(_name(option) for option in options)}; received "
        f"{_shorten(value)}."
    )


def _shorten(value):
    try:
        return f"{value!r:.200}"
    except ValueError:  # Python does not convert ints of more than 4,300 digits.
        return "an int of thousands of digits"


def _name(option):
    return "None" if option is type(None) else getattr(option, "__name__", str(option))
