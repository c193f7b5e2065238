import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

from keras_vit.export import saved_model
from keras_vit.layers import Preprocessor, ResNetStem
from tests.cases import DENSE, array, perturb, tiny_t2t, tiny_vit

pytestmark = pytest.mark.usefixtures("tensorflow")

# Runs an export in a process that cannot import Keras.
SERVE = """
import json, sys
sys.modules["keras"] = None
import numpy as np, tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2
path, io = sys.argv[1:]
loaded = tf.saved_model.load(path)
serve = loaded.signatures["serving_default"]
data = dict(np.load(io))
results = {}
for batch in json.loads(str(data["batches"])):
    out = serve(images=tf.constant(data["images"][:batch]))
    results.update({f"{name}_{batch}": value.numpy() for name, value in out.items()})
np.savez(io, **results)
refused = []
for shape in json.loads(str(data["bad_shapes"])):
    try:
        serve(images=tf.zeros(shape))
    except tf.errors.InvalidArgumentError:
        refused.append(shape)
with open(f"{path}/saved_model.pb", "rb") as file:
    meta_graph = saved_model_pb2.SavedModel.FromString(file.read()).meta_graphs[0]
graph, signature = meta_graph.graph_def, meta_graph.signature_def["serving_default"]
nodes = [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
def tensors(infos):
    return {k: [v.dtype, [d.size for d in v.tensor_shape.dim]] for k, v in infos.items()}
print(json.dumps({
    "refused": refused,
    "keras": [m for m in sys.modules if m.split(".")[0] == "keras" and m != "keras"],
    "ops": sorted({node.op for node in nodes}),
    "inputs": tensors(signature.inputs),
    "outputs": tensors(signature.outputs),
}))
"""
# As many values as images of 16x24x3 have, or whole numbers of their patches.
BAD_SHAPES = [(16, 24, 3), (1152,), (3, 16, 24, 1)]
BAD_SIZES = [(1, 24, 16, 3), (6, 8, 8, 3)]  # Unless the export resizes.
FLOAT = 1  # TensorFlow's DT_FLOAT.


def pixels(model, batch, seed=0):
    shape = (batch, *model.input_shape[1:])
    return np.random.default_rng(seed).uniform(0, 255, shape).astype("float32")


