"""Exports run by the components of TF Serving: its C++ loader and its gRPC messages."""

import io
import os
import pathlib
import shutil
import subprocess
import sys
from concurrent import futures

import numpy as np
import pytest

import keras_vit
from keras_vit.export import models_config, saved_model
from keras_vit.layers import Preprocessor
from tests.cases import array, perturb, tiny_vit
from tests.commands import run_command
from tests.export.serving import exports_here, serve_here

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

HERE = pathlib.Path(__file__).parent
SIGNATURES = [
    "attention",
    "features",
    "predict_bytes",
    "predict_uint8",
    "serving_default",
]
QUIET = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}


@pytest.fixture(scope="module")
def photographs():
    """Return seven JPEG files of different sizes, the third of which is damaged."""
    image_module = pytest.importorskip("PIL.Image", reason="makes the pictures")
    datasets = pytest.importorskip("sklearn.datasets", reason="has photographs")
    files = []
    for i in range(7):
        name = ("china.jpg", "flower.jpg")[i % 2]
        image = image_module.fromarray(datasets.load_sample_image(name))
        file = io.BytesIO()
        image.resize((60 + 9 * i, 50 + 5 * i)).save(file, "JPEG", quality=90)
        files.append(file.getvalue())
    files[2] = files[2][:400]
    return files


