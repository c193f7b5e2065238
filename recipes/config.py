"""What a training run is: plain typed data, checked and overridden by name.

A config file in `recipes/configs` holds one `CONFIG`; `--set optimizer.epochs=30` changes
one value of it.
"""

import ast
import dataclasses
import difflib
import importlib
import json
import pathlib
import pkgutil
import re
import types
import typing
from typing import Any

from keras_vit.training.augment import Augmentation
from keras_vit.training.splits import is_split, tfds_slices
from keras_vit.weights.tensor_file import check_regular_file, parse_json


@dataclasses.dataclass(frozen=True, kw_only=True)
class Model:
    """The network.

    Attributes:
        architecture: name of a constructor of `keras_vit`: `ViTS16`, `T2TViT14`, `ViT`.
        arguments: its arguments; `classes` and the preprocessor are the run's.
        weights: None to start from random values, or what `keras_vit.load_checkpoint`
            reads: the model is built from it, `arguments` overriding it.
    """

    architecture: str = "ViTS16"
    arguments: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: str | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The images.

    Attributes:
        train, validation: `digits`, `tfds:NAME[:SPLIT]` or `folder:PATH`; the validation
            set tells which checkpoint is best. `validation="split:0.1"` takes a tenth of
            the images of every class out of `train` for it, always the same ones;
            `split:0.1:1` takes others.
        test: evaluated once, at the end; None for none.
        data_dir: where TFDS has its sets; None for its own default.
        download: whether TFDS may download.
        unreadable: `"error"`, or `"skip"` to leave unreadable images out and count them.
        cache: whether the undecoded images are kept in memory.
        shuffle_buffer: images that a shuffle sees at once; None for all.
        exif: whether to turn images upright as their EXIF orientation asks for; also in
            `recipes.evaluate`, `recipes.predict` and `recipes.export` of the run.
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """How weights change.

    Attributes:
        optimizer: `"adamw"`, `"adam"` or `"sgd"`.
        learning_rate: the schedule's largest.
        schedule: `"cosine"`, `"linear"`, `"rsqrt"` or `"constant"`.
        warmup_steps: steps from `warmup_start` to the largest rate; a float below 1 is a
            part of all steps.
        final_learning_rate: the schedule's last.
        cooldown_steps: steps at the end that go linearly to the final rate; likewise.
        beta_1, beta_2, momentum: of the optimizer.
        weight_decay: of kernels.
        scaled_decay: whether the learning rate scales the decay, as in AdamW; else only
            the schedule's shape does, as in big_vision.
        clip_norm: None, or the largest norm of the whole gradient.
        layer_decay: factor by which each block learns slower than the one above it.
        backbone_multiplier: factor of the rate of all that is not the head.
        frozen: beginnings of paths of weights that do not train: `"block_0/attention"`
            and `"block_1"` mean those layers alone, `"block_"` all blocks. All other
            weights train, whatever the checkpoint had frozen.
        accumulation_steps: batches whose gradients make one step.
        ema: None, or the momentum of the average of weights that is evaluated and saved.
        loss: `"softmax"` or `"sigmoid"`.
        label_smoothing: part of the label that is spread over all classes.
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
class Masking:
    """Pretraining without labels: what is hidden, and MAE's decoder.

    Attributes:
        ratio: part of the patches that is corrupted (`masked_patch_prediction`; 0.5 in
            the paper) or hidden (`mae`; 0.75).
        decoder_dim, decoder_layers, decoder_heads: of MAE's decoder.
    """

    ratio: float = 0.5
    decoder_dim: int = 512
    decoder_layers: int = 8
    decoder_heads: int = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """A training run.

    Attributes:
        about: what it is, and of which paper.
        command: that starts it.
        hardware: that it is meant for.
        expected: the metric that the paper or its authors' code reports.
        measured: `measured on DATE: ...`, or `not measured here`.
        objective: `"classification"`, `"masked_patch_prediction"` or `"mae"`.
        masking: of the last two.
        epochs: passes over the training set.
        steps: batches, in place of `epochs`; None to go by those.
        batch_size: images a step (of each of the `accumulation_steps`).
        seed: of everything that is drawn.
        dtype: policy: `"float32"`, `"mixed_bfloat16"`.
        steps_per_execution: steps that TensorFlow takes at once; None for the recipes'
            default.
        checkpoint_steps: steps between checkpoints; None for an epoch.
        resolutions: progressive resizing: pairs of a part of the steps and a side in
            pixels, such as `((0.5, 160), (0.5, 224))`, the parts adding up to 1. Empty
            for the model's own size all along.
        jit_compile: whether XLA compiles the step under TensorFlow. On processors that is
            quicker for plain ViTs, and slower for convolutions.
        grid: what `recipes.sweep` tries: keys of the config, each with its values.
    """

    about: str
    command: str
    hardware: str
    expected: str
    measured: str = "not measured here"
    objective: str = "classification"
    masking: Masking = Masking()
    model: Model = Model()
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
    resolutions: tuple[tuple[float, int], ...] = ()
    jit_compile: bool = True
    grid: dict[str, Any] = dataclasses.field(default_factory=dict)


def names() -> list[str]:
    """Names of the configs in `recipes/configs`."""
    package = importlib.import_module("recipes.configs")
    return sorted(module.name for module in pkgutil.iter_modules(package.__path__))


def load(name_or_path: str) -> Config:
    """A config by the name of its file in `recipes/configs`, or from a run's JSON.

    Raises:
        ValueError: no such config; the nearest names are in the message.
    """
    if name_or_path.endswith(".json"):
        path = pathlib.Path(name_or_path)
        check_regular_file(name_or_path)
        values = parse_json(path.read_bytes(), name_or_path)
        try:
            return from_dict(values)
        except ValueError as error:
            raise ValueError(f"{name_or_path} is no config: {error}") from None
    if name_or_path not in names():
        near = difflib.get_close_matches(name_or_path, names(), n=3, cutoff=0.3)
        raise ValueError(
            f"No config is called {name_or_path!r}. Near: {', '.join(near) or 'none'}; "
            f"all: {', '.join(names())}."
        )
    return importlib.import_module(f"recipes.configs.{name_or_path}").CONFIG


def to_dict(config: Any) -> dict[str, Any]:
    """Nested plain dicts, as JSON holds them."""
    return json.loads(json.dumps(dataclasses.asdict(config)))


def from_dict(values: dict[str, Any], kind: type = Config) -> Any:
    """The config that `to_dict` was given."""
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
    """A config with some values changed.

    Args:
        config: a `Config`.
        settings: texts `key=value`, such as `"optimization.learning_rate=3e-4"`,
            `"model.arguments.dropout_rate=0.1"`, `"data.test=None"`.

    Raises:
        ValueError: an unknown key, with the nearest ones; a value of another type.
    """
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals:
            raise ValueError(f"--set takes key=value; received {setting!r}.")
        config = _replace(config, key.strip().split("."), text.strip(), key.strip())
    return config


def check_data(config: Config, settings: typing.Iterable[str]) -> None:
    """Check that no other set is left over from the config when `data.train` is set.

    Args:
        config: with the settings in it.
        settings: as for `override`.

    Raises:
        ValueError: `data.train` is set, and `data.validation` or `data.test` is not and
            belongs to another set of images.
    """
    data = config.data
    changed = {setting.partition("=")[0].strip() for setting in settings}
    if "data.train" not in changed:
        return
    for part in ("validation", "test"):
        name = getattr(data, part)
        if not name or f"data.{part}" in changed or is_split(name):
            continue
        if _kind(name) != _kind(data.train):
            remedy = " or to None"
            if part == "validation":
                remedy = _split_remedy(data.train)
            raise ValueError(
                f"data.train={data.train!r} is set, and data.{part} is still the "
                f"config's {name!r}: set data.{part}=... too{remedy}."
            )


def _split_remedy(train):
    """Return the end of a sentence that says how to validate on a part of `train`."""
    if train.startswith("folder:"):
        return (
            ", or data.validation=split:0.1 to take a tenth of the images of every class "
            "out of data.train for it"
        )
    slices = tfds_slices(train, 0.1)
    return f", for instance {slices}" if slices else ""


def _kind(name):
    """Return the part of a set's name that tells which set it is, without the split."""
    kind, _, rest = name.partition(":")
    return (kind, re.split("[/:]", rest)[0]) if kind == "tfds" else kind


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
        return text  # Python raises the last two for deep nesting.


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
    """The value, as an exact type of the field, or an error."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        origin = typing.get_origin(option) or option
        if origin is tuple and isinstance(value, list | tuple):
            if typing.get_args(option)[:1] == (str,) and any(
                not isinstance(part, str) for part in value
            ):
                continue
            return tuple(value)
        if option is float and type(value) in (int, float):
            if not abs(value) < 1e38:  # NaN, infinity, and what no float holds.
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
    except ValueError:  # Python writes no int of more than 4,300 digits.
        return "an int of thousands of digits"


def _name(option):
    return "None" if option is type(None) else getattr(option, "__name__", str(option))
