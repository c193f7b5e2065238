import numpy as np
import pytest

from keras_vit.layers import RESIZE_CONVENTIONS, resize_grid
from tests.conftest import GOLDENS

# Names of conventions in the goldens; `google` is zoom of order 1 in scipy.
NAMES = {"google": "google_zoom_order1"}


def golden_cases():
    with np.load(GOLDENS / "position_resize.npz") as data:
        return sorted({name.split("/")[0] for name in data.files})


@pytest.mark.parametrize("convention", RESIZE_CONVENTIONS)
@pytest.mark.parametrize("case", golden_cases())
def test_golden(case, convention):
    with np.load(GOLDENS / "position_resize.npz") as data:
        source = data[f"{case}/source"]
        expected = data[f"{case}/{NAMES.get(convention, convention)}"]
    resized = resize_grid(source, expected.shape[:2], convention)
    assert resized.dtype == source.dtype
    np.testing.assert_allclose(resized, expected, rtol=0, atol=1e-5)


def test_every_golden_convention_has_a_name():
    with np.load(GOLDENS / "position_resize.npz") as data:
        golden = {name.split("/")[1] for name in data.files} - {"source"}
    assert golden == {NAMES.get(name, name) for name in RESIZE_CONVENTIONS}


@pytest.mark.parametrize("convention", RESIZE_CONVENTIONS)
def test_the_same_grid_is_untouched(convention):
    grid = np.random.default_rng(0).normal(size=(3, 5, 4))
    np.testing.assert_allclose(resize_grid(grid, (3, 5), convention), grid, atol=1e-12)


@pytest.mark.parametrize("convention", RESIZE_CONVENTIONS)
@pytest.mark.parametrize(("source", "target"), [((1, 1), (3, 2)), ((4, 3), (1, 1))])
def test_a_constant_grid_stays_constant(convention, source, target):
    grid = np.full((*source, 2), 3.0)
    resized = resize_grid(grid, target, convention)
    np.testing.assert_allclose(resized, np.full((*target, 2), 3.0))


def test_unknown_convention():
    with pytest.raises(ValueError, match=r"'nearest'.*'google'.*'bicubic_antialias'"):
        resize_grid(np.zeros((2, 2, 1)), (3, 3), "nearest")