@pytest.fixture(scope="module")
def model():
    preprocessor = Preprocessor.imagenet((16, 24), 0.9)
    return perturb(tiny_vit(preprocessor=preprocessor))


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Export a checkpoint with the command-line interface."""
    folder = tmp_path_factory.mktemp("export")
    model.save(folder / "model.keras")
    names = ["cat", "dog", "T-shirt", "crème brûlée", "owl"]
    (folder / "labels.txt").write_text("\n".join(names) + "\n", "utf-8")
    checkpoint, labels = str(folder / "model.keras"), str(folder / "labels.txt")
    command = [checkpoint, "--to", str(folder / "vit"), "--labels", labels]
    with exports_here():
        run_command("export", [*command, "--version", "12", "--top-k", "2"])
    return folder / "vit" / "12"


def expected_of_files(model, files):
    """Return the probabilities that Keras computes for the readable files."""
    import tensorflow as tf

    decoded = [tf.io.decode_jpeg(f, dct_method="INTEGER_ACCURATE").numpy() for f in files]
    images = np.concatenate([array(model.preprocessor(image[None])) for image in decoded])
    return array(model(images))


def check_files(outputs, model, photographs):
    readable = [i for i in range(7) if i != 2]
    expected = expected_of_files(model, [photographs[i] for i in readable])
    assert outputs["error"].tolist() == [0, 0, 1, 0, 0, 0, 0]
    np.testing.assert_allclose(outputs["probabilities"][readable], expected, atol=1e-4)
    best = np.argsort(-expected, axis=1)[:, :2]
    assert outputs["classes"][readable].tolist() == best.tolist()
    assert outputs["classes"][2].tolist() == [-1, -1]
    names = ["cat", "dog", "T-shirt", "crème brûlée", "owl"]
    labels = [[label.decode() for label in row] for row in outputs["labels"].tolist()]
    wanted = [[names[c] for c in row] for row in best]
    wanted.insert(2, ["", ""])
    assert labels == wanted


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """Compile serve.cc against the headers and libraries of the TensorFlow wheel."""
    import tensorflow as tf

    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    program = tmp_path_factory.mktemp("program") / "serve"
    library = tf.sysconfig.get_lib()
    command = [
        compiler,
        *tf.sysconfig.get_compile_flags(),
        "-O0",
        "-w",
        HERE / "serve.cc",
    ]
    command += ["-o", program, f"-L{library}", f"-Wl,-rpath,{library}"]
    command += ["-Wl,--no-as-needed"]
    command += ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    subprocess.run(command, check=True)
    return program


@pytest.mark.slow
def test_a_server_in_cpp_gives_keras_outputs(
    program, exported, model, photographs, tmp_path
):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    pixels = np.random.default_rng(0).integers(0, 256, (7, 20, 33, 3), "uint8")
    proto = tf.make_tensor_proto(pixels).SerializeToString()
    (tmp_path / "pixels").write_bytes(proto)
    files = [tmp_path / f"{i}.jpg" for i in range(7)]
    for file, content in zip(files, photographs, strict=True):
        file.write_bytes(content)
    outputs = tmp_path / "outputs"
    outputs.mkdir()
    process = subprocess.run(
        [program, exported, outputs, tmp_path / "pixels", *files],
        env={"TF_CPP_MIN_LOG_LEVEL": "2"},  # Without PATH, it can start nothing else.
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    linked = subprocess.run(["ldd", program], capture_output=True, text=True, check=True)
    assert "libtensorflow_cc" in linked.stdout
    assert "libpython" not in linked.stdout
    assert "MatMul" in process.stdout.split()
    results = {}
    for file in outputs.iterdir():
        proto = tensor_pb2.TensorProto.FromString(file.read_bytes())
        results[file.name] = tf.make_ndarray(proto)
    assert sorted({name.split(".")[0] for name in results}) == SIGNATURES
    expected = array(model(model.preprocessor(pixels)))
    for name in ("serving_default", "predict_uint8"):
        served = results[f"{name}.probabilities"]
        np.testing.assert_allclose(served, expected, rtol=0, atol=1e-4)
    of_files = {
        name.removeprefix("predict_bytes."): value
        for name, value in results.items()
        if name.startswith("predict_bytes.")
    }
    check_files(of_files, model, photographs)
    answers = serve_here(
        exported, [("features", "images", pixels.astype("float32"))], tmp_path
    )
    for name, value in answers[0].items():
        np.testing.assert_allclose(results[f"features.{name}"], value, atol=1e-4)


@pytest.mark.slow
def test_the_command_line_of_tensorflow_runs_an_export(exported, model, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 20, 33, 3), "uint8")
    np.save(tmp_path / "pixels.npy", pixels)
    command = [sys.executable, "-m", "tensorflow.python.tools.saved_model_cli", "run"]
    command += ["--dir", exported, "--tag_set", "serve"]
    command += ["--signature_def", "predict_uint8", "--outdir", tmp_path]
    command += ["--inputs", f"images={tmp_path / 'pixels.npy'}"]
    process = subprocess.run(command, env=QUIET, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    served = np.load(tmp_path / "probabilities.npy")
    expected = array(model(model.preprocessor(pixels)))
    np.testing.assert_allclose(served, expected, rtol=0, atol=1e-4)


@pytest.mark.slow
def test_warm_up_requests_are_those_of_tf_serving(exported, tmp_path):
    apis = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    import tensorflow as tf

    file = exported / "assets.extra" / "tf_serving_warmup_requests"
    requests = []
    for record in tf.data.TFRecordDataset(str(file)):
        log = apis.PredictionLog.FromString(record.numpy())
        request = log.predict_log.request
        ((argument, proto),) = request.inputs.items()
        value = tf.make_ndarray(proto)
        value = value.tolist() if value.dtype == object else value
        requests.append((request.model_spec.signature_name, argument, value))
    assert sorted(name for name, _, _ in requests) == SIGNATURES
    answers = serve_here(exported, requests, tmp_path)
    for answer in answers:
        assert len(next(iter(answer.values()))) == 1
        assert answer.get("error", 0) == 0


@pytest.mark.slow
def test_images_that_a_resize_would_make_too_large_are_refused(exported, tmp_path):
    requests = [
        ("predict_uint8", "images", np.zeros((1, 1, width, 3), "uint8"))
        for width in (1000, 150_000)
    ]
    answer, refusal = serve_here(exported, requests, tmp_path)
    assert answer["logits"].shape == (1, 5)
    assert "Images must have 1 to 33554432 pixels, resized too" in refusal


@pytest.mark.slow
def test_the_client_over_grpc(exported, photographs, tmp_path, capsys):
    """Check the gRPC client against a Python server that uses tensorflow-serving-api."""
    grpc = pytest.importorskip("grpc")
    service = pytest.importorskip("tensorflow_serving.apis.prediction_service_pb2_grpc")
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    loaded = tf.saved_model.load(str(exported))

    class Servicer(service.PredictionServiceServicer):
        def Predict(self, request, context):
            if request.model_spec.name == "dinov2":  # It has no classifier.
                name = request.model_spec.signature_name
                message = f'Serving signature key "{name}" not found.'
                context.abort(grpc.StatusCode.FAILED_PRECONDITION, message)
            if request.model_spec.name != "vit":
                context.abort(grpc.StatusCode.NOT_FOUND, "no such model")
            inputs = {k: tf.make_ndarray(v) for k, v in request.inputs.items()}
            signature = loaded.signatures[request.model_spec.signature_name]
            outputs = signature(**{k: tf.constant(v) for k, v in inputs.items()})
            response = predict_pb2.PredictResponse()
            for name, value in outputs.items():
                response.outputs[name].CopyFrom(tf.make_tensor_proto(value))
            return response

    server = grpc.server(futures.ThreadPoolExecutor(1))
    service.add_PredictionServiceServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("localhost:0")
    server.start()

    address = f"localhost:{port}"
    try:
        names = [str(tmp_path / name) for name in ("a.jpg", "b.jpg")]
        for name, content in zip(names, photographs[1:3], strict=True):
            pathlib.Path(name).write_bytes(content)
        process = subprocess.run(
            [sys.executable, "-m", "keras_vit", "query", address, "vit", *names],
            cwd=HERE.parents[1],
            env=QUIET,
            capture_output=True,
            text=True,
        )
        assert process.returncode == 0, process.stderr
        first, second = process.stdout.splitlines()
        assert first.startswith(f"{names[0]}: ")
        assert first.count("%") == 2
        assert second == f"{names[1]}: cannot be decoded"
        for arguments, message in (
            (["resnet", names[0]], "NOT_FOUND: no such model"),
            (["dinov2", names[0]], "features with the signature embed"),
            (["vit", "nowhere.jpg"], "nowhere.jpg"),
        ):
            with pytest.raises(SystemExit, match=message):
                run_command("query", [address, *arguments])
    finally:
        server.stop(None)


def test_the_command_reports_errors(tmp_path, capsys):
    for arguments, message in [
        (["nowhere.npz"], "nowhere.npz"),
        (["nowhere.npz", "--labels", "no.txt"], "no.txt"),
    ]:
        with pytest.raises(SystemExit) as exit_info:
            run_command("export", [*arguments, "--to", str(tmp_path / "served")])
        assert message in str(exit_info.value)
    with pytest.raises(SystemExit):
        run_command(
            "export", ["nowhere.npz", "--version", "0", "--to", str(tmp_path / "served")]
        )
    assert "--version must be 1 or more; received 0" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_models_config_is_what_tf_serving_reads():
    messages = pytest.importorskip("tensorflow_serving.config.model_server_config_pb2")
    from google.protobuf import text_format

    models = {"vit": "/models/vit", "t2t-14": "gs://bucket/my models/t2t"}
    text = models_config(models, all_versions=True)
    config = text_format.Parse(text, messages.ModelServerConfig())
    parsed = config.model_config_list.config
    assert {model.name: model.base_path for model in parsed} == models
    assert {model.model_platform for model in parsed} == {"tensorflow"}
    assert all(model.model_version_policy.HasField("all") for model in parsed)
    text = models_config({"vit": "/models/vit"})
    (model,) = text_format.Parse(
        text, messages.ModelServerConfig()
    ).model_config_list.config
    assert not model.HasField("model_version_policy")


@pytest.mark.parametrize(
    ("name", "path", "message"),
    [
        ("", "/models/vit", "name of a model"),
        ('a"b', "/models/vit", "name of a model"),
        ("a/b", "/models/vit", "name of a model"),
        ("vit", "models/vit", "must be absolute"),
        ("vit", '/models/"', "must be absolute"),
        ("vit", "", "must be absolute"),
    ],
)
def test_models_config_refuses(name, path, message):
    with pytest.raises(ValueError, match=message):
        models_config({name: path})


@pytest.mark.slow
def test_a_grey_model_without_the_serving_package(tmp_path, monkeypatch, capsys):
    """Check a bfloat16 model of gray images with the 1000 classes of ImageNet."""
    fake = tmp_path / "fake" / "tensorflow_serving"
    fake.mkdir(parents=True)
    (fake / "__init__.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", str(fake.parent))
    model = perturb(tiny_vit(input_shape=(16, 24, 1), classes=1000))
    path = saved_model(model, tmp_path / "vit", weights_dtype="bfloat16")
    assert "The extra tf-serving of keras_vit writes them" in capsys.readouterr().out
    assert not (path / "assets.extra").exists()
    monkeypatch.delenv("PYTHONPATH")
    stored = sum(file.stat().st_size for file in (path / "variables").iterdir())
    assert stored < 2.2 * model.count_params() + 200 * len(model.weights)

    image_module = pytest.importorskip("PIL.Image", reason="makes the pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30), "uint8")
    file = io.BytesIO()
    image_module.fromarray(pixels).convert("RGBA").save(file, "PNG")
    requests = [
        ("predict_bytes", "image_bytes", [file.getvalue()]),
        ("predict_uint8", "images", pixels[None, ..., None]),
    ]
    of_file, of_pixels = serve_here(path, requests, tmp_path)
    np.testing.assert_allclose(
        of_file["probabilities"], of_pixels["probabilities"], rtol=0, atol=1e-6
    )
    decoded = keras_vit.decode_predictions(of_file["probabilities"])[0]
    assert [label.decode() for label in of_file["labels"][0]] == [d[1] for d in decoded]
    expected = array(model(model.preprocessor(pixels[None, ..., None])))
    np.testing.assert_allclose(of_file["probabilities"], expected, rtol=0, atol=2e-3)
