"""Runs on a user's own images, from the command line or from Python."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_vit.choices import check_choice
from keras_vit.data import dark_images
from keras_vit.data.in_memory import dataset_source
from keras_vit.data.recognize import SHARE, recognize
from keras_vit.data.source import Source
from keras_vit.data.splits import is_split, split_off
from keras_vit.data.subsets import subset
from keras_vit.data.tables import Columns, split_names
from keras_vit.training import config as configs
from keras_vit.training import cost, regression, runs
from keras_vit.training.image_sets import open_parts
from keras_vit.training.objectives import objective
from keras_vit.training.overview import overview
from keras_vit.training.run_directory import STATES
from keras_vit.training.starting_point import config_of
from keras_vit.training.suggested import Facts, suggested

# The settings of the ViT paper, appendix B.1.1 and table 4.
PAPER = configs.Optimization(
    optimizer="sgd", learning_rate=0.01, momentum=0.9, clip_norm=1.0
)

# Data settings of a checkpoint's run that also apply to other images. The rest, such as
# the scale of the values or the class weights, belongs to the images of that run.
READING = ("data_dir", "download", "path_column", "label_column", "exif")

# Settings that arrays cannot follow, because they are not read from anywhere, and the end
# of the error message about each.
NOT_FOR_ARRAYS = {
    "data.train": "pass the images as data",
    "data.test": "pass the images as test=",
    **dict.fromkeys(
        ("data.data_dir", "data.download", "data.path_column", "data.label_column"),
        "leave it out",
    ),
}
# Labels of arrays by their kind, for error messages.
LABELS = {
    "single": "an int for each image, or rows with a single 1",
    "multi": "rows of zeros and ones, not each with a single 1",
    "regression": "floats",
}


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A run on a user's photos that is ready to start.

    Attributes:
        config: config of the run.
        sources: dict of the open data sets.
        about: sentence that explains how the data was understood.
    """

    config: configs.Config
    sources: dict[str, Source]
    about: str


def base_config(what: str) -> configs.Config:
    """Return the config of a fine-tuning run, without a user's own data.

    Args:
        what: name of a config, a config file, or a checkpoint.

    Raises:
        ValueError: there is no such config or checkpoint.
    """
    otherwise = configs.Config(
        about=f"{what}, fine-tuned.",
        command=f"keras-vit finetune {what} --workdir ...",
        hardware="not specified",
        expected="none published",
    )
    config = config_of(what, otherwise)
    if not configs.is_config(what):
        config = dataclasses.replace(
            otherwise,
            data=dataclasses.replace(config.data, scale=None),  # That of other images.
            augmentation=config.augmentation,
            model=config.model,
            batch_size=config.batch_size,
            optimization=PAPER,
        )
    return config


def check_weights(config: configs.Config) -> None:
    """Raise a `ValueError` unless a config has a checkpoint.

    Args:
        config: config of a fine-tuning run.
    """
    if config.model.weights is None:
        raise ValueError(
            "Fine-tuning begins with a checkpoint: --set model.weights=PATH, or the "
            "command keras-vit pretrain to begin with random weights."
        )


def prepare(
    config: configs.Config,
    photos: str | os.PathLike,
    settings: Sequence[str] = (),
    suggest: bool = True,
    workdir: str | os.PathLike | None = None,
) -> Prepared:
    """Open a user's photos and settle the config of a run on them.

    Args:
        config: config with the model; its data sets are replaced.
        photos: the photos; see `keras_vit.data.recognize.recognize`.
        settings: texts `key=value` that change the config last.
        suggest: whether to suggest the batch size, the duration, the optimizer and the
            augmentation, with the default settings of the data except those in `READING`,
            or keep all of those of the config.
        workdir: directory of the run. A run on the same data and model that has a
            checkpoint there keeps its config, so that it resumes.

    Raises:
        ValueError: the photos or the settings are invalid.
        FileNotFoundError: the photos do not exist.
    """
    if suggest:
        config = _without_settings_of_data(config)
    given = configs.override(config, settings).data
    columns = Columns(given.path_column, split_names(given.label_column))
    chosen = any(setting.startswith("data.labels=") for setting in settings)
    found = recognize(
        photos,
        given.data_dir,
        given.download,
        columns,
        given.labels if chosen else None,
    )
    data = dataclasses.replace(
        config.data,
        train=found.train,
        validation=found.validation,
        test=found.test,
        labels=found.labels,
    )
    about = f"{config.about.removesuffix('.')}, on {os.fspath(photos)}."
    config = dataclasses.replace(config, data=data, about=about)
    sources = open_parts(configs.override(config, settings).data)
    return _settled(config, sources, settings, suggest, workdir, found.about)


