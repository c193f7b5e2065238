"""Small stand-ins for the checkpoints and images that the pages of the documentation use.

Downloads are replaced below `keras_vit.load_checkpoint`: it reads a file in the format of
the real one, whose network has few and narrow layers.
"""

import contextlib
import pathlib
from unittest import mock

import numpy as np
from PIL import Image

import keras_vit
from keras_vit.weights import download
from keras_vit.weights.google import save_npz
from keras_vit.weights.timm_writer import timm_directory
from keras_vit.weights.transformers.writer import transformers_directory
from tests.cases import random_array
from tests.conftest import GOLDENS

NARROW = {"hidden_dim": 24, "mlp_dim": 96}
# A grid of 3x3: pages load larger ones.
SMALL = {"input_shape": (48, 48, 3), "num_layers": 2}
# Published name: variant of keras_vit, and arguments that differ.
NETWORKS = {
    "vit_ti16.augreg_in21k_ft_in1k_224": ("ViTTi16", {}),
    "vit_s16.augreg_in21k_224": ("ViTS16", {"classes": 21843}),
    "vit_b16.augreg_in21k_ft_in1k_224": ("ViTB16", {}),
    "vit_b16.augreg_in21k_ft_in1k_384": ("ViTB16", {}),
    "vit_base_patch16_224.augreg_in21k_ft_in1k": ("ViTB16", {"activation": "gelu"}),
    "google/vit-base-patch16-224": (
        "ViTB16",
        {"activation": "gelu", "layer_norm_epsilon": 1e-12},
    ),
    "facebook/dinov2-small": (
        "DINOv2ViTS14",
        {"input_shape": (70, 70, 3), "include_top": False, "num_layers": 12},
    ),
    "openai/clip-vit-base-patch32": (
        "CLIPViTB32",
        {
            "input_shape": (64, 64, 3),
            "classes": 16,
            "classifier_activation": None,
            "final_norm": "after_pooling",
        },
    ),
}
VARIANTS = {
    name: getattr(keras_vit, name)
    for name in keras_vit.__all__
    if "ViT" in name or "BEiT" in name
    if not isinstance(getattr(keras_vit, name), type)
}


def build(name: str) -> keras_vit.ViT:
    """Return a small network that stands for a published one."""
    variant, arguments = NETWORKS[name]
    given = {**NARROW, **SMALL, **arguments}
    # Other libraries have no bilinear resize without antialiasing.
    preprocessor = keras_vit.layers.Preprocessor(
        image_size=given["input_shape"][:2], resize="bilinear_antialias"
    )
    model = VARIANTS[variant](preprocessor=preprocessor, **given)
    return with_scores(model) if arguments.get("include_top", True) else model


def with_scores(model):
    """Return the model with a classifier that is not zero, as that of a new model is."""
    kernel = model.get_layer("classifier").kernel
    kernel.assign(random_array(*kernel.shape, scale=0.1))
    return model


@contextlib.contextmanager
def published(directory: pathlib.Path):
    """Replace downloads by narrow networks that are written to a directory."""

    def file(self):
        path = pathlib.Path(self.path)
        path.parent.mkdir(parents=True, exist_ok=True)
        model = build(self.checkpoint.name)
        if path.suffix == ".npz":
            save_npz(model, path)
            return
        timm_directory(model).write(written := path.with_suffix(".directory"))
        (written / "model.safetensors").rename(path)

    def repository(name, **_):
        path = directory / name.replace("/", "--")
        if not path.exists():
            transformers_directory(build(name)).write(path)
        return str(path)

    # A KerasHub preset needs no stand-in: the goldens have a small one.
    preset = str(GOLDENS / "keras_hub_token.checkpoint")
    with (
        mock.patch.object(download, "_fetch_preset", return_value=preset),
        mock.patch.dict("os.environ", KERAS_HOME=str(directory)),
        mock.patch.object(download._Download, "run", file),
        mock.patch("huggingface_hub.snapshot_download", repository),
    ):
        yield


@contextlib.contextmanager
def narrow_variants():
    """Give the named variants narrow layers, and two blocks instead of twelve or more."""

    def narrow(variant):
        return lambda **given: variant(**{**NARROW, "num_layers": 2, **given})

    with contextlib.ExitStack() as stack:
        for name, variant in VARIANTS.items():
            stack.enter_context(mock.patch.object(keras_vit, name, narrow(variant)))
        yield


def pixels(*shape: int) -> np.ndarray:
    """Return images with pixel values from 0 to 255."""
    return np.random.default_rng(0).integers(0, 256, shape, "uint8")


def photos(directory: pathlib.Path, classes: tuple[str, ...], number: int) -> None:
    """Write a folder of photos for each class."""
    for i, name in enumerate(classes):
        (directory / name).mkdir(parents=True)
        for j in range(number):
            color = 40 + 30 * i + pixels(48, 64, 3) // 2
            Image.fromarray(np.roll(color, j)).save(directory / name / f"{j}.jpg")


def classifier(**arguments) -> keras_vit.ViT:
    """Return a small classifier of cats and dogs."""
    given = {"input_shape": (32, 32, 3), "patch_size": 8, "num_heads": 2, "classes": 2}
    return with_scores(keras_vit.ViT(**{**NARROW, "num_layers": 2, **given, **arguments}))
