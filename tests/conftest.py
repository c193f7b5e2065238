import pathlib
import warnings

import keras
import pytest

import keras_vit

GOLDENS = pathlib.Path(__file__).parent / "goldens"


@pytest.fixture(autouse=True)
def _fixed_seed():
    keras.utils.set_random_seed(0)


@pytest.fixture
def goldens():
    return GOLDENS


@pytest.fixture(params=keras_vit.kernels.switch.KINDS)
def kernels(request):
    """Run the test with fast kernels, then with the plain formulas."""
    keras_vit.kernels.use(request.param)
    yield request.param
    keras_vit.kernels.use("fast")


@pytest.fixture
def tensorflow():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow", reason="exports need TensorFlow")
