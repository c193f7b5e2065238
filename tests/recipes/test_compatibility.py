"""Comparison with other libraries: differences, reports and resumed sweeps."""

import importlib.metadata
import json

import numpy as np
import pytest

from recipes.compatibility import __main__ as command
from recipes.compatibility import report
from recipes.compatibility.comparison import relative_difference

pytestmark = pytest.mark.any_backend


def outcome(verdict, reason=""):
    exact = verdict == "exact"
    return {
        "verdict": verdict,
        "arguments": {},
        "difference": 1e-6 if exact else None,
        "reason": reason,
    }


ROWS = [
    {"name": "a", "ideas": [], "saved": outcome("exact"), "bare": outcome("exact")},
    {
        "name": "b",
        "ideas": ["registers"],
        "saved": outcome("refused", "No registers"),
        "bare": outcome("exact"),
    },
    {
        "name": "c",
        "ideas": ["registers"],
        "saved": outcome("wrong", "logits differ"),
        "bare": outcome("exact"),
    },
]
FAILED = {"name": "d", "failure": "KeyError: 'x'"}


def test_values_that_are_not_finite_differ():
    expected = np.array([1.0, -4.0])
    assert relative_difference(np.array([1.0, -3.0]), expected) == 0.25
    for wrong in (np.nan, np.inf):
        assert relative_difference(np.array([wrong, -4.0]), expected) == np.inf
    assert relative_difference(np.array([np.nan]), np.array([np.nan])) == np.inf
    assert relative_difference(expected[:1], expected) == np.inf


def test_the_table_names_the_verdict_on_each_network():
    table = report.missing([*ROWS, FAILED])
    assert [row[1:4] for row in table[1:]] == [
        ["refused", "registers", "b"],
        ["wrong", "registers", "c"],
        ["failed", "-", "d"],
    ]
    text = report.summary([*ROWS, FAILED])
    assert "Not exact with config.json as saved by the library:" in text
    assert "wrong, registers: c (logits differ)" in text


@pytest.mark.parametrize("rows", [[*ROWS, FAILED], [FAILED]])
def test_the_report(rows, tmp_path):
    report.write_report("numpy", rows, tmp_path / "table")
    assert json.loads((tmp_path / "table.json").read_text())["rows"] == rows
    text = (tmp_path / "table.md").read_text()
    assert "| 1 | failed | - | d | KeyError: 'x' |" in text
    assert "refused\n" not in text
    assert report.summary(rows)


def test_a_sweep_of_other_versions_is_not_resumed(tmp_path, monkeypatch):
    versions = dict.fromkeys(["timm", "torch", "keras", "jax", "tensorflow"], "1")
    monkeypatch.setattr(importlib.metadata, "version", versions.__getitem__)
    path = tmp_path / "timm.jsonl"
    assert command.unfinished(path, "timm") == {}
    with path.open("a") as file:
        file.write(json.dumps({"name": "a"}) + "\n")
    assert list(command.unfinished(path, "timm")) == ["a"]
    versions["timm"] = "2"
    assert command.unfinished(path, "timm") == {}
