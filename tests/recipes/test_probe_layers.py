"""The recipe that probes every block."""

import json

import numpy as np
import pytest

from recipes.probe_layers import block_features, main
from tests.cases import array, perturb, random_images, tiny_vit

SMALL = [
    "model.arguments.hidden_dim=16",
    "model.arguments.mlp_dim=24",
    "model.arguments.num_layers=2",
    "model.arguments.num_heads=2",
]


@pytest.mark.any_backend
def test_table_and_picture(tmp_path):
    settings = [word for text in SMALL for word in ("--set", text)]
    main(["one=digits_igpt", "two=digits_igpt_masked", "--out", str(tmp_path), *settings])
    results = json.loads((tmp_path / "probes.json").read_text())
    assert list(results) == ["one", "two"]
    assert all(len(values) == 2 for values in results.values())
    # Ten classes: even random weights are better than chance.
    assert min(map(min, results.values())) > 0.2
    assert "| one | " in (tmp_path / "probes.md").read_text()
    assert (tmp_path / "probes.png").stat().st_size > 1000


@pytest.mark.any_backend
@pytest.mark.parametrize("class_token", [True, False])
def test_registers_are_not_probed(class_token):
    model = tiny_vit(
        include_top=False, registers=2, pooling=None, class_token=class_token
    )
    perturb(model)
    images = random_images(model)
    found = np.split(array(block_features(model)(images)), 2, axis=-1)
    maps = model.feature_model((0, 1), as_grid=False, prefix_tokens=True)(images)
    for number, features in enumerate(found):
        expected = array(maps[f"block_{number}"]).mean(axis=1)
        if class_token:
            expected = array(maps[f"block_{number}_prefix"])[:, 0]
        np.testing.assert_allclose(features, expected, atol=1e-5)
