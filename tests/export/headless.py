"""One headless SavedModel for the tests of exports and of the server."""

import contextlib
import dataclasses
import io
import pathlib

import keras

import keras_vit
from keras_vit.layers import Preprocessor
from tests.cases import perturb, tiny_vit
from tests.commands import run_command
from tests.export.serving import exports_here


@dataclasses.dataclass
class Headless:
    """A model without its classifier, its SavedModel, and what the command printed."""

    model: keras.Model
    directory: pathlib.Path
    printed: str


def export_headless(folder):
    """Save a classifier, and export it without its head by the command."""

    preprocessor = Preprocessor.imagenet((16, 24), 0.9)
    classifier = tiny_vit(registers=2, activation="gelu", preprocessor=preprocessor)
    path, printed = folder / "model.keras", io.StringIO()
    perturb(classifier).save(path)
    with exports_here(), contextlib.redirect_stdout(printed):
        run_command("export", [str(path), "--to", str(folder / "features"), "--headless"])
    model = keras_vit.load_checkpoint(path, head="drop")
    return Headless(model, folder / "features", printed.getvalue())
