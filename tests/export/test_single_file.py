"""ONNX and LiteRT exports, run by onnxruntime and by LiteRT's interpreter."""

import contextlib
import importlib.util
import json
import os
import zipfile

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit import exported_model
from keras_vit.cli import export
from keras_vit.export import litert, onnx, served_model, single_file
from keras_vit.export.comparison import TOLERANCE
from keras_vit.exported_model import Export
from tests.cases import array, mostly_slow, perturb, random_array, tiny_vit
from tests.commands import run_command
from tests.export.models import MODELS, exact_copy, pixels, tiny_model
from tests.export.serving import exports_here

pytestmark = pytest.mark.usefixtures("tensorflow")

onnxruntime = pytest.importorskip("onnxruntime", reason="runs ONNX files")
pytest.importorskip("tf2onnx", reason="writes ONNX files")
interpreters = pytest.importorskip(
    "ai_edge_litert.interpreter", reason="runs LiteRT files"
)

WRITERS = {"onnx": (onnx, "vit.onnx"), "litert": (litert, "vit.tflite")}
LONG = {"input_shape": (256, 264, 3), "pooling": "gap"}  # 1056 tokens: blockwise.


def run_onnx(path, batches):
    session = onnxruntime.InferenceSession(path)
    names = [output.name for output in session.get_outputs()]
    results = [session.run(names, {"images": batch}) for batch in batches]
    return [dict(zip(names, values, strict=True)) for values in results]


def run_litert(path, batches):
    interpreter = interpreters.Interpreter(str(path))
    signatures = interpreter.get_signature_list()
    assert list(signatures) == ["serving_default"]
    assert signatures["serving_default"]["inputs"] == ["images"]
    predict = interpreter.get_signature_runner("serving_default")
    results = [predict(images=batch) for batch in batches]
    return results


def expected(model, images):
    exact = exact_copy(model)
    logits = exact(exact.preprocessor(images))
    activation = model.get_config()["classifier_activation"]
    if activation is None:
        return {"logits": array(logits)}
    probabilities = array(keras.activations.get(activation)(logits))
    return {"logits": array(logits), "probabilities": probabilities}


def check(results, wanted, batches):
    for result, batch in zip(results, batches, strict=True):
        assert set(result) == set(wanted)
        for name, values in result.items():
            assert values.dtype == np.float32
            assert values.shape == (len(batch), 5)
            np.testing.assert_allclose(
                values, wanted[name][: len(batch)], rtol=0, atol=TOLERANCE
            )


def alone_or_here(name):
    """Return a context in which only the first case is written by another process."""
    return contextlib.nullcontext() if name == "everything" else exports_here()


@pytest.mark.any_backend
@pytest.mark.parametrize("name", mostly_slow(MODELS, "logits"))
def test_onnx(name, tmp_path, capsys):
    model = tiny_model(MODELS[name])
    path = tmp_path / "new" / "vit.onnx"
    with alone_or_here(name):
        assert onnx(model, path) == path
    assert os.listdir(path.parent) == ["vit.onnx"]
    assert "within" in capsys.readouterr().out
    images = pixels(model, 7)
    resizes = model.preprocessor.image_size is not None
    if resizes:
        images = np.concatenate([images, images[:, :11]], axis=1)
    images = images.astype("float32")
    batches = [images[:b] for b in (1, 2, 7)]
    check(run_onnx(path, batches), expected(model, images), batches)

    import onnx as onnx_package

    proto = onnx_package.load(path)
    onnx_package.checker.check_model(proto, full_check=True)
    opsets = {opset.domain: opset.version for opset in proto.opset_import}
    assert opsets[""] == 18
    assert {node.domain for node in proto.graph.node} == {""}
    read = {name for node in proto.graph.node for name in node.input}
    assert {constant.name for constant in proto.graph.initializer} <= read
    (graph_input,) = proto.graph.input
    sizes = [d.dim_param or d.dim_value for d in graph_input.type.tensor_type.shape.dim]
    height_width = ["height", "width"] if resizes else list(model.input_shape[1:3])
    assert sizes == ["batch", *height_width, 3]
    assert {p.key: json.loads(p.value) for p in proto.metadata_props} == {
        "labels": ["0", "1", "2", "3", "4"]
    }


@pytest.mark.any_backend
@pytest.mark.parametrize("name", mostly_slow(MODELS, "logits"))
def test_litert(name, tmp_path):
    with alone_or_here(name):
        check_litert(tiny_model(MODELS[name]), tmp_path / "new" / "vit.tflite")


