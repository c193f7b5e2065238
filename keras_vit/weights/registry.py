"""Table of published checkpoints: architecture, training data, accuracy and URL.

Each row describes one file. The rows and their sources are in
`keras_vit/data/checkpoints.toml`.
"""

import dataclasses
import difflib
import fnmatch
import importlib.resources
import tomllib
from typing import Any

from keras_vit.layers.preprocessor import IMAGENET_MEAN, IMAGENET_STD


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Row of the table of published checkpoints.

    The documentation of `keras_vit.checkpoints` describes the fields.
    """

    name: str
    architecture: str
    additions: tuple[str, ...]
    training_data: tuple[str, ...]
    resolution: int
    normalization: str
    resize: str
    license: str
    url: str
    imagenet_top1: float | None = None
    top1_source: str | None = None
    crop_fraction: float | None = None
    sha256: str | None = None

    @property
    def preprocessing(self) -> dict[str, Any]:
        """Arguments of `keras_vit.layers.Preprocessor` except `image_size`."""
        scaling = {}
        if self.normalization == "imagenet":
            scaling = {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
        return {
            **scaling,
            "resize": self.resize,
            "crop_fraction": self.crop_fraction,
        }


class CheckpointTable(dict[str, Checkpoint]):
    """Dict from name to `Checkpoint` that prints as a table."""

    def __repr__(self):
        if not self:
            return "no checkpoints"
        titles = (
            "name",
            "architecture",
            "trained on",
            "px",
            "published top-1",
            "preprocessing",
            "license",
            "sha256",
            "url",
        )
        cells = [titles]
        for row in self.values():
            top1 = "-" if row.imagenet_top1 is None else f"{row.imagenet_top1:.2f}"
            crop = "" if row.crop_fraction is None else f", crop {row.crop_fraction}"
            cells.append(
                (
                    row.name,
                    " + ".join((row.architecture, *row.additions)),
                    " > ".join(row.training_data),
                    str(row.resolution),
                    top1,
                    f"{row.normalization}, {row.resize}{crop}",
                    row.license,
                    row.sha256[:8] if row.sha256 else "-",
                    row.url,
                )
            )
        widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
        return "\n".join(
            "  ".join(
                cell.ljust(width) for cell, width in zip(line, widths, strict=True)
            ).rstrip()
            for line in cells
        )


def _read_table():
    """Read the checkpoints in `keras_vit/data/checkpoints.toml`."""
    file = importlib.resources.files("keras_vit").joinpath("data", "checkpoints.toml")
    for group in tomllib.loads(file.read_text("utf-8"))["groups"]:
        for name, own in group.pop("checkpoints").items():
            row = group | own
            for field in ("additions", "training_data"):
                row[field] = tuple(row.get(field, ()))
            yield name, Checkpoint(name=name, **row)


CHECKPOINTS = CheckpointTable(_read_table())


def checkpoints(pattern: str | None = None) -> CheckpointTable:
    """List the published checkpoints that keras_vit can download by name.

    Names have the form `architecture.recipe_data_resolution`: the name of the variant in
    lower case, the training recipe, the training data and the image size. For example,
    `in21k_ft_in1k` stands for a checkpoint pretrained on ImageNet-21k and fine-tuned on
    ImageNet-1k.

    Args:
        pattern: str, part of the names to list, in which `*` stands for any text and `?`
            for any character. None, the default, lists all checkpoints.

    Returns:
        Dict from name to a frozen row. The dict prints as a table, and is empty if no
        name matches. Each row has the following fields:

        - `name`.
        - `architecture`: name of a variant of `keras_vit`, such as `ViTB16`.
        - `additions`: tuple of features that the checkpoint has in addition to its
          variant, such as `"distillation token"`.
        - `training_data`: tuple of data sets in the order of training.
        - `resolution`: image size in pixels.
        - `imagenet_top1`: published top-1 accuracy in percent, not reproduced here; None
          if no figure was found.
        - `top1_source`: source of that figure. `"Google"` and `"T2T-ViT"` used the
          preprocessing of the row. `"timm"` used bicubic resizing and a center crop with
          a fraction of 0.9 at 224 pixels and 1.0 at 384 pixels.
        - `normalization`: `"inception"` for `(x - 127.5) / 127.5`, or `"imagenet"` for
          the mean and standard deviation of ImageNet.
        - `resize`, `crop_fraction`: see `keras_vit.layers.Preprocessor`.
        - `license`, `url`, and `sha256` (None if unknown).

    Example:

    >>> import keras_vit
    >>> table = keras_vit.checkpoints("b16*384")
    >>> table["vit_b16.augreg_in21k_ft_in1k_384"].imagenet_top1
    85.49
    >>> list(keras_vit.checkpoints("h14.orig"))
    ['vit_h14.orig_in21k_224']

    Reference: google-research/vision_transformer, timm 1.0.31 and
    yitu-opensource/T2T-ViT.
    """
    if pattern is None:
        return CheckpointTable(CHECKPOINTS)
    pattern = f"*{pattern.lower()}*"
    return CheckpointTable(
        (name, row)
        for name, row in CHECKPOINTS.items()
        if fnmatch.fnmatchcase(name, pattern)
    )


def find_checkpoint(name: str) -> Checkpoint:
    """Look up a published checkpoint by name.

    Args:
        name: str, a name that `checkpoints` lists.

    Returns:
        A `Checkpoint`.

    Raises:
        ValueError: if the name is unknown. The message lists similar names.
    """
    if name in CHECKPOINTS:
        return CHECKPOINTS[name]
    near = difflib.get_close_matches(name.lower(), CHECKPOINTS, n=3, cutoff=0.5)
    nearest = f"The nearest are {', '.join(near)}; " if near else ""
    raise ValueError(
        f"No file and no published checkpoint is named {name!r}. {nearest}"
        "keras_vit.checkpoints() lists all names; hf://organization/name is a repository "
        "on the Hugging Face Hub."
    )
