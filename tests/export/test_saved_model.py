import contextlib
import dataclasses
import functools
import io
import os
import pathlib
import sys

import keras
import numpy as np
import pytest

from keras_vit.export import comparison, saved_model, savedmodel
from keras_vit.models.token_reduction import halts, keeps_tokens
from tests.cases import array, perturb, tiny_vit
from tests.export.models import MODELS, NAMES, exact_copy, pixels, tiny_model
from tests.export.serving import exports_here, serve, serve_here

Image = pytest.importorskip("PIL.Image", reason="makes the pictures")
pytestmark = pytest.mark.usefixtures("tensorflow")

# The numbers of values match images of 16x24x3 or whole patches, but the shapes do not.
BAD_SHAPES = [(16, 24, 3), (1152,), (3, 16, 24, 1)]
# Operations that a server may not have or cannot compile.
FOREIGN = ("Xla", "PyFunc", "EagerPyFunc", "TPU")
# With four channels, an export has no signatures for files, which take most of the time.
FOUR = (16, 24, 4)
BAD_SIZES = [(1, 24, 16, 3), (6, 8, 8, 3)]  # Valid only if the export resizes.


def png(image, orientation=1):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x112] = orientation
    Image.fromarray(image).save(file, "PNG", exif=exif)
    return file.getvalue()


@dataclasses.dataclass
class Exported:
    """Export of a case, its answers to the requests of a test, and facts about it."""

    case: str
    model: keras.Model
    exact: keras.Model
    path: pathlib.Path
    printed: str
    images: np.ndarray
    answers: dict
    facts: dict

    @property
    def resizes(self):
        return self.model.preprocessor.image_size is not None

    @property
    def activation(self):
        return MODELS[self.case].get("classifier_activation", "softmax")

    @property
    def output(self):
        return "logits" if self.activation is None else "probabilities"

    @functools.cached_property
    def inputs(self):
        return self.exact.preprocessor(self.images)

    @functools.cached_property
    def logits(self):
        return array(self.exact(self.inputs))

    @functools.cached_property
    def probabilities(self):
        return array(keras.activations.get(self.activation)(self.logits))


@pytest.fixture(scope="module", params=NAMES)
def exported(request, tmp_path_factory):
    """Export each case once; the first is written and run by processes of their own."""
    pytest.importorskip("tensorflow", reason="exports need TensorFlow")
    case = request.param
    folder = tmp_path_factory.mktemp("exported")
    model = tiny_model(MODELS[case])
    alone = case == "everything"
    printed = io.StringIO()
    where = contextlib.nullcontext() if alone else exports_here()
    with where, contextlib.redirect_stdout(printed):
        path = saved_model(model, folder / "served", top_k=3)
    images = pixels(model, 7)
    wrong = BAD_SHAPES + BAD_SIZES
    if model.preprocessor.image_size is not None:
        images = np.concatenate([images, images[:, :11]], axis=1)
        wrong = BAD_SHAPES
    floats = images.astype("float32")
    files = [png(image) for image in images]
    files.insert(2, files[0][:-30])
    files.append(png(np.rot90(images[0]), orientation=6))  # Upright after a turn.
    requests = {
        **{f"{b} images": ("serving_default", "images", floats[:b]) for b in (1, 2, 7)},
        "uint8": ("predict_uint8", "images", images),
        "features": ("features", "images", floats),
        "files": ("predict_bytes", "image_bytes", files),
    }
    for shape in wrong:
        requests[shape] = ("serving_default", "images", np.zeros(shape, "float32"))
    if alone:
        answers, facts = serve(path, list(requests.values()), folder)
    else:
        from tests.export.program import describe

        answers = serve_here(path, list(requests.values()), folder)
        facts = describe(path)
    answers = dict(zip(requests, answers, strict=True))
    exact = exact_copy(model)
    return Exported(case, model, exact, path, printed.getvalue(), images, answers, facts)


def close(served, expected, tolerance=1e-5):
    np.testing.assert_allclose(served, expected, rtol=0, atol=tolerance)


def test_an_export_gives_keras_outputs(exported):
    for request, count in (
        ("1 images", 1),
        ("2 images", 2),
        ("7 images", 7),
        ("uint8", 7),
    ):
        answer = exported.answers[request]
        close(answer["logits"], exported.logits[:count])
        close(answer[exported.output], exported.probabilities[:count])


def test_the_features_of_an_export_are_those_of_keras(exported):
    exact = exported.exact
    headless = exact_copy(exported.model, include_top=False, representation_size=None)
    pooled = array(headless(exported.inputs))
    answer = exported.answers["features"]
    close(answer["pooled"], pooled, comparison.TOLERANCE)  # The values are up to 5.
    if halts(exact):
        assert answer.keys() == {"pooled"}
        return
    if keeps_tokens(exact):
        pooling = exact.get_layer("pooling")
        tokens = array(keras.Model(exact.inputs, pooling.input)(exported.inputs))
        grid = tokens[:, -exact.grid_shape[0] * exact.grid_shape[1] :]
        grid = grid.reshape(7, *exact.grid_shape, -1)
    else:
        grid = array(exact.features(exported.inputs, [-1])[0])
    close(answer["tokens"], grid, comparison.TOLERANCE)


