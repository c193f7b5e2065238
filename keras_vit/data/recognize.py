"""Recognition of the splits in a user's photos, for the option `--data`."""

import dataclasses
import os
import pathlib

from keras_vit.data import hugging_face_sets
from keras_vit.data.folders import split_folders
from keras_vit.data.splits import tfds_slices
from keras_vit.data.tables import Columns, guess_labels, is_table, read_rows

# Share of the images of every class that becomes the validation set if there is none.
SHARE = 0.2
# Descriptions of the kinds of labels.
ABOUT = {
    "single": "one class",
    "multi": "any number of classes",
    "regression": "values to predict",
}


@dataclasses.dataclass(frozen=True)
class Recognized:
    """Names of data sources, as in `data.train`, and a sentence about them.

    Attributes:
        train: the training set.
        validation: the validation set, which may be a split of the training set.
        test: the test set, or None.
        about: sentence that explains how the data was understood.
        labels: kind of the labels, as in `data.labels`.
    """

    train: str
    validation: str
    test: str | None
    about: str
    labels: str = "single"


def recognize(
    photos: str | os.PathLike,
    data_dir: str | None = None,
    download: bool = False,
    columns: Columns | None = None,
    labels: str | None = None,
) -> Recognized:
    """Find the training, validation and test set in a folder or another data set.

    No image is read.

    Args:
        photos: a folder of class folders; a folder with the folders train, val and test
            (or names like them), of which only train is required; a CSV or Parquet file
            of paths and labels; or the name of a data source, such as `"tfds:NAME"`.
        data_dir: directory of TensorFlow Datasets; None for its default.
        download: whether to download a TFDS set that is not there.
        columns: columns of a table, or the column of labels of a Hugging Face set; None
            for `path` and `label`.
        labels: kind of the labels of a table; None to guess it.

    Raises:
        ValueError: the folder has no training set, or several folders for one split.
        FileNotFoundError: there is no such folder.
    """
    name = os.fspath(photos)
    kind, _, rest = name.partition(":")
    if kind == "tfds" and rest:
        return _tfds(name, data_dir, download)
    if kind == "digits":
        train, validation, test = (
            f"digits:{part}" for part in ("train", "validation", "test")
        )
        return Recognized(train, validation, test, "scikit-learn's digits, in 3 parts")
    if kind == "table" or is_table(name):
        file = pathlib.Path(name.removeprefix("table:")).expanduser()
        return _table(file, columns or Columns(), labels)
    path = pathlib.Path(rest if kind == "folder" else name).expanduser()
    if kind == "datasets":
        path = pathlib.Path(rest).expanduser()
    if path.is_dir():
        if not hugging_face_sets.is_directory(path):
            return _folder(path)
        return _datasets(path, ",".join((columns or Columns()).labels))
    raise FileNotFoundError(
        f"--data {name}: there is no such folder. Give a folder with one folder of "
        "images for each class, a folder with train/ and val/ in it, a CSV or Parquet "
        "file with the columns path and label, or tfds:NAME."
    )


def _folder(path):
    splits = split_folders(path)
    if not splits:
        return Recognized(
            f"folder:{path}",
            f"split:{SHARE}",
            None,
            f"{path} holds classes: {SHARE:.0%} of the images of every class are split "
            "off for validation",
        )
    for part, names in splits.items():
        if len(names) > 1:
            raise ValueError(
                f"--data {path}: {' and '.join(names)} could both be the {part} set: "
                f"remove one, or choose with --set data.{part}=folder:{path / names[0]}."
            )
    if not splits["train"]:
        found = ", ".join(name for names in splits.values() for name in names)
        raise ValueError(
            f"--data {path} has no folder 'train', only {found}. Name the folder with "
            "the training images 'train'; if these are classes, rename them."
        )
    chosen = {part: names[0] for part, names in splits.items() if names}
    notes = []
    for part in ("validation", "test"):
        name = chosen.get(part)
        if name and not any(entry.is_dir() for entry in (path / name).iterdir()):
            del chosen[part]
            notes.append(f"{name}/ has no class folders and is left out")
    named = {part: f"folder:{path / name}" for part, name in chosen.items()}
    validation = named.get("validation", f"split:{SHARE}")
    if "validation" not in named:
        notes.append(
            f"{SHARE:.0%} of the images of every class in {chosen['train']}/ are split "
            "off for validation"
        )
    splits_of = ", ".join(f"{name}/ ({part})" for part, name in chosen.items())
    about = "; ".join([f"{path} holds splits: {splits_of}", *notes])
    return Recognized(named["train"], validation, named.get("test"), about)


def _table(path, columns, labels):
    rows = read_rows(path, columns)
    kind = labels or guess_labels(rows)
    parts = {row.split for row in rows} - {""}
    about = f"{path} has {ABOUT[kind]} for each image"
    if not parts:
        split = f"{SHARE:.0%} of the images are split off for validation"
        validation = f"split:{SHARE}"
        return Recognized(f"table:{path}", validation, None, f"{about}; {split}", kind)
    if "train" not in parts:
        raise ValueError(
            f"--data {path} has no row with the split 'train', only {', '.join(parts)}."
        )
    named = {part: f"table:{path}:{part}" for part in parts}
    about += f" and a column of splits ({', '.join(sorted(parts))})"
    if "validation" not in named:
        about += f"; {SHARE:.0%} of the images of 'train' are split off for validation"
    validation = named.get("validation", f"split:{SHARE}")
    return Recognized(named["train"], validation, named.get("test"), about, kind)


def _datasets(path, label_column):
    kind = hugging_face_sets.kind_of(path, label_column)
    parts = hugging_face_sets.parts(path)
    if "train" not in parts:
        raise ValueError(f"--data {path} has no split 'train', only {', '.join(parts)}.")
    named = {
        part: f"datasets:{path}:{split}" if split else f"datasets:{path}"
        for part, split in parts.items()
    }
    validation = named.get("validation", f"split:{SHARE}")
    about = f"{path} is a Hugging Face data set with {ABOUT[kind]} for each image"
    if "validation" not in named:
        about += f"; {SHARE:.0%} of the images of 'train' are split off for validation"
    return Recognized(named["train"], validation, named.get("test"), about, kind)


def _tfds(name, data_dir, download):
    from keras_vit.data.tfds_sets import split_names

    base, names = split_names(name, data_dir, download)
    train = name
    if base == name:
        if "train" not in names:
            raise ValueError(
                f"--data {name} has no split 'train', only {', '.join(names)}: add one "
                f"of them, as in {name}:{names[0]}."
            )
        train = f"{name}:train"
    test = f"{base}:test" if "test" in names and train != f"{base}:test" else None
    if "validation" in names and train != f"{base}:validation":
        about = f"{name} has a validation set"
        return Recognized(train, f"{base}:validation", test, about)
    slices = tfds_slices(train, SHARE)
    if slices is None:
        raise ValueError(
            f"--data {name} is a slice, of which no validation set can be split off: "
            "give the whole split, or set data.train and data.validation (--set)."
        )
    train, validation = slices
    about = f"{name} has no validation set: {validation} is taken from its training set"
    return Recognized(train, validation, test, about)
