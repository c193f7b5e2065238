"""Floating-point operations counted by the backend, compared with a formula."""

import types

import keras
import pytest

import keras_vit
from keras_vit.training import SelfDistillation, cost
from tests.cases import tiny_vit

pytestmark = pytest.mark.any_backend


@pytest.mark.parametrize("side", [32, pytest.param(64, marks=pytest.mark.slow)])
def test_operations_of_a_forward_pass(side):
    model = keras_vit.ViTTi16(input_shape=(side, side, 3), patch_size=8, classes=10)
    grid = (side // 8) ** 2
    n, d, mlp = grid + 1, 192, 768
    products = grid * 192 * d + d * 10
    products += 12 * (n * d * (4 * d + 2 * mlp) + 2 * n * n * d)
    assert cost.forward_operations(model) == pytest.approx(2 * products, rel=0.02)


def test_operations_for_all_views_of_an_image():
    backbone = tiny_vit(include_top=False, num_layers=1)
    crops = keras_vit.data.MultiCrop(local_crops=3, local_size=(8, 16))
    model = SelfDistillation(backbone, crops, prototypes=12, head_dim=10, steps=8)
    # Student and teacher each see both large crops.
    assert cost.forward_operations(model) > 4 * cost.forward_operations(backbone)


def test_frozen_kernels_need_fewer_operations(monkeypatch):
    monkeypatch.setattr(cost, "device_name", lambda: "NVIDIA H100 80GB HBM3")
    model = tiny_vit()
    assert cost.utilization(model, "float32") is not None
    model.get_layer("block_0").trainable = False
    assert cost.utilization(model, "float32") is None


@pytest.mark.slow
def test_peaks(monkeypatch):
    assert cost.peak_memory() > 1e6
    monkeypatch.setattr(cost, "device_name", lambda: "NVIDIA H100 80GB HBM3")
    assert cost.peak("mixed_bfloat16") == 989e12
    assert cost.peak("float64") is None
    model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10)
    part = cost.utilization(model, "mixed_bfloat16")
    operations = 3 * cost.forward_operations(model)
    assert part(1000.0) == pytest.approx(1000.0 * operations / 989e12)
    eight = types.SimpleNamespace(device_mesh=types.SimpleNamespace(shape=(4, 2)))
    monkeypatch.setattr(keras.distribution, "distribution", lambda: eight)
    part = cost.utilization(model, "mixed_bfloat16")
    assert part(1000.0) == pytest.approx(1000.0 * operations / 989e12 / 8)
    monkeypatch.setattr(cost, "device_name", lambda: "cpu")
    assert cost.utilization(model, "float32") is None


def test_the_device_has_a_name():
    assert isinstance(cost.device_name(), str)
    assert keras.backend.backend() in ("jax", "tensorflow", "torch")