def test_an_export_classifies_files(exported):
    answer, name = exported.answers["files"], exported.output
    assert answer["error"].tolist() == [0, 0, 1, 0, 0, 0, 0, 0, 0]
    bad = {name: values[2].tolist() for name, values in answer.items()}
    assert bad == {
        name: [0.0] * 5,
        "classes": [-1] * 3,
        "labels": [b""] * 3,
        "scores": [0.0] * 3,
        "error": 1,
    }
    answer = {name: np.delete(values, 2, axis=0) for name, values in answer.items()}
    probabilities = exported.probabilities[[*range(7), 0]]
    close(answer[name], probabilities)
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :3]
    assert answer["classes"].tolist() == order.tolist()
    assert answer["labels"].tolist() == [[b"%d" % c for c in row] for row in order]
    close(answer["scores"], np.take_along_axis(probabilities, order, axis=1))


def test_an_export_refuses_images_of_other_shapes(exported):
    shapes = [request for request in exported.answers if isinstance(request, tuple)]
    assert len(shapes) == len(BAD_SHAPES) + (0 if exported.resizes else len(BAD_SIZES))
    for shape in shapes:
        assert isinstance(exported.answers[shape], str)


def test_an_export_is_one_version_with_each_weight_stored_once(exported):
    path, exact = exported.path, exported.exact
    assert path.parts[-2:] == ("served", "1")
    assert str(path) in exported.printed
    assert os.listdir(path.parent) == ["1"]
    stored = sum(file.stat().st_size for file in (path / "variables").iterdir())
    assert stored < 4 * exact.count_params() + 200 * len(exact.weights)


def test_an_export_needs_only_tensorflow(exported):
    assert exported.facts.get("keras", []) == exported.facts["unknown"] == []
    print(*exported.facts["ops"])
    assert not [op for op in exported.facts["ops"] if op.startswith(FOREIGN)]


def test_the_signatures_of_an_export(exported):
    name, exact = exported.output, exported.exact
    size = [-1, -1] if exported.resizes else [16, 24]
    of_images = {"images": ["float32", [-1, *size, 3]]}
    of_pixels = {"images": ["uint8", [-1, *size, 3]]}
    of_files = {"image_bytes": ["string", [-1]]}
    scores = {"logits": ["float32", [-1, 5]], name: ["float32", [-1, 5]]}
    top = {
        name: ["float32", [-1, 5]],
        "classes": ["int32", [-1, 3]],
        "labels": ["string", [-1, 3]],
        "scores": ["float32", [-1, 3]],
        "error": ["int32", [-1]],
    }
    width = exact.get_layer("pooling").output.shape[-1]
    features = {"pooled": ["float32", [-1, width]]}
    if not halts(exact):
        features["tokens"] = ["float32", [-1, *exact.grid_shape, width]]
    attention = {
        "attention": ["float32", [-1, *exact.grid_shape]],
        "crop_fraction": ["float32", [-1]],
        "orientation": ["int32", [-1]],
        "error": ["int32", [-1]],
    }
    signatures = {
        "serving_default": [of_images, scores],
        "predict_uint8": [of_pixels, scores],
        "predict_bytes": [of_files, top],
        "features": [of_images, features],
    }
    if keeps_tokens(exact):
        signatures["attention"] = [of_files, attention]
    assert exported.facts["signatures"] == signatures


@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
def test_an_existing_version_is_never_overwritten(tmp_path, tensorflow):
    model = tiny_vit(input_shape=FOUR)
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "saved_model.pb").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"3 exists.*version=4 or another directory"
    ):
        saved_model(model, tmp_path, version=3)
    assert (tmp_path / "3" / "saved_model.pb").read_text() == "mine"
    saved_model(model, tmp_path, verbose=False)
    assert sorted(os.listdir(tmp_path)) == ["3", "4"]
    # No image format has four channels that fit the model, so there is no signature for
    # files.
    graph = tensorflow.saved_model.load(str(tmp_path / "4"))
    assert sorted(graph.signatures) == ["features", "predict_uint8", "serving_default"]


