"""Write the tables of checkpoints that timm, transformers and KerasHub publish.

    python -m recipes.catalogue --results results-imagenet.csv

The tables are `keras_vit/data/checkpoints_{timm,transformers,keras_hub}.toml`. Their
contents come from the installed libraries (timm's `pretrained_cfg`, the names in the
sources of transformers, KerasHub's presets) and from `results/results-imagenet.csv` in
the repository of timm. Only networks that `docs/results/compatibility_*.json` lists as
exact are included.
"""

import argparse
import collections
import csv
import importlib.util
import json
import pathlib
import re
from typing import Any

from recipes.compatibility.__main__ import RESULTS

DATA = pathlib.Path(__file__).parents[1] / "keras_vit" / "data"
# The first expression that matches a name determines its family.
FAMILIES = {
    "dinov3|sat493m": "DINOv3",
    "dinov2": "DINOv2",
    "dino": "DINO",
    "siglip2|v2_webli": "SigLIP 2",
    "siglip": "SigLIP",
    "ijepa": "I-JEPA",
    "eva02": "EVA-02",
    "^eva|_eva": "EVA",
    "beitv2": "BEiT v2",
    "beit3": "BEiT-3",
    "beit": "BEiT",
    "aimv2": "AIMv2",
    "_pe_": "Perception Encoder",
    "radio": "RADIO",
    "tips": "TIPS",
    "lingbot": "LingBot",
    "intern": "InternViT",
    "sapiens": "Sapiens2",
    "naflex": "NaFlexViT",
    "flexivit": "FlexiViT",
    "_r\\w*_s\\d+_|resnet": "hybrid",
    "deit3": "DeiT III",
    "deit": "DeiT",
    "relpos": "relative positions",
    "rope": "rotary positions",
    r"\.mae|vit-mae": "MAE",
    "msn": "MSN",
    "sam_": "SAM",
    "clip": "CLIP",
    "sbb": "Searching for better ViT",
    "": "ViT",
}
_LICENSES = {
    "apache-2.0": "Apache-2.0",
    "mit": "MIT",
    "cc-by-nc-4.0": "CC-BY-NC-4.0",
}
_SCALINGS = {
    (0.5, 0.5, 0.5): "inception",
    (0.485, 0.456, 0.406): "imagenet",
    (0.48145466, 0.4578275, 0.40821073): "clip",
    (0.43, 0.411, 0.296): "satellite",
    (0.0, 0.0, 0.0): "zero_to_one",
}


def family(name: str) -> str:
    """Return the family of a checkpoint."""
    return next(FAMILIES[p] for p in FAMILIES if re.search(p, name, re.IGNORECASE))


def exact(library: str, config: str) -> set[str]:
    """Return the names of the networks of a library that keras_vit reads."""
    path = RESULTS / f"compatibility_{library}.json"
    rows = json.loads(path.read_text())["rows"]
    return {row["name"] for row in rows if row.get(config, {}).get("verdict") == "exact"}


