"""The authors' own code of T2T-ViT, from a clone of its repository.

https://github.com/yitu-opensource/T2T-ViT needs old versions of torch and timm only in
modules that are not imported here.
"""

import importlib
import os
import pathlib
import sys
import types
from typing import Any

CODE = "T2T_VIT_CODE"  # Environment variable that names the clone to the workers.
MODULE = "models/t2t_vit.py"


def is_clone(directory: str | os.PathLike) -> bool:
    """Return whether a directory is a clone of the repository."""
    return pathlib.Path(directory, MODULE).is_file()


def network(sizes: dict[str, Any], classes: int) -> Any:
    """Build a `T2T_ViT` with Performers, the authors' default.

    Args:
        sizes: see `contestants.Contestant.build`.
        classes: number of classes.

    Raises:
        FileNotFoundError: the environment names no clone of the repository.
    """
    code = os.environ.get(CODE, "")
    if not is_clone(code):
        raise FileNotFoundError(f"{CODE}={code!r} is no clone of T2T-ViT: no {MODULE}.")
    # An empty package in place of the authors', which imports every variant.
    package = types.ModuleType("original_t2t_vit")
    package.__path__ = [str(pathlib.Path(code, "models"))]
    sys.modules[package.__name__] = package
    return importlib.import_module(f"{package.__name__}.t2t_vit").T2T_ViT(
        img_size=sizes["image_size"],
        tokens_type="performer",
        num_classes=classes,
        embed_dim=sizes["hidden_dim"],
        depth=sizes["num_layers"],
        num_heads=sizes["num_heads"],
        mlp_ratio=sizes["mlp_dim"] / sizes["hidden_dim"],
    )
