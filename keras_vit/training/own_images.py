"""Runs on a user's own images, from the command line or from Python."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras

from keras_vit.data import dark_images
from keras_vit.data.in_memory import dataset_source
from keras_vit.data.recognize import SHARE, recognize
from keras_vit.data.source import Source
from keras_vit.data.splits import split_off
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
            data=config.data,
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
            augmentation, or keep those of the config.
        workdir: directory of the run. A run on the same data and model that has a
            checkpoint there keeps its config, so that it resumes.

    Raises:
        ValueError: the photos or the settings are invalid.
        FileNotFoundError: the photos do not exist.
    """
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
    """
    sources = {
        part: dataset_source(f"dataset:{part}", dataset, class_names)
        for part, dataset in sets.items()
        if dataset is not None
    }
    names: dict[str, Any] = {part: sources[part].name for part in sources}
    about = "The images were passed from Python"
    if "validation" not in sources:
        names["validation"] = f"split:{SHARE}"
        rest, taken = split_off(sources["train"], names["validation"])
        sources |= {"train": rest, "validation": taken}
        about += f"; {SHARE:.0%} of each class are split off for validation"
    data = dataclasses.replace(
        config.data, labels=sources["train"].labels, **{"test": None, **names}
    )
    config = dataclasses.replace(config, data=data)
    return _settled(config, sources, settings, suggest, workdir, about)


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
