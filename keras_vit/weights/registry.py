"""Table of published checkpoints: architecture, training data, accuracy and URL.

Each row describes one file. The data come from google-research/vision_transformer (its
README, the listing of its storage bucket, and the list of the best AugReg files in its
notebooks), timm 1.0.31 (`default_cfgs` and `results/results-imagenet.csv`) and
yitu-opensource/T2T-ViT (README, `default_cfgs` and LICENSE).
"""

import dataclasses
import difflib
import fnmatch
from typing import Any

from keras_vit.layers.preprocessor import IMAGENET_MEAN, IMAGENET_STD
from keras_vit.weights.hashes import SHA256

_GOOGLE = "https://storage.googleapis.com/vit_models"
_HUGGING_FACE = "https://huggingface.co/timm"
_T2T = "https://github.com/yitu-opensource/T2T-ViT/releases/download/main"


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
    imagenet_top1: float | None
    top1_source: str | None
    normalization: str
    resize: str
    crop_fraction: float | None
    license: str
    url: str
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


_DATA = {
    "in1k": ("ImageNet-1k",),
    "in21k": ("ImageNet-21k",),
    "in21k_ft_in1k": ("ImageNet-21k", "ImageNet-1k"),
    "in22k_ft_in1k": ("ImageNet-22k", "ImageNet-1k"),
    "lvd142m": ("LVD-142M",),
}


def _row(architecture, recipe, data, resolution, **fields):
    variant = architecture.removeprefix("ViT").lower()
    name = f"vit_{variant}.{recipe}_{data}_{resolution}"
    return Checkpoint(
        name=name,
        architecture=architecture,
        training_data=_DATA[data],
        resolution=resolution,
        license="Apache-2.0",
        sha256=SHA256.get(name),
        **fields,
    )


def _google(architecture, recipe, data, resolution, path, top1=None, source="Google"):
    return _row(
        architecture,
        recipe,
        data,
        resolution,
        additions=(),
        imagenet_top1=top1,
        top1_source=source if top1 else None,
        normalization="inception",
        resize="bilinear",
        crop_fraction=None,
        url=f"{_GOOGLE}/{path}.npz",
    )


def _augreg(architecture, data, resolution, file, *top1):
    """Return the row of a file in the `augreg/` directory of the bucket.

    Args:
        architecture: name of the variant.
        data: key of `_DATA`.
        resolution: image size in pixels.
        file: name of the file without the parts that all names share (`300ep-lr_0.001`,
            `imagenet2012-steps_20k-lr` and the resolution).
        *top1: top-1 accuracy in percent and its source, if known.
    """
    model, upstream, rest = file.split("-", 2)
    path = f"augreg/{model}-{upstream}-300ep-lr_0.001-aug_{rest}"
    if "--" in rest:
        path = path.replace("--", "--imagenet2012-steps_20k-lr_") + f"-res_{resolution}"
    return _google(architecture, "augreg", data, resolution, path, *top1)


def _timm(
    architecture,
    recipe,
    data,
    resolution,
    repository,
    top1,
    *,
    additions=(),
    normalization="imagenet",
    crop_fraction=0.9,
):
    return _row(
        architecture,
        recipe,
        data,
        resolution,
        additions=additions,
        imagenet_top1=top1,
        top1_source="timm" if top1 else None,
        normalization=normalization,
        resize="bicubic_antialias",
        crop_fraction=crop_fraction,
        url=f"{_HUGGING_FACE}/{repository}/resolve/main/model.safetensors",
    )


def _deit(architecture, size, resolution, top1):
    distilled = size.endswith("distilled")
    return _timm(
        architecture,
        "deit_distilled" if distilled else "deit",
        "in1k",
        resolution,
        f"deit_{size}_patch16_{resolution}.fb_in1k",
        top1,
        additions=("distillation token",) if distilled else (),
        crop_fraction=0.9 if resolution == 224 else 1.0,
    )


def _deit3(architecture, size, data, resolution, top1):
    return _timm(
        architecture,
        "deit3",
        data,
        resolution,
        f"deit3_{size}_{resolution}.fb_{data}",
        top1,
        additions=("layer scale",),
        crop_fraction=0.9 if (data, resolution) == ("in1k", 224) else 1.0,
    )


def _dinov2(architecture, size, registers):
    return _timm(
        architecture,
        "dinov2_reg4" if registers else "dinov2",
        "lvd142m",
        518,
        f"vit_{size}_patch14_{'reg4_' if registers else ''}dinov2.lvd142m",
        None,
        additions=("layer scale", *(["4 registers"] if registers else [])),
        crop_fraction=1.0,
    )


