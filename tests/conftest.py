import gc
import os
import pathlib
import re
import shutil
import warnings

# Share compiled programs between tests, workers and the commands that tests start.
_CACHE = pathlib.Path(__file__).parents[1] / ".jax_cache"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(_CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# The models are tiny: compiling their programs takes longer than running them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import keras  # noqa: E402
import pytest  # noqa: E402

import keras_vit  # noqa: E402

# `make test` runs every fast test under TensorFlow, and fewer under the others.
FIRST_BACKEND = keras.backend.backend() == "tensorflow"


WHOLE_FILE = re.compile(r"^pytestmark = \[?\s*pytest\.mark\.any_backend\b", re.M)


def pytest_ignore_collect(collection_path, config):
    """Skip files in which every test is deselected; importing them takes seconds."""
    if not config.option.markexpr.endswith(" and not any_backend"):
        return None
    if not re.fullmatch(r"test_.*\.py", collection_path.name):
        return None
    return True if WHOLE_FILE.search(collection_path.read_text("utf-8")) else None


def pytest_collection_modifyitems(items):
    for item in items:
        if isinstance(item, pytest.DoctestItem):  # The examples are for readers.
            item.add_marker("any_backend")
        if item.get_closest_marker("slow_elsewhere") and not FIRST_BACKEND:
            item.add_marker("slow")


def pytest_collection_finish():
    # Python's garbage collector would visit the hundreds of thousands of objects of the
    # imported packages again and again, for several percent of the time.
    gc.collect()
    gc.freeze()


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


@pytest.fixture(scope="session")
def headless(tmp_path_factory):
    """Return a headless SavedModel, whose export takes seconds, with its model."""
    pytest.importorskip("tensorflow", reason="exports need TensorFlow")
    from tests.export.headless import export_headless

    return export_headless(tmp_path_factory.mktemp("headless"))


@pytest.fixture(scope="module")
def browser():
    """Return headless Chromium, which opens the pages that users look at."""
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="the page is NOT TESTED"
    )
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("the page is NOT TESTED: no Chromium (apt-get install chromium)")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def tensorflow():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip("tensorflow", reason="exports need TensorFlow")
