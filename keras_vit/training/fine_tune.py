"""The function `keras_vit.training.finetune`."""

import os
from collections.abc import Mapping, Sequence
from typing import Any


def finetune(
    what: str | os.PathLike,
    data: Any,
    workdir: str | os.PathLike,
    *,
    validation: Any = None,
    test: Any = None,
    class_names: Sequence[str] | None = None,
    settings: Mapping[str, Any] | None = None,
    resume: bool | None = None,
) -> dict[str, Any]:
    """Fine-tune a checkpoint on a user's own images, like `keras-vit finetune --data`.

    It writes the same files as the command, including report.html. The settings are
    chosen for the number of images, the size of the model and the device, except those in
    `settings`. A summary is printed before training starts. The same call resumes a run
    that was interrupted.

    Args:
        what: name of a checkpoint, a file, `"hf://organization/name"`, the directory of a
            run, or a config.
        data: a folder with one folder of images for each class, or with train/ and val/
            in it; a CSV or Parquet file of paths and labels; `"tfds:NAME"`; or a
            `tf.data.Dataset`, a `keras.utils.PyDataset` or two arrays of images and
            labels, with pixel values 0 to 255.
        workdir: directory of the run.
        validation: validation set, if `data` is a dataset or arrays; None to split a
            fifth off `data`.
        test: test set, if `data` is a dataset or arrays; None for none.
        class_names: names of the classes, if `data` is a dataset or arrays.
        settings: values by key of the config, such as `{"epochs": 5,
            "optimization.learning_rate": 3e-4}`.
        resume: None to resume the run if there is one, True to require one, False to
            forbid one.

    Returns:
        Dict of the results of `best.keras`, which is in `workdir`: `val_accuracy`, the
        other metrics and, if there is a test set, `test_accuracy`.

    Raises:
        ValueError: the images or the settings are invalid.
        FileNotFoundError: the images or the checkpoint do not exist.
        FileExistsError: `workdir` holds another run.

    Example:

    >>> from keras_vit import training
    >>> results = training.finetune("vit_ti16.augreg_in21k_224", "photos",
    ...     "runs/photos", settings={"epochs": 5})  # doctest: +SKIP
    >>> results["val_accuracy"]  # doctest: +SKIP
    0.975
    """
    # Imported here, because the modules need matplotlib and take seconds to import.
    from keras_vit import callbacks
    from keras_vit.training import config, own_images

    base = own_images.base_config(os.fspath(what))
    lines = [f"{key}={value}" for key, value in (settings or {}).items()]
    own_images.check_weights(config.override(base, lines))
    suggest = not config.is_config(os.fspath(what))
    if isinstance(data, str | os.PathLike):
        given = {"validation": validation, "test": test, "class_names": class_names}
        if extra := [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"{', '.join(extra)} can be passed with a dataset or arrays only: put "
                "the images into train/, val/ and test/, or set data.validation."
            )
        prepared = own_images.prepare(base, data, lines, suggest, workdir)
    else:
        sets = {"train": data, "validation": validation, "test": test}
        prepared = own_images.prepare_datasets(
            base, sets, class_names, lines, suggest, workdir
        )
    print(prepared.about, flush=True)
    results = own_images.start(prepared, workdir, resume, own_images.announce)
    callbacks.write_run_report(workdir, prepared.config, prepared.sources)
    return results
