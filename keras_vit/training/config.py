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
from keras_vit.training.settings import (
    Adaptive,
    Data,
    Dino,
    Distillation,
    FlexibleSizes,
    LoRA,
    Masking,
    Model,
    Optimization,
)
from keras_vit.weights.tensor_file import check_regular_file, parse_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """Config of a training run.

    Attributes:
        about: description, with the paper and any deviation from it.
        command: command that starts the run.
        hardware: hardware that the run is meant for, and the time it takes there.
        expected: metric that the paper or its authors' code reports.
        measured: `measured on DATE: ...`, or `not measured here`.
        objective: `"classification"`, `"masked_patch_prediction"`, `"mae"`, `"pixels"`
            (iGPT) or `"dino"`.
        masking: settings of `"masked_patch_prediction"`, `"mae"` and `"pixels"`.
        dino: settings of `"dino"`.
        model: the network.
        flexible: random patch sizes of `"classification"`.
        lora: low-rank updates of a frozen backbone in `"classification"`.
        adaptive: tokens that stop, each at its own depth, in `"classification"`.
        distillation: the teacher of `"classification"`.
        data: the data sets.
        augmentation: changes to the training images.
        optimization: optimizer, learning-rate schedule and loss.
        epochs: number of passes over the training set.
        steps: number of batches; None for `epochs` passes. Both are rounded to a
            multiple of `checkpoint_steps`.
        batch_size: images in a batch; an update uses `accumulation_steps` batches.
        seed: seed of the initial weights, the order of images and the augmentation.
        dtype: dtype policy: `"float32"` or `"mixed_bfloat16"`.
        steps_per_execution: batches that TensorFlow processes in one call; None for the
            default, 8.
        checkpoint_steps: batches between checkpoints; None for an epoch, or for `steps`
            if they are fewer.
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
    masking: Masking = dataclasses.field(default_factory=Masking)
    dino: Dino = dataclasses.field(default_factory=Dino)
    model: Model = dataclasses.field(default_factory=Model)
    flexible: FlexibleSizes = dataclasses.field(default_factory=FlexibleSizes)
    lora: LoRA = dataclasses.field(default_factory=LoRA)
    adaptive: Adaptive = dataclasses.field(default_factory=Adaptive)
    distillation: Distillation = dataclasses.field(default_factory=Distillation)
    data: Data = dataclasses.field(default_factory=Data)
    augmentation: Augmentation = dataclasses.field(default_factory=Augmentation)
    optimization: Optimization = dataclasses.field(default_factory=Optimization)
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
