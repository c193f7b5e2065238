"""Folders of tiny photos, and a tiny checkpoint that is trained on them."""

import numpy as np
from PIL import Image

from tests.cases import tiny_vit

BRIGHTNESS = {"cat": 20, "dog": 90, "horse": 160, "zebra": 240}
# XLA takes seconds to compile each model under TensorFlow.
SHORT = ["epochs=1", "jit_compile=False", "steps_per_execution=1"]


def write_photos(folder, names=("cat", "dog"), count=8, suffix=".jpg", size=(12, 10)):
    """Write a folder of class folders with images that differ by their brightness."""
    generator = np.random.default_rng(0)
    for name in names:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(count):
            noise = generator.integers(-9, 9, (*size[::-1], 3))
            pixels = np.clip(BRIGHTNESS[name] + noise, 0, 255).astype("uint8")
            Image.fromarray(pixels).save(folder / name / f"{i}{suffix}")
    return folder


def write_checkpoint(path):
    """Write a checkpoint of width 16 for images of 16x16 pixels."""
    tiny_vit(input_shape=(16, 16, 3), num_layers=1).save(path)
    return str(path)


def settings(*more):
    return [word for setting in (*SHORT, *more) for word in ("--set", setting)]