@pytest.mark.any_backend
def test_a_directory_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match=r"holds other files \(thesis\.tex\)"):
        saved_model(tiny_vit(), tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        saved_model(tiny_vit(), tmp_path / "thesis.tex")
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.any_backend
@pytest.mark.parametrize("version", [0, -1, "1", 1.5, True])
def test_bad_version(tmp_path, version):
    with pytest.raises(ValueError, match="version must be an int, 1 or more"):
        saved_model(tiny_vit(), tmp_path / "served", version=version)
    assert os.listdir(tmp_path) == []


@pytest.mark.any_backend
def test_models_that_cannot_be_exported(tmp_path):
    with pytest.raises(ValueError, match=r"labels name.*include_top=False"):
        saved_model(tiny_vit(include_top=False), tmp_path / "served", labels=["a"])
    inputs = keras.Input((4,))
    plain = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    for other in (plain, None):
        with pytest.raises(ValueError, match="are of keras_vit models"):
            saved_model(other, tmp_path / "served")
    assert os.listdir(tmp_path) == []


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"labels": ["a", "b"]}, "has 5 classes and needs as many labels; received 2"),
        ({"labels": "abcde"}, "labels must be a list of str"),
        ({"labels": range(5)}, "labels must be a list of str"),
        ({"top_k": 0}, "top_k must be an int, 1 or more; received 0"),
        ({"top_k": True}, "top_k must be an int, 1 or more; received True"),
        ({"max_pixels": 1e6}, "max_pixels must be an int, 1 or more"),
        ({"max_pixels": 815}, "max_pixels must be 816 or more for this model"),
        ({"weights_dtype": "int4"}, "Unknown weights_dtype 'int4'; choose one of"),
    ],
)
def test_bad_arguments(tmp_path, arguments, message):
    with pytest.raises(ValueError, match=message):
        saved_model(tiny_vit(), tmp_path / "served", **arguments)
    assert os.listdir(tmp_path) == []


@pytest.mark.any_backend
def test_a_checkpoint_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"model\.keras"):
        saved_model(tmp_path / "model.keras", tmp_path / "served")
    assert os.listdir(tmp_path) == []


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
def test_a_difference_of_any_output_fails(tmp_path, monkeypatch):
    compare, calls = comparison.difference, []
    monkeypatch.setattr(
        comparison, "difference", lambda *a: calls.append(a) or compare(*a)
    )
    saved_model(perturb(tiny_vit()), tmp_path / "served", verbose=False)
    ((*others, check, tolerance),) = calls
    assert len(check) == 2 + 3 * (2 + 2 + 2 + 5 + 4)
    assert compare(*others, check, tolerance) <= 1e-5
    for name in set(check) - {"images", "decoded"}:
        changed = check[name].copy()
        if changed.dtype.kind == "S":
            changed[0, 0] = b"x"
        else:
            changed.flat[0] += 1
            if "classes" in name:
                changed.flat[0] %= 5
        _, output, size = name.split()
        if output == "classes":
            output = "(classes|labels)"  # The labels no longer match the classes.
        with pytest.raises(RuntimeError, match=rf"{output} .*batch of {size}\) differ"):
            compare(*others, {**check, name: changed}, tolerance)


@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
@pytest.mark.parametrize("existed", [pytest.param(False, marks=pytest.mark.slow), True])
def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch, existed):
    directory = tmp_path / "some" / "new" / "served"
    if existed:
        directory.mkdir(parents=True)
    before = list(tmp_path.rglob("*"))
    monkeypatch.setattr(savedmodel, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match=r"differ from Keras.*nothing was written"):
        saved_model(tiny_vit(input_shape=FOUR), directory, verbose=False)
    assert list(tmp_path.rglob("*")) == before


def test_a_failing_process_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(pathlib.Path("/bin/false")))
    with pytest.raises(
        RuntimeError, match=r"under TensorFlow failed.*exit status 1.*nothing was written"
    ):
        saved_model(tiny_vit(), tmp_path / "served", verbose=False)
    assert not (tmp_path / "served").exists()


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
def test_int8_weights(tmp_path):
    sizes = {"input_shape": FOUR, "hidden_dim": 64, "mlp_dim": 96}
    model = perturb(tiny_vit(**sizes, positions="relative"))
    path = saved_model(model, tmp_path / "served", weights_dtype="int8", verbose=False)
    stored = sum(file.stat().st_size for file in (path / "variables").iterdir())
    assert stored < 1.4 * model.count_params() + 400 * len(model.weights)

    images = pixels(model, 3)
    request = ("serving_default", "images", images.astype("float32"))
    (answer,) = serve_here(path, [request], tmp_path)
    rounded = exact_copy(model)
    for weight in rounded.weights:
        if len(weight.shape) > 1:
            values = array(weight).reshape(-1, weight.shape[-1])
            steps = np.abs(values).max(axis=0) / 127
            values = np.round(values / steps) * steps
            weight.assign(values.reshape(weight.shape))
    served = answer["logits"]
    expected = array(rounded(rounded.preprocessor(images)))
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-5)
    exact = exact_copy(model)
    assert np.abs(served - array(exact(exact.preprocessor(images)))).max() > 1e-4
