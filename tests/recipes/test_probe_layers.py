"""The recipe that probes every block."""

import json

import pytest

from recipes.probe_layers import main

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