def _dino(architecture, size, patch_size):
    return _timm(
        architecture, "dino", "in1k", 224, f"vit_{size}_patch{patch_size}_224.dino", None
    )


def _t2t(size, top1, resolution=224):
    # The files are named `T2T_ViT_14` for size 14 and `T2T_ViTt_14` for size t14.
    number = size.removeprefix("t")
    file = f"{top1}_T2T_ViT{'t' if size != number else ''}_{number}.pth.tar"
    return Checkpoint(
        name=f"t2t_vit_{size}.orig_in1k_{resolution}",
        architecture=f"T2TViT{size}",
        additions=(),
        training_data=_DATA["in1k"],
        resolution=resolution,
        imagenet_top1=top1,
        top1_source="T2T-ViT",
        normalization="imagenet",
        resize="bicubic_antialias",
        crop_fraction=0.9,
        license="BSD-3-Clause-Clear",
        url=f"{_T2T}/{file}",
    )


_TUNED = "in21k_ft_in1k"
_ORIG = "imagenet21k"
_ORIG_TUNED = "imagenet21k+imagenet2012"

_ROWS = [
    # AugReg (arXiv:2106.10270): the file of each architecture that performed best in the
    # authors' validation.
    _augreg("ViTTi16", "in21k", 224, "Ti_16-i21k-none-wd_0.03-do_0.0-sd_0.0"),
    _augreg("ViTS32", "in21k", 224, "S_32-i21k-none-wd_0.1-do_0.0-sd_0.0"),
    _augreg("ViTS16", "in21k", 224, "S_16-i21k-light1-wd_0.03-do_0.0-sd_0.0"),
    _augreg("ViTB32", "in21k", 224, "B_32-i21k-light1-wd_0.1-do_0.0-sd_0.0"),
    _augreg("ViTB16", "in21k", 224, "B_16-i21k-medium1-wd_0.1-do_0.0-sd_0.0"),
    _augreg("ViTB8", "in21k", 224, "B_8-i21k-medium2-wd_0.1-do_0.0-sd_0.0"),
    _augreg("ViTL16", "in21k", 224, "L_16-i21k-strong1-wd_0.1-do_0.0-sd_0.0"),
    _augreg("ViTRTi16", "in21k", 224, "R_Ti_16-i21k-none-wd_0.03-do_0.0-sd_0.0"),
    _augreg("ViTR26S32", "in21k", 224, "R26_S_32-i21k-light1-wd_0.1-do_0.0-sd_0.0"),
    _augreg("ViTR50L32", "in21k", 224, "R50_L_32-i21k-medium1-wd_0.1-do_0.1-sd_0.1"),
    # The same files after fine-tuning.
    _augreg("ViTTi16", _TUNED, 384, "Ti_16-i21k-none-wd_0.03-do_0.0-sd_0.0--0.03", 78.22),
    _augreg("ViTS32", _TUNED, 384, "S_32-i21k-none-wd_0.1-do_0.0-sd_0.0--0.01", 79.58),
    _augreg("ViTS16", _TUNED, 384, "S_16-i21k-light1-wd_0.03-do_0.0-sd_0.0--0.03", 83.73),
    _augreg("ViTB32", _TUNED, 384, "B_32-i21k-light1-wd_0.1-do_0.0-sd_0.0--0.01", 83.59),
    _augreg("ViTB16", _TUNED, 384, "B_16-i21k-medium1-wd_0.1-do_0.0-sd_0.0--0.03", 85.49),
    _augreg("ViTB8", _TUNED, 224, "B_8-i21k-medium2-wd_0.1-do_0.0-sd_0.0--0.03", 85.58),
    _augreg("ViTL16", _TUNED, 384, "L_16-i21k-strong1-wd_0.1-do_0.0-sd_0.0--0.01", 85.59),
    _augreg(
        "ViTRTi16", _TUNED, 384, "R_Ti_16-i21k-none-wd_0.03-do_0.0-sd_0.0--0.03", 75.40
    ),
    _augreg(
        "ViTR26S32", _TUNED, 384, "R26_S_32-i21k-light1-wd_0.1-do_0.0-sd_0.0--0.01", 83.85
    ),
    _augreg(
        "ViTR50L32",
        _TUNED,
        384,
        "R50_L_32-i21k-medium1-wd_0.1-do_0.1-sd_0.1--0.01",
        85.99,
    ),
    # Files fine-tuned at 224 pixels or trained on ImageNet-1k only, as selected by timm.
    *(
        _augreg(architecture, data, resolution, file, top1, "timm")
        for architecture, data, resolution, file, top1 in (
            (
                "ViTTi16",
                _TUNED,
                224,
                "Ti_16-i21k-none-wd_0.03-do_0.0-sd_0.0--0.03",
                75.452,
            ),
            (
                "ViTS32",
                _TUNED,
                224,
                "S_32-i21k-light1-wd_0.03-do_0.0-sd_0.0--0.03",
                76.010,
            ),
            (
                "ViTS16",
                _TUNED,
                224,
                "S_16-i21k-light1-wd_0.03-do_0.0-sd_0.0--0.03",
                81.402,
            ),
            (
                "ViTB32",
                _TUNED,
                224,
                "B_32-i21k-medium1-wd_0.03-do_0.0-sd_0.0--0.03",
                80.732,
            ),
            (
                "ViTB16",
                _TUNED,
                224,
                "B_16-i21k-medium1-wd_0.1-do_0.0-sd_0.0--0.01",
                84.534,
            ),
            (
                "ViTL16",
                _TUNED,
                224,
                "L_16-i21k-medium1-wd_0.1-do_0.1-sd_0.1--0.01",
                85.856,
            ),
            (
                "ViTRTi16",
                _TUNED,
                224,
                "R_Ti_16-i21k-none-wd_0.03-do_0.0-sd_0.0--0.03",
                71.8,
            ),
            (
                "ViTR26S32",
                _TUNED,
                224,
                "R26_S_32-i21k-light0-wd_0.03-do_0.1-sd_0.1--0.03",
                81.856,
            ),
            (
                "ViTR50L32",
                _TUNED,
                224,
                "R50_L_32-i21k-medium1-wd_0.1-do_0.1-sd_0.1--0.01",
                84.434,
            ),
            (
                "ViTS16",
                "in1k",
                224,
                "S_16-i1k-medium2-wd_0.1-do_0.0-sd_0.0--0.01",
                78.842,
            ),
            (
                "ViTS16",
                "in1k",
                384,
                "S_16-i1k-medium2-wd_0.1-do_0.0-sd_0.0--0.01",
                81.130,
            ),
            (
                "ViTB32",
                "in1k",
                224,
                "B_32-i1k-medium2-wd_0.1-do_0.1-sd_0.1--0.01",
                74.908,
            ),
            (
                "ViTB32",
                "in1k",
                384,
                "B_32-i1k-medium2-wd_0.1-do_0.1-sd_0.1--0.01",
                78.750,
            ),
            (
                "ViTB16",
                "in1k",
                224,
                "B_16-i1k-strong2-wd_0.1-do_0.1-sd_0.1--0.01",
                79.154,
            ),
            (
                "ViTB16",
                "in1k",
                384,
                "B_16-i1k-strong2-wd_0.1-do_0.1-sd_0.1--0.01",
                81.102,
            ),
        )
    ),
    # The checkpoints of the ViT paper (arXiv:2010.11929).
    _google("ViTB32", "orig", "in21k", 224, f"{_ORIG}/ViT-B_32"),
    _google("ViTB16", "orig", "in21k", 224, f"{_ORIG}/ViT-B_16"),
    _google("ViTB8", "orig", "in21k", 224, f"{_ORIG}/ViT-B_8"),
    _google("ViTL32", "orig", "in21k", 224, f"{_ORIG}/ViT-L_32"),
    _google("ViTL16", "orig", "in21k", 224, f"{_ORIG}/ViT-L_16"),
    _google("ViTH14", "orig", "in21k", 224, f"{_ORIG}/ViT-H_14"),
    _google("ViTR26B32", "orig", "in21k", 224, f"{_ORIG}/R26+ViT-B_32"),
    _google("ViTR50B16", "orig", "in21k", 224, f"{_ORIG}/R50+ViT-B_16"),
    _google("ViTR50L32", "orig", "in21k", 224, f"{_ORIG}/R50+ViT-L_32"),
    _google("ViTB32", "orig", _TUNED, 384, f"{_ORIG_TUNED}/ViT-B_32"),
    _google("ViTB16", "orig", _TUNED, 224, f"{_ORIG_TUNED}/ViT-B_16-224", 81.2),
    _google("ViTB16", "orig", _TUNED, 384, f"{_ORIG_TUNED}/ViT-B_16", 84.212, "timm"),
    _google("ViTB8", "orig", _TUNED, 384, f"{_ORIG_TUNED}/ViT-B_8"),
    _google("ViTL32", "orig", _TUNED, 384, f"{_ORIG_TUNED}/ViT-L_32", 81.508, "timm"),
    _google("ViTL16", "orig", _TUNED, 224, f"{_ORIG_TUNED}/ViT-L_16-224", 82.7),
    _google("ViTL16", "orig", _TUNED, 384, f"{_ORIG_TUNED}/ViT-L_16"),
    _google(
        "ViTR50B16", "orig", _TUNED, 384, f"{_ORIG_TUNED}/R50+ViT-B_16", 84.988, "timm"
    ),
    # Sharpness-aware minimization (arXiv:2106.01548).
    _google("ViTB32", "sam", "in1k", 224, "sam/ViT-B_32", 73.704, "timm"),
    _google("ViTB16", "sam", "in1k", 224, "sam/ViT-B_16", 80.246, "timm"),
    _google("ViTL32", "sam", "in1k", 224, "sam/ViT-L_32"),
    _google("ViTL16", "sam", "in1k", 224, "sam/ViT-L_16"),
    # AugReg checkpoints that timm's author fine-tuned again.
    _timm(
        "ViTB16",
        "augreg2",
        _TUNED,
        224,
        "vit_base_patch16_224.augreg2_in21k_ft_in1k",
        85.108,
        normalization="inception",
    ),
    _timm(
        "ViTB8",
        "augreg2",
        _TUNED,
        224,
        "vit_base_patch8_224.augreg2_in21k_ft_in1k",
        86.252,
        normalization="inception",
    ),
    # DeiT (arXiv:2012.12877).
    _deit("ViTTi16", "tiny", 224, 72.190),
    _deit("ViTS16", "small", 224, 79.856),
    _deit("ViTB16", "base", 224, 81.980),
    _deit("ViTB16", "base", 384, 83.108),
    _deit("ViTTi16", "tiny_distilled", 224, 74.538),
    _deit("ViTS16", "small_distilled", 224, 81.204),
    _deit("ViTB16", "base_distilled", 224, 83.384),
    _deit("ViTB16", "base_distilled", 384, 85.438),
    # DeiT III (arXiv:2204.07118).
    _deit3("ViTS16", "small_patch16", "in1k", 224, 81.382),
    _deit3("ViTS16", "small_patch16", "in1k", 384, 83.432),
    _deit3("ViTB16", "base_patch16", "in1k", 224, 83.800),
    _deit3("ViTB16", "base_patch16", "in1k", 384, 85.088),
    _deit3("ViTL16", "large_patch16", "in1k", 224, 84.772),
    _deit3("ViTL16", "large_patch16", "in1k", 384, 85.820),
    _deit3("ViTH14", "huge_patch14", "in1k", 224, 85.204),
    _deit3("ViTS16", "small_patch16", "in22k_ft_in1k", 224, 83.082),
    _deit3("ViTS16", "small_patch16", "in22k_ft_in1k", 384, 84.846),
    _deit3("ViTB16", "base_patch16", "in22k_ft_in1k", 224, 85.728),
    _deit3("ViTB16", "base_patch16", "in22k_ft_in1k", 384, 86.742),
    _deit3("ViTL16", "large_patch16", "in22k_ft_in1k", 224, 86.990),
    _deit3("ViTL16", "large_patch16", "in22k_ft_in1k", 384, 87.736),
    _deit3("ViTH14", "huge_patch14", "in22k_ft_in1k", 224, 87.180),
    # DINO (arXiv:2104.14294) and DINOv2 (arXiv:2304.07193, 2309.16588), without a head.
    _dino("ViTS16", "small", 16),
    _dino("ViTS8", "small", 8),
    _dino("ViTB16", "base", 16),
    _dino("ViTB8", "base", 8),
    _dinov2("ViTS14", "small", registers=False),
    _dinov2("ViTB14", "base", registers=False),
    _dinov2("ViTL14", "large", registers=False),
    _dinov2("ViTS14", "small", registers=True),
    _dinov2("ViTB14", "base", registers=True),
    _dinov2("ViTL14", "large", registers=True),
    # T2T-ViT (arXiv:2101.11986), with the files that its README lists since March 2021.
    _t2t("7", 71.7),
    _t2t("10", 75.2),
    _t2t("12", 76.5),
    _t2t("14", 81.5),
    _t2t("14", 83.3, 384),
    _t2t("19", 81.9),
    _t2t("24", 82.3),
    _t2t("t14", 81.7),
    _t2t("t19", 82.4),
    _t2t("t24", 82.6),
]

CHECKPOINTS = CheckpointTable({row.name: row for row in _ROWS})


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
