"""Checkpoints of other implementations, and the outputs that they must give."""

import json

import numpy as np

import keras_vit
from tests.conftest import GOLDENS

NAMES = sorted(path.name[:-5] for path in GOLDENS.glob("*.json"))


class Golden:
    """A checkpoint, what made it, and the outputs it must give."""

    def __init__(self, name):
        (self.path,) = GOLDENS.glob(f"{name}.checkpoint*")
        description = json.loads((GOLDENS / f"{name}.json").read_text())
        self.input_shape = tuple(description["input_shape"])
        self.config = description["config"]
        self.parameters = description["parameters"]
        with np.load(GOLDENS / f"{name}.io.npz") as io:
            self.inputs, self.outputs = io["inputs"], io["outputs"]
            self.features = io.get("features")
        # Neither timm's nor transformers' files tell their heads.
        self.overrides = {"input_shape": self.input_shape}
        for key in ("num_heads", "num_attention_heads"):
            if key in self.config:
                self.overrides["num_heads"] = self.config[key]
        # For 4x6 patches, 25 rows could as well be a 5x5 grid without class token.
        if name in ("timm_token", "timm_gap_class_token", "timm_no_qkv_bias"):
            self.overrides["class_token_position"] = True
        # What no tensor of timm's shows.
        if name == "timm_deit3":
            self.overrides["positions"] = "learned"
        if name == "timm_map":
            self.overrides["activation"] = "gelu"

    @property
    def arrays(self):
        """The tensors of an `.npz`."""
        with np.load(self.path) as arrays:
            return dict(arrays)

    def load(self, **overrides):
        arguments = {**self.overrides, "classifier_activation": None, **overrides}
        return keras_vit.load_checkpoint(self.path, **arguments)