@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
@pytest.mark.parametrize("file_format", mostly_slow(WRITERS, "litert"))
def test_a_fixed_number_of_images(file_format, tmp_path):
    model = perturb(tiny_vit(num_layers=1))
    model.preprocessor = model.preprocessor.with_image_size(model.input_shape[1:3])
    write, name = WRITERS[file_format]
    path = write(model, tmp_path / name, batch_size=3, verbose=False)
    images = pixels(model, 7).astype("float32")
    exported = Export(str(path))
    assert exported.input_shape == model.input_shape
    np.testing.assert_allclose(
        exported.predict_on_batch(images),
        expected(model, images)["logits"],
        rtol=0,
        atol=TOLERANCE,
    )
    if file_format == "litert":
        interpreter = interpreters.Interpreter(str(path))
        shapes = [x["shape_signature"] for x in interpreter.get_tensor_details()]
        operations = [x["op_name"] for x in interpreter._get_ops_details()]
        assert "GELU" in operations  # One operation, and not its formula.
    else:
        import onnx as onnx_package

        graph = onnx_package.shape_inference.infer_shapes(onnx_package.load(path)).graph
        # From the power, onnxruntime recognizes a GELU.
        assert "Pow" in {node.op_type for node in graph.node}
        values = [*graph.input, *graph.value_info, *graph.output]
        shapes = [
            [size.dim_value or -1 for size in value.type.tensor_type.shape.dim]
            for value in values
        ]
    assert shapes
    assert all(-1 not in shape for shape in shapes)
    assert list(shapes[0]) == [3, *model.input_shape[1:]]


@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
@pytest.mark.parametrize(
    "dtype", ["float32", pytest.param("int8", marks=pytest.mark.slow)]
)
def test_weights_beside_an_onnx_file(dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(single_file, "LARGEST_FILE", 1000)
    model = perturb(tiny_vit(num_layers=1, hidden_dim=64))
    path = onnx(model, tmp_path / "vit.onnx", weights_dtype=dtype, verbose=False)
    weights = tmp_path / "vit.onnx.data"
    assert sorted(tmp_path.iterdir()) == [path, weights]
    assert weights.stat().st_mode == path.stat().st_mode
    expected_size = sum(w.size for w in map(array, model.weights) if w.size > 256)
    bits = 4 if dtype == "float32" else 1
    assert weights.stat().st_size >= bits * expected_size
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in (path, weights):
        file.rename(elsewhere / file.name)
    images = pixels(model, 7).astype("float32")
    tolerance = TOLERANCE if dtype == "float32" else single_file.INT8_TOLERANCE
    np.testing.assert_allclose(
        Export(str(elsewhere / path.name)).predict_on_batch(images),
        expected(model, images)["logits"],
        rtol=0,
        atol=tolerance,
    )


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_model_above_2_gb(tmp_path):
    """Needs 20 GB of memory."""
    width = 3072
    sizes = {"hidden_dim": width, "mlp_dim": 4 * width, "num_heads": 12}
    model = tiny_vit(num_layers=5, classifier_activation=None, **sizes)
    kernel = model.get_layer("classifier").kernel
    kernel.assign(random_array(*kernel.shape, scale=0.03))
    assert 4 * model.count_params() > 2**31
    path = onnx(model, tmp_path / "vit.onnx", verbose=False)
    assert (tmp_path / "vit.onnx.data").stat().st_size > 2**31
    images = pixels(model, 2).astype("float32")
    (result,) = run_onnx(path, [images])
    wanted = array(model(model.preprocessor(images)))
    np.testing.assert_allclose(result["logits"], wanted, rtol=0, atol=TOLERANCE)


@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
def test_weights_beside_an_onnx_file_are_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.setattr(single_file, "LARGEST_FILE", 1000)
    mine = tmp_path / "vit.onnx.data"
    mine.write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"onnx\.data exists and is not overwritten"
    ):
        onnx(tiny_vit(), tmp_path / "vit.onnx", verbose=False)
    assert mine.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [mine]


@pytest.mark.any_backend
@pytest.mark.parametrize("size", [0, True, "2"])
def test_numbers_of_images_that_cannot_be(size, tmp_path):
    with pytest.raises(ValueError, match="batch_size must be None"):
        onnx(tiny_vit(), tmp_path / "vit.onnx", batch_size=size)


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
def test_litert_of_attention_by_blocks(tmp_path):
    check_litert(perturb(tiny_vit(**LONG)), tmp_path / "new" / "vit.tflite")


