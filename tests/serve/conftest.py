"""One export and one server for the tests of all files, which cost half a minute."""

import shutil

import pytest

from keras_vit.export import saved_model
from keras_vit.layers import Preprocessor
from tests.cases import perturb, tiny_vit
from tests.export.serving import exports_here


@pytest.fixture(scope="session")
def model():
    return perturb(tiny_vit(preprocessor=Preprocessor.imagenet((16, 24), 0.9)))


@pytest.fixture(scope="session")
def exported(model, tmp_path_factory):
    from tests.serve.served import LABELS

    directory = tmp_path_factory.mktemp("served") / "vit"
    with exports_here():
        saved_model(model, directory, 3, LABELS, top_k=2, verbose=False)
    (directory / "2").mkdir()
    # The following versions cannot be served.
    (directory / "4").mkdir()
    (directory / "5").mkdir()
    (directory / "5" / "saved_model.pb").write_bytes(b"damaged")
    shutil.copytree(directory / "3", directory / "6")
    next((directory / "6" / "variables").glob("*.data-*")).write_bytes(b"")
    for name in ("03", "007", "\u0667", "\u00b2"):
        shutil.copytree(directory / "3", directory / name)
    return directory


@pytest.fixture(scope="session")
def features_server(headless):
    from tests.serve.served import Served

    server = Served(headless.directory)
    yield server
    assert server.stop() == (0, [])


@pytest.fixture(scope="session")
def server(exported):
    from tests.serve import served

    limits = {
        "--max-body": served.MAX_BODY,
        "--max-instances": served.MAX_INSTANCES,
        "--max-waiting": served.MAX_WAITING,
        "--body-timeout": served.TIMEOUT,
    }
    options = [x for pair in limits.items() for x in pair]
    server = served.Served(exported, *options, "--allow-host", "a.example")
    yield server
    code, errors = server.stop()
    assert (code, errors) == (0, [])
