"""Write the tables of checkpoints that timm, transformers and KerasHub publish.

    python -m recipes.catalogue --results results-imagenet.csv

The tables are `keras_vit/data/checkpoints_{timm,transformers,keras_hub}.toml`. Their
contents come from the installed libraries (timm's `pretrained_cfg`, KerasHub's presets),
from `transformers_repositories.toml` beside this file, which was written by hand, and
from `results/results-imagenet.csv` in the repository of timm. Only networks that
`docs/results/compatibility_*.json` lists as exact are included.
"""

import argparse
import collections
import csv
import importlib.util
import json
import pathlib
import re
import tomllib
from typing import Any

from recipes.compatibility.__main__ import RESULTS

REPOSITORIES = pathlib.Path(__file__).with_name("transformers_repositories.toml")
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


_GATED = ("facebook/dinov3-",)
# KerasHub's classes whose presets keras_vit reads, with their license.
_PRESETS = {
    "vit": ("ViTBackbone", "Apache-2.0"),
    "deit": ("DeiTBackbone", "Apache-2.0"),
    "dinov2": ("DINOV2Backbone", "Apache-2.0"),
    "dinov3": ("DINOV3Backbone", "dinov3-license"),
}


def transformers_rows() -> dict[str, dict[str, Any]]:
    """Return the fields of the repositories in `transformers_repositories.toml`."""
    known = exact("transformers", "saved")
    groups = tomllib.loads(REPOSITORIES.read_text())["groups"]
    return {
        name: {
            "architecture": group["class"].partition(" ")[0],
            "family": family(name),
            "resolution": group["resolution"],
            "classes": group["classes"],
            "license": group["license"],
            **({"gated": True} if name.startswith(_GATED) else {}),
        }
        for group in groups
        if group["class"] in known
        for name in group["names"]
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
        default=list(_PRESETS),
        help="packages of KerasHub whose presets are listed; default: all",
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