def check_litert(model, path):
    assert litert(model, path, verbose=False) == path
    assert os.listdir(path.parent) == ["vit.tflite"]
    images = pixels(model, 7).astype("float32")
    batches = [images[:b] for b in (1, 2, 7)]
    only_scales = model.preprocessor.with_image_size(None)
    model.preprocessor = only_scales
    check(run_litert(path, batches), expected(model, images), batches)
    with pytest.raises(RuntimeError, match="failed to"):
        run_litert(path, [np.concatenate([images, images], axis=2)])
    plain = interpreters.Interpreter(
        str(path),
        experimental_op_resolver_type=(
            interpreters.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        ),
    )
    names = {details["op_name"] for details in plain._get_ops_details()}
    assert {name for name in names if name != name.upper()} == set()
    (details,) = plain.get_input_details()
    assert details["shape_signature"].tolist() == [-1, *model.input_shape[1:]]


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
@pytest.mark.parametrize(
    "file_format", ["litert", pytest.param("onnx", marks=pytest.mark.slow)]
)
def test_int8_and_the_command(file_format, tmp_path, capsys):
    model = tiny_vit(hidden_dim=64, mlp_dim=256, num_layers=6)
    kernel = model.get_layer("classifier").kernel
    kernel.assign(random_array(*kernel.shape, scale=0.3))
    model.save(tmp_path / "model.keras")
    command = [str(tmp_path / "model.keras"), "--format", file_format, "--to"]
    run = {"onnx": run_onnx, "litert": run_litert}[file_format]
    sizes = {}
    for dtype in ("float32", "int8"):
        path = tmp_path / f"{dtype}-{WRITERS[file_format][1]}"
        run_command("export", [*command, str(path), "--weights-dtype", dtype])
        printed = capsys.readouterr().out
        assert "within" in printed
        sizes[dtype] = path.stat().st_size
    assert sizes["int8"] < 0.45 * sizes["float32"]

    images = pixels(model, 7).astype("float32")
    scope = {"images": images}
    exec(printed.split("0 to 255:\n")[1].replace("\n  ", "\n").strip(), scope)
    (result,) = run(path, [images])
    np.testing.assert_array_equal(scope["probabilities"], result["probabilities"])
    wanted = expected(model, images)["probabilities"]
    difference = np.abs(result["probabilities"] - wanted).max()
    assert 1e-5 < difference < single_file.INT8_TOLERANCE


