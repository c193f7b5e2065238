"""Modern networks as timm saves them, compared with timm's own outputs.

The directories are in `../shared/goldens_modern`, outside of the repository.
"""

import keras
import numpy as np
import pytest

import keras_vit
from tests.cases import array
from tests.conftest import GOLDENS

DIRECTORY = GOLDENS.parents[2] / "shared" / "goldens_modern"
NAMES = (
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


@pytest.mark.skipif(
    not DIRECTORY.is_dir(), reason=f"no {DIRECTORY}: modern checkpoints are NOT TESTED"
)
@pytest.mark.parametrize("name", NAMES)
def test_outputs(name):
    with np.load(DIRECTORY / f"{name}.io.npz") as io:
        reference = {key: io[key] for key in io.files}
    model = keras_vit.load_checkpoint(DIRECTORY / name, classifier_activation=None)
    outputs = {"logits": model.output, "pooled": model.get_layer("classifier").input}
    outputs["tokens"] = model.get_layer("pooling").input
    computed = keras.Model(model.input, outputs)(reference.pop("inputs"))
    assert len(reference) == 3
    for key, expected in reference.items():
        np.testing.assert_allclose(
            array(computed[key]), expected, rtol=0, atol=1e-4, err_msg=key
        )