def timm_rows(results: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Return the fields of every checkpoint of timm, by name.

    Args:
        results: path of timm's `results-imagenet.csv`.
    """
    from timm.models import _registry

    with results.open(newline="") as file:
        accuracies = {row["model"]: row for row in csv.DictReader(file)}
    known = exact("timm", "published")
    listed = (DATA / "checkpoints.toml").read_text()
    rows = {}
    for name, config in sorted(_registry._model_pretrained_cfgs.items()):
        architecture, _, tag = name.partition(".")
        if architecture not in known or not tag or not config.hf_hub_id:
            continue
        if f"/{config.hf_hub_id}/resolve/" in listed:
            continue  # The file has a name in `checkpoints.toml`.
        height, width = config.input_size[1:]
        squash = config.crop_mode == "squash"
        if height != width or (squash and config.crop_pct != 1) or not config.license:
            print(
                f"omitted: {name} ({height}x{width}, {config.crop_mode}, "
                f"{config.crop_pct}, {config.license})"
            )
            continue
        row: dict[str, Any] = {
            "family": family(name),
            "resolution": height,
            "classes": config.num_classes,
            "normalization": _SCALINGS[config.mean],
            "resize": f"{config.interpolation}_antialias",
            "license": _LICENSES.get(config.license, config.license),
        }
        if config.hf_hub_id != f"timm/{name}":
            repository = f"https://huggingface.co/{config.hf_hub_id}"
            row["url"] = f"{repository}/resolve/main/model.safetensors"
        if not squash:
            row["crop_fraction"] = config.crop_pct
        if name in accuracies and config.num_classes == 1000:
            row["imagenet_top1"] = float(accuracies[name]["top1"])
            row["top1_source"] = "timm"
            row["top1_resolution"] = int(accuracies[name]["img_size"])
        rows[name] = row
    return rows


def write(path: pathlib.Path, source: str, rows: dict[str, dict[str, Any]]) -> None:
    """Write a table, in groups that share some of the fields.

    Args:
        path: path of the TOML file.
        source: str, value of the field `source`.
        rows: dict of the fields by name.
    """
    own = (
        *("architecture", "classes", "resolution", "imagenet_top1", "top1_resolution"),
        *("url", "crop_fraction"),
    )
    groups: dict[Any, dict[str, Any]] = collections.defaultdict(dict)
    for name, row in rows.items():
        shared = {key: value for key, value in row.items() if key not in own}
        key = (row["family"], json.dumps(shared, sort_keys=True))
        groups[key][name] = {k: v for k, v in row.items() if k in own}
    lines = [
        "# Written by `python -m recipes.catalogue`, which describes the sources.",
        "# The fields are those of `keras_vit.weights.registry.Checkpoint`.",
    ]
    for (_, shared), members in sorted(groups.items()):
        lines += ["", "[[groups]]", f'source = "{source}"']
        lines += [f"{k} = {json.dumps(v)}" for k, v in json.loads(shared).items()]
        lines.append("[groups.checkpoints]")
        for name, fields in sorted(members.items()):
            values = ", ".join(f"{k} = {json.dumps(v)}" for k, v in fields.items())
            lines.append(f'"{name}" = {{ {values} }}')
    path.write_text("\n".join(lines) + "\n")


# Repositories of transformers: class in docs/results/compatibility_transformers.json,
# license, image size, number of classes, and names with alternatives in braces. The names
# are those in the conversion scripts and the documentation of transformers.
_REPOSITORIES = [
    ("Dinov2Model", "Apache-2.0", 518, 0, "facebook/dinov2-{small,base,large}"),
    ("Dinov2Model (SwiGLU)", "Apache-2.0", 518, 0, "facebook/dinov2-giant"),
    (
        *("Dinov2ForImageClassification", "Apache-2.0", 518, 1000),
        "facebook/dinov2-{small,base,large}-imagenet1k-1-layer",
    ),
    (
        *("Dinov2WithRegistersModel", "Apache-2.0", 518, 0),
        "facebook/dinov2-with-registers-{small,base,large,giant}",
    ),
    (
        *("Dinov2WithRegistersForImageClassification", "Apache-2.0", 518, 1000),
        "facebook/dinov2-with-registers-{small,base,large,giant}-imagenet1k-1-layer",
    ),
    (
        *("DINOv3ViTModel", "dinov3-license", 224, 0),
        "facebook/dinov3-{vits16,vitb16,vitl16}-pretrain-lvd1689m",
    ),
    (
        *("DINOv3ViTModel (gated MLP)", "dinov3-license", 224, 0),
        "facebook/dinov3-{vits16plus,vith16plus,vit7b16}-pretrain-lvd1689m",
    ),
    (
        *("DINOv3ViTModel", "dinov3-license", 224, 0),
        "facebook/dinov3-vitl16-pretrain-sat493m",
    ),
    (
        *("DINOv3ViTModel (gated MLP)", "dinov3-license", 224, 0),
        "facebook/dinov3-vit7b16-pretrain-sat493m",
    ),
    (
        *("CLIPModel", "MIT", 224, 0),
        "openai/clip-vit-{base-patch32,base-patch16,large-patch14}",
    ),
    ("CLIPModel", "MIT", 336, 0, "openai/clip-vit-large-patch14-336"),
    ("SiglipModel", "Apache-2.0", 224, 0, "google/{siglip,siglip2}-base-patch16-224"),
    ("SiglipModel", "Apache-2.0", 256, 0, "google/siglip-base-patch16-256"),
    (
        *("SiglipModel", "Apache-2.0", 256, 0),
        "google/siglip-base-patch16-256-multilingual",
    ),
    (
        *("SiglipModel", "Apache-2.0", 256, 0),
        "google/siglip2-{base-patch16,base-patch32,giant-opt-patch16}-256",
    ),
    (
        *("SiglipModel", "Apache-2.0", 256, 0),
        "google/{siglip,siglip2}-large-patch16-256",
    ),
    (
        *("SiglipModel", "Apache-2.0", 384, 0),
        "google/{siglip,siglip2}-{base,large}-patch16-384",
    ),
    ("SiglipModel", "Apache-2.0", 384, 0, "google/siglip2-giant-opt-patch16-384"),
    ("SiglipModel", "Apache-2.0", 512, 0, "google/{siglip,siglip2}-base-patch16-512"),
    ("SiglipModel", "Apache-2.0", 512, 0, "google/siglip2-large-patch16-512"),
    ("SiglipModel", "Apache-2.0", 224, 0, "google/siglip-so400m-patch14-224"),
    ("SiglipModel", "Apache-2.0", 224, 0, "google/siglip2-so400m-patch14-224"),
    ("SiglipModel", "Apache-2.0", 384, 0, "google/siglip-so400m-patch14-384"),
    ("SiglipModel", "Apache-2.0", 384, 0, "google/siglip2-so400m-patch14-384"),
    (
        *("SiglipModel", "Apache-2.0", 256, 0),
        "google/siglip-so400m-patch16-256-i18n",
    ),
    ("SiglipModel", "Apache-2.0", 256, 0, "google/siglip2-so400m-patch16-256"),
    ("SiglipModel", "Apache-2.0", 384, 0, "google/siglip2-so400m-patch16-384"),
    ("SiglipModel", "Apache-2.0", 512, 0, "google/siglip2-so400m-patch16-512"),
    (
        *("Siglip2Model", "Apache-2.0", 256, 0),
        "google/siglip2-{base,so400m}-patch16-naflex",
    ),
    (
        *("BeitForImageClassification", "Apache-2.0", 224, 1000),
        "microsoft/beit-{base,large}-patch16-224",
    ),
    (
        *("BeitForImageClassification", "Apache-2.0", 384, 1000),
        "microsoft/beit-{base,large}-patch16-384",
    ),
    (
        *("BeitForImageClassification", "Apache-2.0", 512, 1000),
        "microsoft/beit-large-patch16-512",
    ),
    (
        *("BeitForImageClassification", "Apache-2.0", 224, 21841),
        "microsoft/beit-{base,large}-patch16-224-pt22k-ft22k",
    ),
    (
        *("BeitForMaskedImageModeling", "Apache-2.0", 224, 0),
        "microsoft/beit-{base,large}-patch16-224-pt22k",
    ),
    (
        *("Aimv2VisionModel", "apple-amlr", 224, 0),
        "apple/aimv2-{large,huge,1B,3B}-patch14-224",
    ),
    (
        *("Aimv2VisionModel", "apple-amlr", 336, 0),
        "apple/aimv2-{large,huge,1B,3B}-patch14-336",
    ),
    (
        *("Aimv2VisionModel", "apple-amlr", 448, 0),
        "apple/aimv2-{large,huge,1B,3B}-patch14-448",
    ),
    (
        *("IJepaModel", "CC-BY-NC-4.0", 224, 0),
        "facebook/ijepa_{vith14_1k,vith14_22k,vitg16_22k}",
    ),
    ("IJepaModel", "CC-BY-NC-4.0", 448, 0, "facebook/ijepa_vith16_1k"),
    ("ViTMAEForPreTraining", "Apache-2.0", 224, 0, "facebook/vit-mae-{base,large,huge}"),
    (
        *("ViTMSNModel", "Apache-2.0", 224, 0),
        "facebook/vit-msn-{small,base,base-4,large,large-7}",
    ),
    ("ViTModel", "Apache-2.0", 224, 0, "facebook/dino-{vits16,vits8,vitb16,vitb8}"),
    (
        *("ViTForImageClassification", "Apache-2.0", 224, 1000),
        "google/vit-{base,large}-patch16-224",
    ),
    (
        *("ViTForImageClassification", "Apache-2.0", 384, 1000),
        "google/vit-{base-patch16,base-patch32,large-patch16,large-patch32}-384",
    ),
    (
        *("ViTModel", "Apache-2.0", 224, 0),
        "google/vit-{base-patch16,base-patch32,large-patch16,large-patch32,huge-patch14}"
        "-224-in21k",
    ),
    (
        *("ViTForImageClassification", "Apache-2.0", 224, 1000),
        "facebook/deit-{tiny,small,base}-patch16-224",
    ),
    (
        *("DeiTForImageClassificationWithTeacher", "Apache-2.0", 224, 1000),
        "facebook/deit-{tiny,small,base}-distilled-patch16-224",
    ),
    (
        *("DeiTForImageClassificationWithTeacher", "Apache-2.0", 384, 1000),
        "facebook/deit-base-distilled-patch16-384",
    ),
    (
        *("ViTForImageClassification", "Apache-2.0", 384, 1000),
        "facebook/deit-base-patch16-384",
    ),
]
_GATED = ("facebook/dinov3-",)
# KerasHub's classes whose presets keras_vit reads, with their license.
_PRESETS = {
    "vit": ("ViTBackbone", "Apache-2.0"),
    "deit": ("DeiTBackbone", "Apache-2.0"),
    "dinov2": ("DINOV2Backbone", "Apache-2.0"),
    "dinov3": ("DINOV3Backbone", "dinov3-license"),
}


def expand(pattern: str) -> list[str]:
    """Return the names that a pattern with alternatives in braces stands for."""
    found = re.search(r"\{([^}]*)\}", pattern)
    if found is None:
        return [pattern]
    start, end = found.span()
    return [
        name
        for choice in found[1].split(",")
        for name in expand(pattern[:start] + choice + pattern[end:])
    ]


def transformers_rows() -> dict[str, dict[str, Any]]:
    """Return the fields of every repository of transformers, by name."""
    known = exact("transformers", "saved")
    return {
        name: {
            "architecture": kind.partition(" ")[0],
            "family": family(name),
            "resolution": resolution,
            "classes": classes,
            "license": license,
            **({"gated": True} if name.startswith(_GATED) else {}),
        }
        for kind, license, resolution, classes, pattern in _REPOSITORIES
        if kind in known
        for name in expand(pattern)
    }


def keras_hub_rows(models: list[str]) -> dict[str, dict[str, Any]]:
    """Return the fields of every preset of KerasHub, by name.

    Args:
        models: list of the packages in `keras_hub.models` whose presets are read.
    """
    spec: Any = importlib.util.find_spec("keras_hub")
    rows = {}
    for model in models:
        architecture, license = _PRESETS[model]
        directory = pathlib.Path(spec.origin).parent.joinpath("src", "models", model)
        scope: dict[str, Any] = {}
        exec((directory / f"{model}_presets.py").read_text(), scope)
        for name, preset in scope["backbone_presets"].items():
            description = preset["metadata"]["description"]
            size = re.search(r"_(\d{3})(_|$)", name) or re.search(
                r"(\d{3})x\d{3}", description
            )
            rows[name] = {
                "architecture": architecture,
                "family": family(name),
                "resolution": int(size[1]) if size else 518 if model == "dinov2" else 224,
                "license": license,
                "url": preset["kaggle_handle"],
                **({"gated": True} if model == "dinov3" else {}),
            }
    return rows


def main():
    parser = argparse.ArgumentParser(
        prog="python -m recipes.catalogue",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--results", type=pathlib.Path, required=True)
    parser.add_argument(
        "--presets",
        nargs="*",
        choices=_PRESETS,
        default=["vit"],
        help="packages of KerasHub whose presets keras_vit reads; default: vit",
    )
    arguments = parser.parse_args()
    tables = {
        "timm": timm_rows(arguments.results),
        "transformers": transformers_rows(),
        "KerasHub": keras_hub_rows(arguments.presets),
    }
    for source, rows in tables.items():
        name = {"KerasHub": "keras_hub"}.get(source, source)
        write(DATA / f"checkpoints_{name}.toml", source, rows)
        print(f"{source}: {len(rows)} checkpoints")


if __name__ == "__main__":
    main()
