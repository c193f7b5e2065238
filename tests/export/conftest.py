import pytest

from tests.export.serving import exports_here


@pytest.fixture
def exporting_here():
    """Write the exports of a test in its own process under TensorFlow."""
    with exports_here():
        yield