def serve(path, images, directory, batches=(1, 2, 7)):
    """Outputs and facts of an export, from a process without Keras."""
    io = directory / "io.npz"
    shapes = json.dumps(BAD_SHAPES + BAD_SIZES)
    np.savez(io, images=images, batches=json.dumps(batches), bad_shapes=shapes)
    process = subprocess.run(
        [sys.executable, "-c", SERVE, path, io],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    with np.load(io) as results:
        return dict(results), json.loads(process.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    "arguments",
    [
        {"distillation_token": True},
        {
            "positions": "relative",
            "pooling": "map",
            "registers": 2,
            "dropout_rate": 0.1,
            "activation": "gelu",
            "dtype": "mixed_bfloat16",
            "preprocessor": Preprocessor([120.0, 110.0, 100.0], [60.0, 61.0, 62.0]),
            "classifier_activation": "sigmoid",
        },
        {
            "classifier_activation": None,
            "positions": "sincos_2d",
            "pooling": "gap",
            "preprocessor": Preprocessor.imagenet((16, 24)),
        },
        {
            "stem": ResNetStem((1,), width=32),
            "patch_size": 2,
            "dtype": "mixed_bfloat16",
        },
        {"tokens": "performer", "backbone": "ghost"},
        {"tokens": "transformer", "dtype": "mixed_bfloat16", **DENSE},
    ],
    ids=["distilled", "everything", "logits", "hybrid", "t2t_ghost", "t2t_dense"],
)
def test_an_export_gives_keras_outputs_without_keras(arguments, tmp_path, capsys):
    tiny = tiny_t2t if "tokens" in arguments else tiny_vit
    model = perturb(tiny(**arguments))
    path = saved_model(model, tmp_path / "served")
    assert path == tmp_path / "served" / "1"
    assert str(path) in capsys.readouterr().out
    images = pixels(model, 7)
    resizes = model.preprocessor.image_size is not None
    if resizes:
        images = np.concatenate([images, images[:, :11]], axis=1)
    outputs, facts = serve(path, images, tmp_path)

    exact = type(model).from_config(
        {**model.get_config(), "dtype": "float32", "classifier_activation": None}
    )
    exact.set_weights(model.get_weights())
    logits = exact(exact.preprocessor(images))
    activation = keras.activations.get(
        arguments.get("classifier_activation") or "softmax"
    )
    expected = {"logits": array(logits), "probabilities": array(activation(logits))}
    for name, values in expected.items():
        for batch in (1, 2, 7):
            served = outputs[f"{name}_{batch}"]
            np.testing.assert_allclose(served, values[:batch], rtol=0, atol=1e-5)

    stored = sum(file.stat().st_size for file in (path / "variables").iterdir())
    assert stored < 4 * exact.count_params() + 200 * len(exact.weights)

    assert facts["keras"] == []
    refused = BAD_SHAPES if resizes else BAD_SHAPES + BAD_SIZES
    assert facts["refused"] == [list(shape) for shape in refused]
    size = [-1, -1] if resizes else [16, 24]
    assert facts["inputs"] == {"images": [FLOAT, [-1, *size, 3]]}
    assert facts["outputs"] == {
        "logits": [FLOAT, [-1, 5]],
        "probabilities": [FLOAT, [-1, 5]],
    }
    assert not [op for op in facts["ops"] if op.startswith(("Xla", "PyFunc", "EagerPy"))]
    assert sorted(os.listdir(tmp_path / "served")) == ["1"]


def test_an_existing_version_is_never_overwritten(tmp_path):
    model = tiny_vit()
    (tmp_path / "3").mkdir()
    (tmp_path / "3" / "saved_model.pb").write_text("mine")
    with pytest.raises(
        FileExistsError, match=r"3 exists.*version=4 or another directory"
    ):
        saved_model(model, tmp_path, version=3)
    assert (tmp_path / "3" / "saved_model.pb").read_text() == "mine"
    saved_model(model, tmp_path, version=4, verbose=False)
    assert sorted(os.listdir(tmp_path)) == ["3", "4"]


def test_a_directory_of_something_else(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(FileExistsError, match=r"holds other files \(thesis\.tex\)"):
        saved_model(tiny_vit(), tmp_path)
    with pytest.raises(FileExistsError, match="is a file"):
        saved_model(tiny_vit(), tmp_path / "thesis.tex")
    assert os.listdir(tmp_path) == ["thesis.tex"]


@pytest.mark.parametrize("version", [0, -1, "1", 1.5, True])
def test_bad_version(tmp_path, version):
    with pytest.raises(ValueError, match="version must be an int, 1 or more"):
        saved_model(tiny_vit(), tmp_path / "served", version=version)
    assert os.listdir(tmp_path) == []


def test_models_that_cannot_be_exported(tmp_path):
    with pytest.raises(ValueError, match=r"needs a classifier.*include_top=False"):
        saved_model(tiny_vit(include_top=False), tmp_path / "served")
    inputs = keras.Input((4,))
    plain = keras.Model(inputs, keras.layers.Dense(1)(inputs))
    for other in (plain, "model.keras", None):
        with pytest.raises(ValueError, match="exports keras_vit models"):
            saved_model(other, tmp_path / "served")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("existed", [False, True])
def test_a_failed_export_leaves_nothing(tmp_path, monkeypatch, existed):
    from keras_vit.export import savedmodel

    directory = tmp_path / "some" / "new" / "served"
    if existed:
        directory.mkdir(parents=True)
    before = list(tmp_path.rglob("*"))
    monkeypatch.setattr(savedmodel, "TOLERANCE", -1.0)
    with pytest.raises(RuntimeError, match=r"differ from Keras.*nothing was written"):
        saved_model(tiny_vit(), directory, verbose=False)
    assert list(tmp_path.rglob("*")) == before


def test_a_failing_process_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(pathlib.Path("/bin/false")))
    with pytest.raises(
        RuntimeError, match="under TensorFlow failed; nothing was written"
    ):
        saved_model(tiny_vit(), tmp_path / "served", verbose=False)
    assert not (tmp_path / "served").exists()
