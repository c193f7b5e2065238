"""Directories that timm and transformers save, compared with their own outputs.

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


@pytest.mark.skipif(
    not DIRECTORY.is_dir(), reason=f"no {DIRECTORY}: modern checkpoints are NOT TESTED"
)
@pytest.mark.parametrize("name", NAMES)
def test_outputs(name):
    with np.load(DIRECTORY / f"{name}.io.npz") as io:
        reference = {key: io[key] for key in io.files}
    inputs = reference.pop("inputs")
    model = keras_vit.load_checkpoint(DIRECTORY / name)
    if "logits" in reference:
        model.get_layer("classifier").activation = None
    outputs = {"logits" if model.get_config()["include_top"] else "pooled": model.output}
    outputs["tokens"] = model.get_layer("pooling").input
    computed = keras.Model(model.input, outputs)(inputs)
    assert reference
    for key, expected in reference.items():
        np.testing.assert_allclose(
            array(computed[key]), expected, rtol=0, atol=1e-4, err_msg=key
        )