@pytest.mark.any_backend
def test_the_command_exports_another_image_size(tmp_path, monkeypatch):
    model = tiny_vit(include_top=False)
    model.save(tmp_path / "model.keras")
    written = []
    monkeypatch.setattr(
        keras_vit.export, "onnx", lambda model, path, **_: written.append(model) or path
    )
    size = str(2 * model.input_shape[1]), "8"
    to = ["--to", str(tmp_path / "vit.onnx"), "--format", "onnx", "--image-size"]
    run_command("export", [str(tmp_path / "model.keras"), *to, *size])
    assert written[0].input_shape == (None, *map(int, size), model.input_shape[-1])


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "onnx", "--version", "2"], "--version is not for --format onnx"),
        (["--format", "litert", "--top-k", "2"], "--top-k is not for --format litert"),
        (["--format", "onnx", "--batch-size", "0"], "--batch-size must be 1 or more"),
        (["--batch-size", "1"], "is the name of a file: add --format onnx"),
        ([], "is the name of a file: add --format onnx"),
    ],
)
def test_options_of_another_format(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        run_command(
            "export", ["model.keras", "--to", str(tmp_path / "vit.onnx"), *arguments]
        )
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
@pytest.mark.parametrize("file_format", mostly_slow(WRITERS, "onnx"))
def test_labels(file_format, tmp_path):
    names = ["cat ", "dog", "T-shirt", "crème brûlée", ""]
    write, name = WRITERS[file_format]
    path = write(tiny_vit(), tmp_path / name, labels=names, verbose=False)
    if file_format == "onnx":
        metadata = onnxruntime.InferenceSession(path).get_modelmeta().custom_metadata_map
        assert json.loads(metadata["labels"]) == names
    else:
        text = zipfile.ZipFile(path).read("labels.txt").decode()
        assert text.split("\n") == names
    assert exported_model.Export(str(path)).class_names == names


@pytest.mark.any_backend
def test_labels_of_more_than_one_line(tmp_path):
    names = ["cat", "dog\n", "c", "d", "e"]
    with pytest.raises(ValueError, match=r"label 'dog\\n' has a line break"):
        litert(tiny_vit(), tmp_path / "vit.tflite", labels=names)


@pytest.mark.any_backend
@pytest.mark.parametrize("activation", [None, "softmax"])
def test_wrappers_name_the_model_in_them(activation, tmp_path):
    layers = [tiny_vit(classifier_activation=None, name="inner")]
    if activation:
        layers.append(keras.layers.Activation(activation))
    with pytest.raises(ValueError, match=r"get_layer\('inner'\).*classifier_activation="):
        onnx(keras.Sequential(layers), tmp_path / "vit.onnx")


@pytest.mark.any_backend
def test_files_of_labels(tmp_path):
    file = tmp_path / "labels.txt"
    file.write_bytes("crème\nbrûlée".encode("latin-1"))
    command = ["no.keras", "--format", "onnx", "--to", "vit.onnx", "--labels", str(file)]
    with pytest.raises(SystemExit, match=f"error: {file} is not in UTF-8"):
        run_command("export", command)
    file.write_text("cat\u2028\ndog\n", "utf-8-sig")
    assert export._lines(file) == ["cat\u2028", "dog"]


@pytest.mark.any_backend
@pytest.mark.parametrize("file_format", WRITERS)
def test_what_cannot_be_exported(file_format, tmp_path, monkeypatch):
    write, name = WRITERS[file_format]
    path = tmp_path / "new" / name
    with pytest.raises(ValueError, match=r"must end in \.(onnx|tflite); received .*pb"):
        write(tiny_vit(), path.with_suffix(".pb"))
    with pytest.raises(ValueError, match="Unknown weights_dtype 'bfloat16'"):
        write(tiny_vit(), path, weights_dtype="bfloat16")
    with pytest.raises(ValueError, match=r"labels name.*include_top=False"):
        write(tiny_vit(include_top=False), path, labels=["a"])
    with pytest.raises(FileNotFoundError, match=r"model\.keras"):
        write(tmp_path / "model.keras", path)
    assert os.listdir(tmp_path) == []


@pytest.mark.any_backend
def test_a_model_that_is_too_large_for_litert(tmp_path, monkeypatch):
    monkeypatch.setattr(single_file, "LARGEST_FILE", 1000)
    with pytest.raises(ValueError, match=r"have at most 0\.0 GB.*export\.onnx or"):
        litert(tiny_vit(), tmp_path / "new" / "vit.tflite")
    assert os.listdir(tmp_path) == []


@pytest.mark.any_backend
def test_wrong_labels(tmp_path):
    with pytest.raises(ValueError, match="needs as many labels; received 2"):
        onnx(tiny_vit(), tmp_path / "vit.onnx", labels=["a", "b"])
    assert os.listdir(tmp_path) == []


@pytest.mark.any_backend
@pytest.mark.parametrize("file_format", WRITERS)
def test_an_existing_file_is_never_overwritten(file_format, tmp_path):
    write, name = WRITERS[file_format]
    (tmp_path / name).write_text("mine")
    with pytest.raises(FileExistsError, match="exists and is not overwritten"):
        write(tiny_vit(), tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("file_format", "package"),
    [("onnx", "tf2onnx"), ("onnx", "onnxruntime"), ("litert", "ai_edge_litert")],
)
def test_a_missing_package(file_format, package, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        served_model.importlib.util,
        "find_spec",
        lambda name: None if name == package else find(name),
    )
    write, name = WRITERS[file_format]
    message = rf"not installed: {package}\. pip install 'keras_vit\[{file_format}\]'"
    with pytest.raises(ImportError, match=message):
        write(tiny_vit(), tmp_path / "new" / name)
    assert os.listdir(tmp_path) == []


@pytest.mark.any_backend
@pytest.mark.usefixtures("exporting_here")
@pytest.mark.parametrize("file_format", mostly_slow(WRITERS, "onnx"))
def test_a_failed_comparison_leaves_nothing(file_format, tmp_path, monkeypatch):
    write, name = WRITERS[file_format]
    monkeypatch.setattr(single_file, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match=r"differ from Keras.*nothing was written"):
        write(tiny_vit(), tmp_path / "some" / "new" / name, verbose=False)
    assert os.listdir(tmp_path) == []
