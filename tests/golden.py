"""Checkpoints written by other implementations, with their reference outputs."""

import json

import numpy as np
import pytest

import keras_vit
from tests.conftest import GOLDENS

NAMES = sorted(path.name[:-5] for path in GOLDENS.glob("*.json"))


class Golden:
    """Checkpoint of another implementation with its configuration and outputs."""

    def __init__(self, name):
        (self.path,) = GOLDENS.glob(f"{name}.checkpoint*")
        if self.path.suffix == ".tar":
            pytest.importorskip("torch", reason="T2T-ViT's files: NOT TESTED")
        description = json.loads((GOLDENS / f"{name}.json").read_text())
        self.input_shape = tuple(description["input_shape"])
        self.config = description["config"]
        self.parameters = description["parameters"]
        with np.load(GOLDENS / f"{name}.io.npz") as io:
            self.inputs, self.outputs = io["inputs"], io["outputs"]
            self.features = io.get("features")
        # Files of timm and transformers do not state the number of heads.
        self.overrides = {"input_shape": self.input_shape}
        for key in ("num_heads", "num_attention_heads"):
            if key in self.config:
                self.overrides["num_heads"] = self.config[key]
        # The 25 rows of these files (4x6 patches and a class token) could also be a 5x5
        # grid without a class token.
        if name in ("timm_token", "timm_gap_class_token", "timm_no_qkv_bias"):
            self.overrides["class_token_position"] = True
        # No tensor shows these settings.
        if name == "timm_deit3":
            self.overrides["positions"] = "learned"
        if name == "timm_map":
            self.overrides["activation"] = "gelu"

    @property
    def arrays(self):
        """Tensors of an `.npz` checkpoint."""
        with np.load(self.path) as arrays:
            return dict(arrays)

    def load(self, **overrides):
        arguments = {**self.overrides, "classifier_activation": None, **overrides}
        return keras_vit.load_checkpoint(self.path, **arguments)
