"""Directories that timm and transformers save, compared with their own outputs.

The directories are in `../shared/goldens_modern`, outside of the repository.
"""

import json

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_vit
from recipes.benchmark import torchvision_stub
from tests.cases import (
    array,
    mostly_slow,
    mostly_slow_elsewhere,
    outputs,
    random_array,
)
from tests.conftest import GOLDENS

DIRECTORY = GOLDENS.parents[2] / "shared" / "goldens_modern"
pytestmark = pytest.mark.skipif(
    not DIRECTORY.is_dir(), reason=f"no {DIRECTORY}: modern checkpoints are NOT TESTED"
)
HUGGING_FACE = (
    "hf_beit",
    "hf_clip",
    "hf_dinov2",
    "hf_dinov2_classifier",
    "hf_dinov2_registers",
    "hf_dinov3",
    "hf_dinov3_gated",
    "hf_ijepa",
    "hf_siglip",
    "hf_vit_msn",
)
TIMM = (
    "timm_aimv2",
    "timm_beit",
    "timm_clip",
    "timm_clip_quickgelu",
    "timm_dinov2_registers",
    "timm_dinov2_swiglu",
    "timm_dinov3",
    "timm_dinov3_qkvb",
    "timm_dinov3_swiglu",
    "timm_eva02",
    "timm_eva02_base",
    "timm_eva_giant",
    "timm_mediumd",
    "timm_pe_core",
    "timm_rope_axial_ape",
    "timm_rope_mixed",
    "timm_rpn",
    "timm_siglip",
    "timm_so150m2",
)


# Another network here or in test_transformers_networks.py covers what these have.
LIKE_OTHERS = {
    "hf_dinov2_classifier",
    "hf_vit_msn",
    "timm_clip_quickgelu",
    "timm_dinov3_qkvb",
    "timm_eva02_base",
    "timm_eva_giant",
    "timm_mediumd",
}


def cases(names, *fast):
    """Return the cases of a test; those in `LIKE_OTHERS` are slow."""
    slow = [name for name in names if name in LIKE_OTHERS]
    others = [name for name in names if name not in LIKE_OTHERS]
    return mostly_slow_elsewhere(others, *fast) + mostly_slow(slow)


def read_reference(name):
    """Return the inputs, and a dict of the reference's outputs."""
    with np.load(DIRECTORY / f"{name}.io.npz") as io:
        reference = {key: io[key] for key in io.files}
    return reference.pop("inputs"), reference


def check_outputs(model, inputs, symbolic, reference):
    """Compare symbolic outputs of a model with those of the reference."""
    symbolic["tokens"] = model.get_layer("pooling").input
    computed = outputs(keras.Model(model.input, symbolic), inputs)
    for key, expected in reference.items():
        np.testing.assert_allclose(
            computed[key], expected, rtol=0, atol=1e-4, err_msg=key
        )


@pytest.mark.parametrize("name", cases(HUGGING_FACE, "hf_dinov3"))
def test_transformers(name):
    inputs, reference = read_reference(name)
    model = keras_vit.load_checkpoint(DIRECTORY / name)
    if "logits" in reference:
        model.get_layer("classifier").activation = None
    output = "logits" if model.get_config()["include_top"] else "pooled"
    assert reference
    check_outputs(model, inputs, {output: model.output}, reference)


@pytest.mark.parametrize("name", cases(TIMM, "timm_rope_mixed"))
def test_timm(name):
    inputs, reference = read_reference(name)
    model = keras_vit.load_checkpoint(DIRECTORY / name, classifier_activation=None)
    symbolic = {"logits": model.output, "pooled": model.get_layer("classifier").input}
    assert len(reference) == 3
    check_outputs(model, inputs, symbolic, reference)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("name", "grid"),
    [
        # timm samples a table of offsets again along the axis that keeps its length, too.
        ("timm_beit", (4, 6)),
        *(
            pytest.param(name, grid, marks=marks)
            for name in ("timm_dinov3", "timm_eva02", "timm_rope_mixed", "timm_beit")
            for grid, marks in (((6, 3), ()), ((5, 5), pytest.mark.slow))
        ),
    ],
)
def test_other_sizes(name, grid):
    """Compare a resized model, and a file loaded at another size, with timm's."""
    torch = pytest.importorskip("torch", reason="other sizes are NOT TESTED")
    torchvision_stub.install()
    timm = pytest.importorskip("timm", reason="other sizes are NOT TESTED")
    description = json.loads((DIRECTORY / name / "config.json").read_text())
    network = timm.create_model(description["architecture"], **description["model_args"])
    tensors = load_file(DIRECTORY / name / "model.safetensors")
    network.load_state_dict({n: torch.from_numpy(x) for n, x in tensors.items()})
    network.eval().set_input_size([network.patch_embed.patch_size[0] * s for s in grid])
    height, width = network.patch_embed.img_size
    images = random_array(2, height, width, 3)
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    options = {"classifier_activation": None}
    model = keras_vit.load_checkpoint(DIRECTORY / name, **options)
    resized = model.resized((height, width, 3), resize="bicubic_antialias")
    loaded = keras_vit.load_checkpoint(
        DIRECTORY / name, input_shape=(height, width, 3), **options
    )
    for other in (resized, loaded):
        np.testing.assert_allclose(array(other(images)), expected, rtol=0, atol=1e-4)