def prepare_datasets(
    config: configs.Config,
    sets: Mapping[str, Any],
    class_names: Sequence[str] | None,
    settings: Sequence[str] = (),
    suggest: bool = True,
    workdir: str | os.PathLike | None = None,
) -> Prepared:
    """Prepare a run on images that are passed from Python.

    Args:
        config: config with the model; its data sets are replaced.
        sets: dict from `train`, `validation` and `test` to datasets or arrays, or None.
        class_names: names of the classes, or None.
        settings: as for `prepare`, and so are `suggest` and `workdir`.
        suggest: bool.
        workdir: path or None.

    Raises:
        ValueError: the images, the labels or the settings are invalid, or a setting of
            the data sets has no meaning for arrays.
    """
    if suggest:
        config = _without_settings_of_data(config)
    given = configs.override(config, settings).data
    chosen = {setting.partition("=")[0].strip() for setting in settings}
    _check_for_arrays(chosen, given, sets)
    sources = _dataset_sources(sets, class_names)
    train = sources["train"]
    if "data.labels" in chosen and given.labels != train.labels:
        raise ValueError(
            f"data.labels={given.labels!r} does not fit the labels that were passed, "
            f"which are {train.labels!r}: pass {LABELS[given.labels]}, or leave it out."
        )
    names: dict[str, Any] = {part: sources[part].name for part in sources}
    about = "The images were passed from Python"
    if "validation" not in sources:
        split = f"split:{SHARE}"
        if "data.validation" in chosen:
            split = given.validation
        names["validation"] = split
        rest, taken = split_off(train, split)
        sources |= {"train": rest, "validation": taken}
        share = float(split.split(":")[1])
        about += f"; {100 * share:g}% of each class are split off for validation"
    sources["train"] = subset(sources["train"], given.fraction)
    data = dataclasses.replace(
        config.data, labels=train.labels, **{"test": None, **names}
    )
    config = dataclasses.replace(config, data=data)
    return _settled(config, sources, settings, suggest, workdir, about)


def _without_settings_of_data(config):
    """Return a config with default settings of the data, except those in `READING`."""
    kept = {name: getattr(config.data, name) for name in READING}
    return dataclasses.replace(config, data=configs.Data(**kept))


def _check_for_arrays(chosen, given, sets):
    """Raise an error about a setting in `chosen` that has no meaning for arrays."""
    check_choice("data.labels", given.labels, LABELS)
    if found := sorted(chosen & set(NOT_FOR_ARRAYS)):
        raise ValueError(
            f"{found[0]} has no meaning for images that are passed from Python: "
            f"{NOT_FOR_ARRAYS[found[0]]}."
        )
    if "data.validation" not in chosen:
        return
    if sets.get("validation") is not None:
        raise ValueError(
            f"data.validation={given.validation!r} and validation= are both set: leave "
            "one of them out."
        )
    if not is_split(given.validation):
        raise ValueError(
            f"data.validation={given.validation!r} has no meaning for images that are "
            "passed from Python: pass the validation set as validation=, or set "
            "data.validation to 'split:0.1' to split off a tenth of each class."
        )


def _dataset_sources(sets, class_names):
    """Open the datasets or arrays of all parts, with the classes of the training set."""
    train = dataset_source("dataset:train", sets["train"], class_names)
    sources = {"train": train}
    # The largest int is not the number of classes: a set may lack images of the last.
    numbered = train.class_names if train.labels == "single" else None
    for part, dataset in sets.items():
        if part != "train" and dataset is not None:
            names = class_names or getattr(dataset, "class_names", None) or numbered
            sources[part] = dataset_source(f"dataset:{part}", dataset, names)
    return sources


def _settled(config, sources, settings, suggest, workdir, about):
    """Return the prepared run with suggested settings, or those of the existing run."""
    changed = regression.with_scale(configs.override(config, settings), sources)
    if changed.objective == "classification":
        runs.check_classes(sources)
    if suggest:
        before = _config_of_run(workdir)
        if before is not None and _same(before, changed):
            config = before
        else:
            unfreezes = bool(changed.optimization.unfreeze)
            config = suggested(config, facts(changed, sources), unfreezes)
    return Prepared(configs.override(config, settings), sources, about)


def announce(plan: runs.Plan, model: keras.Model) -> None:
    """Print the summary of a run.

    Args:
        plan: the plan of the run.
        model: the compiled model.
    """
    print(overview(plan, model), flush=True)
    for source in plan.sources.values():
        dark_images.warn(source)


def facts(config: configs.Config, sources: dict[str, Source]) -> Facts:
    """Return the facts that the suggested settings depend on.

    Args:
        config: config with the model.
        sources: dict of the data sets.
    """
    train = sources["train"]
    model = objective(config, train.class_names).build()
    return Facts(
        images=train.num_examples,
        classes=train.num_classes,
        parameters=model.count_params(),
        channels=model.input_shape[-1],
        accelerator=cost.device_name() != "cpu",
    )


def _config_of_run(workdir):
    """Return the config of the run in a directory if it has a checkpoint, or None."""
    if workdir is None:
        return None
    path = pathlib.Path(workdir)
    if not any((path / state).is_file() for state in STATES):
        return None
    return configs.load(str(path / "config.json"))


def _same(before, now):
    # A config that was read has lists in place of the tuples in tuples.
    before, now = configs.to_dict(before), configs.to_dict(now)
    same_weights = before["model"]["weights"] == now["model"]["weights"]
    return same_weights and before["data"] == now["data"]


def start(
    prepared: Prepared,
    workdir: str | os.PathLike,
    resume: bool | None = None,
    confirm: Callable[[runs.Plan, keras.Model], None] | None = None,
) -> dict[str, Any]:
    """Start or resume a prepared run, and return its results.

    Args:
        prepared: the run.
        workdir: directory of the run.
        resume: as for `runs.train`.
        confirm: as for `runs.train`.

    Returns:
        The results of `runs.train`.
    """
    return runs.train(
        prepared.config, os.fspath(workdir), resume, prepared.sources, confirm
    )
