"""Table of published checkpoints: architecture, training data, accuracy and URL.

Each row describes one file, repository or preset. The rows and their sources are in
`keras_vit/data/checkpoints*.toml`. `python -m recipes.catalogue` writes all of these
except `checkpoints.toml` from the tables of timm, transformers and KerasHub.
"""

import dataclasses
import difflib
import fnmatch
import functools
import importlib.resources
import tomllib
from collections.abc import Callable
from typing import Any

from keras_vit.layers.preprocessor import IMAGENET_MEAN, IMAGENET_STD
from keras_vit.text_table import aligned

# Mean and standard deviation of pixels from 0 to 255, by the name in the table.
NORMALIZATIONS: dict[str, dict[str, Any]] = {
    "inception": {},
    "imagenet": {"mean": IMAGENET_MEAN, "std": IMAGENET_STD},
    "clip": {
        "mean": [255 * x for x in (0.48145466, 0.4578275, 0.40821073)],
        "std": [255 * x for x in (0.26862954, 0.26130258, 0.27577711)],
    },
    "satellite": {
        "mean": [255 * x for x in (0.43, 0.411, 0.296)],
        "std": [255 * x for x in (0.213, 0.156, 0.143)],
    },
    "zero_to_one": {"mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0]},
}


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
    license: str
    url: str
    source: str = "keras_vit"
    family: str = ""
    classes: int | None = None
    normalization: str | None = None
    resize: str | None = None
    imagenet_top1: float | None = None
    top1_source: str | None = None
    top1_resolution: int | None = None
    crop_fraction: float | None = None
    gated: bool = False
    sha256: str | None = None

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """Arguments of `keras_vit.layers.Preprocessor` except `image_size`.

        None if the repository of the checkpoint contains its own preprocessing.
        """
        if self.normalization is None:
            return None
        return {
            **NORMALIZATIONS[self.normalization],
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
            scaling = f"{row.normalization}, {row.resize}{crop}"
            cells.append(
                (
                    row.name,
                    " + ".join((row.architecture, *row.additions)),
                    " > ".join(row.training_data) or "-",
                    str(row.resolution),
                    top1,
                    scaling if row.normalization else "-",
                    row.license + ", gated" * row.gated,
                    row.sha256[:8] if row.sha256 else "-",
                    row.url,
                )
            )
        return "\n".join(aligned(cells))


def _timm(name):
    url = f"https://huggingface.co/timm/{name}/resolve/main/model.safetensors"
    return {"architecture": name.partition(".")[0], "url": url}


# Functions from a name to fields that most rows of a source leave out.
_IMPLIED: dict[str | None, Callable[..., dict[str, Any]]] = {
    "timm": _timm,
    "transformers": lambda name: {"url": f"hf://{name}"},
}


def _read_tables():
    """Read the checkpoints in `keras_vit/data/checkpoints*.toml`."""
    directory = importlib.resources.files("keras_vit").joinpath("data")
    for table in ("", "_timm", "_transformers", "_keras_hub"):
        file = directory.joinpath(f"checkpoints{table}.toml")
        for group in tomllib.loads(file.read_text("utf-8"))["groups"]:
            implied = _IMPLIED.get(group.get("source"), lambda name: {})
            for name, own in group.pop("checkpoints").items():
                row = implied(name) | group | own
                for field in ("additions", "training_data"):
                    row[field] = tuple(row.get(field, ()))
                yield name, Checkpoint(name=name, **row)


@functools.cache
def published_checkpoints() -> CheckpointTable:
    """Return the table of all checkpoints, which is read when it is first needed."""
    return CheckpointTable(_read_tables())


def checkpoints(pattern: str | None = None) -> CheckpointTable:
    """List the published checkpoints that keras_vit can download by name.

    Names are those of the sources: `vit_small_patch16_dinov3.lvd1689m` in timm,
    `facebook/dinov2-base` on the Hugging Face Hub and `dinov2_base` in KerasHub. Files of
    Google and T2T-ViT, and some of timm, have names of the form
    `architecture.recipe_data_resolution`: the name of the variant in lower case, the
    training recipe, the training data and the image size. For example, `in21k_ft_in1k`
    stands for a checkpoint pretrained on ImageNet-21k and fine-tuned on ImageNet-1k.

    Names, licenses and figures are those that the sources state. For the rows of timm,
    transformers and KerasHub, no file was downloaded to check them; small networks of
    every architecture and class were compared instead (see `docs/results`).

    Args:
        pattern: str, part of the names or families to list, in which `*` stands for any
            text and `?` for any character. None, the default, lists all checkpoints.

    Returns:
        Dict from name to a frozen row. The dict prints as a table, and is empty if no
        name matches. Each row has the following fields:

        - `name`.
        - `source`: library that the checkpoint was written for: `"keras_vit"` for the
          named variants of this package, `"timm"`, `"transformers"` or `"KerasHub"`.
        - `family`: such as `"DINOv3"` or `"SigLIP"`; `""` if the name contains it.
        - `architecture`: name of a variant of keras_vit, such as `ViTB16`, or the name of
          the architecture or class in the source.
        - `additions`: tuple of features that the checkpoint has in addition to its
          variant, such as `"distillation token"`.
        - `training_data`: tuple of data sets in the order of training; empty if only the
          name contains them.
        - `resolution`: image size in pixels.
        - `classes`: number of classes; 0 for a backbone, None if unknown.
        - `imagenet_top1`: published top-1 accuracy in percent, not reproduced here; None
          if no figure was found.
        - `top1_source`: source of that figure. `"Google"` and `"T2T-ViT"` used the
          preprocessing of the row. `"timm"` used bicubic resizing and, for the named
          variants, a center crop with a fraction of 0.9 at 224 pixels and 1.0 at 384
          pixels.
        - `top1_resolution`: image size of that figure; None for `resolution`.
        - `normalization`: `"inception"` for `(x - 127.5) / 127.5`, or the source of the
          mean and standard deviation (`"imagenet"`, `"clip"`, `"satellite"`,
          `"zero_to_one"`). None if the repository contains its own preprocessing.
        - `resize`, `crop_fraction`: see `keras_vit.layers.Preprocessor`.
        - `gated`: whether the owner of the repository asks users to accept a license
          before they download.
        - `license`, `url`, and `sha256` (None if unknown).

    Example:

    >>> import keras_vit
    >>> table = keras_vit.checkpoints("b16*384")
    >>> table["vit_b16.augreg_in21k_ft_in1k_384"].imagenet_top1
    85.49
    >>> list(keras_vit.checkpoints("h14.orig"))
    ['vit_h14.orig_in21k_224']

    Reference: google-research/vision_transformer, timm 1.0.31, transformers 5.24,
    KerasHub 0.32 and yitu-opensource/T2T-ViT.
    """
    if pattern is None:
        return CheckpointTable(published_checkpoints())
    pattern = f"*{pattern.lower()}*"
    return CheckpointTable(
        (name, row)
        for name, row in published_checkpoints().items()
        if fnmatch.fnmatchcase(name.lower(), pattern)
        or fnmatch.fnmatchcase(row.family.lower(), pattern)
    )


def find_checkpoint(name: str) -> Checkpoint:
    """Look up a published checkpoint by name.

    Args:
        name: str, a name that `checkpoints` lists, or timm's name for one of these
            files.

    Returns:
        A `Checkpoint`.

    Raises:
        ValueError: if the name is unknown. The message lists similar names.
    """
    table = published_checkpoints()
    if name in table:
        return table[name]
    for row in table.values():
        if row.url.startswith(f"https://huggingface.co/timm/{name}/"):
            return row
    near = difflib.get_close_matches(name.lower(), table, n=3, cutoff=0.5)
    nearest = f"The nearest are {', '.join(near)}; " if near else ""
    raise ValueError(
        f"No file and no published checkpoint is named {name!r}. {nearest}"
        "keras_vit.checkpoints() lists all names; hf://organization/name is a repository "
        "on the Hugging Face Hub."
    )
