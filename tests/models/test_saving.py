"""Round-trip of every constructor argument through the config and both file formats.

The files are also loaded under every other installed backend.
"""

import importlib.util
import inspect
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import Preprocessor, ResNetStem, SelfAttention
from tests.cases import (
    DENSE,
    TINY,
    TINY_T2T,
    array,
    mostly_slow,
    perturb,
    random_images,
    tiny_t2t,
    tiny_vit,
)

# For each constructor argument: a value that is neither the default nor that of TINY,
# with other arguments that it requires.
CASES = {
    "input_shape": {"input_shape": (24, 16, 1)},
    "patch_size": {"patch_size": 4},
    "hidden_dim": {"hidden_dim": 24},
    "num_layers": {"num_layers": 3},
    "num_heads": {"num_heads": 4},
    "mlp_dim": {"mlp_dim": 20},
    "classes": {"classes": 7},
    "class_names": {"class_names": ["a", "b", "c", "d", "e"]},
    "include_top": {"include_top": False},
    "pooling": {"pooling": "map"},
    "class_token": {"class_token": True, "pooling": "gap"},
    "final_norm": {"final_norm": "after_pooling"},
    "representation_size": {"representation_size": 12},
    "positions": {"positions": "relative"},
    "class_token_position": {"class_token_position": False},
    "registers": {"registers": 3},
    "distillation_token": {"distillation_token": True},
    "layer_scale": {"layer_scale": 0.1},
    "qkv_bias": {"qkv_bias": False},
    "activation": {"activation": "gelu"},
    "layer_norm_epsilon": {"layer_norm_epsilon": 1e-2},
    "dropout_rate": {"dropout_rate": 0.1},
    "attention_dropout_rate": {"attention_dropout_rate": 0.1},
    "stochastic_depth_rate": {"stochastic_depth_rate": 0.1},
    "remat": {"remat": True},
    "remat of a part": {"remat": "mlp"},
    "token_reduction": {"token_reduction": [1, 2]},
    "classifier_activation": {"classifier_activation": None},
    "classifier": {"classifier": keras_vit.layers.SimilarityClassifier(projection_dim=5)},
    "classifier_bias": {"classifier_bias": -2.0},
    "stem": {"stem": ResNetStem((1, 1), width=32), "patch_size": 1},
    "preprocessor": {"preprocessor": Preprocessor([1.0, 2.0, 3.0], [4.0, 5.0, 6.0])},
    "norm": {"norm": "rms"},
    "mlp": {"mlp": "swiglu"},
    "attention": {"attention": SelfAttention(qk_norm=True)},
    "block": {"block": "post_norm"},
    "embedding_norm": {"embedding_norm": "tokens"},
    "name": {"name": "given"},
    "dtype": {"dtype": "mixed_bfloat16"},
}
# Arguments that only T2TViT has, or that have other defaults there.
T2T_CASES = {
    "num_layers": {**DENSE, "num_layers": (1, 2)},
    "tokens": {"tokens": "transformer"},
    "token_dim": {"token_dim": 8},
    "token_dropout_rate": {"token_dropout_rate": 0.3},
    "backbone": {"backbone": "ghost"},
    "growth_rate": {**DENSE, "growth_rate": 4},
    "positions": {"positions": "learned"},
    "qkv_bias": {"backbone": "se", "qkv_bias": True},
    "activation": {"activation": "relu"},
    "layer_norm_epsilon": {"layer_norm_epsilon": 1e-2},
}
FILES = [*CASES, *(f"t2t_{name}" for name in T2T_CASES)]
# Together, these files have every layer.
SOME_FILES = [
    "pooling",
    "positions",
    "representation_size",
    "registers",
    "layer_scale",
    "stem",
    "preprocessor",
    "attention",
    "mlp",
    "dtype",
    "t2t_num_layers",
    "t2t_tokens",
    "t2t_backbone",
    "t2t_qkv_bias",
]
# Arguments for loading weights are not part of the config.
LOADING = {"weights", "head", "resize", "source_grid_shape", "check_finite"}


def test_every_argument_has_a_case():
    arguments = set(inspect.signature(keras_vit.ViT.__init__).parameters)
    assert {case.split()[0] for case in CASES} == arguments - {"self"} - LOADING


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a function that saves some cases and returns the directory with them."""
    directory = tmp_path_factory.mktemp("saved")

    def save(*names):
        for name in names:
            if not (directory / f"{name}.keras").exists():
                save_case(name, directory)
        return directory

    return save


def save_case(name, directory):
    """Save a case's model, weights and config, an input and the output."""
    own = name.removeprefix("t2t_")
    arguments = CASES[name] if name in CASES else T2T_CASES[own]
    model = perturb((tiny_vit if name in CASES else tiny_t2t)(**arguments))
    model.save(directory / f"{name}.keras")
    model.save_weights(directory / f"{name}.weights.h5")
    (directory / f"{name}.json").write_text(json.dumps(model.get_config()))
    images = random_images(model)
    output = array(keras.ops.cast(model(images), "float32"))
    pixels = array(model.preprocessor(images))
    np.savez(directory / name, images=images, output=output, pixels=pixels)


@pytest.mark.any_backend
@pytest.mark.parametrize("name", mostly_slow(CASES, *SOME_FILES))
def test_config(name):
    arguments = CASES[name]
    model = tiny_vit(**arguments)
    config = model.get_config()
    signature = inspect.signature(keras_vit.ViT.__init__).parameters
    assert set(config) == set(signature) - {"self"} - LOADING
    defaults = {key: parameter.default for key, parameter in signature.items()}
    given = {**defaults, **TINY, **arguments}
    assert given[name] != {**defaults, **TINY}[name], "the case sets the default"
    layers = {"stem", "preprocessor", "attention", "classifier"}
    for key in set(config) - layers - {"name", "dtype"}:
        assert config[key] == given[key], key
    assert config["dtype"] == arguments.get("dtype", "float32")
    if "name" in arguments:
        assert config["name"] == arguments["name"]
    stem = [layer for layer in model.layers if layer.name == "stem"]
    assert bool(stem) == ("stem" in arguments) == (config["stem"] is not None)
    if stem:
        for one in (stem[0], keras.saving.deserialize_keras_object(config["stem"])):
            own = {"name": "stem", "dtype": one.get_config()["dtype"]}
            assert one.get_config() == {**arguments["stem"].get_config(), **own}
    preprocessor = arguments.get("preprocessor", Preprocessor())
    assert (model.preprocessor.mean, model.preprocessor.std) == (
        preprocessor.mean,
        preprocessor.std,
    )
    revived = keras_vit.ViT.from_config(json.loads(json.dumps(config)))
    assert json.dumps(revived.get_config()) == json.dumps(config)


def test_every_argument_of_t2t_vit_has_a_case():
    arguments = set(inspect.signature(keras_vit.T2TViT.__init__).parameters)
    assert set(T2T_CASES) == arguments - {"self", "kwargs", *TINY} | {"num_layers"}


@pytest.mark.any_backend
@pytest.mark.parametrize(
    "name", mostly_slow(T2T_CASES, "num_layers", "backbone", "activation")
)
def test_config_of_t2t_vit(name):
    arguments = {**TINY_T2T, **T2T_CASES[name]}
    config = tiny_t2t(**arguments, classifier_bias=-2.0).get_config()
    own = inspect.signature(keras_vit.T2TViT.__init__).parameters
    inherited = inspect.signature(keras_vit.ViT.__init__).parameters
    settled = {"self", "kwargs", "patch_size", "stem", "token_reduction"}
    assert set(config) == {*own, *inherited} - settled - LOADING
    defaults = {key: value.default for key, value in {**inherited, **own}.items()}
    given = {**defaults, **arguments, "classifier_bias": -2.0}
    for key in set(config) - {"preprocessor", "name", "dtype"}:
        assert config[key] == given[key], key
    revived = keras_vit.T2TViT.from_config(json.loads(json.dumps(config)))
    assert json.dumps(revived.get_config()) == json.dumps(config)


@pytest.mark.any_backend
@pytest.mark.parametrize("name", mostly_slow(FILES, *SOME_FILES[::3]))
def test_files_on_this_backend(saved, name):
    check_files(saved(name), name, atol=0)


def check_files(directory, name, atol):
    """Check that the saved model and the saved weights give the saved outputs."""
    config = json.loads((directory / f"{name}.json").read_text())
    model = keras.models.load_model(directory / f"{name}.keras")
    assert json.dumps(model.get_config()) == json.dumps(config)
    rebuilt = type(model).from_config(config)
    rebuilt.load_weights(directory / f"{name}.weights.h5")
    for one, other in zip(model.weights, rebuilt.weights, strict=True):
        np.testing.assert_array_equal(array(one), array(other), err_msg=one.path)
    with np.load(directory / f"{name}.npz") as data:
        output = array(keras.ops.cast(rebuilt(data["images"]), "float32"))
        np.testing.assert_allclose(output, data["output"], rtol=0, atol=atol)
        for each in (model, rebuilt):
            pixels = array(each.preprocessor(data["images"]))
            np.testing.assert_allclose(pixels, data["pixels"], rtol=1e-6, atol=1e-6)


OTHERS = [
    backend
    for backend in ("tensorflow", "jax", "torch")
    if backend != keras.backend.backend() and importlib.util.find_spec(backend)
]


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.skipif(not OTHERS, reason="only one backend is installed")
@pytest.mark.parametrize(
    "files",
    [SOME_FILES[::3], pytest.param(FILES, marks=pytest.mark.slow)],
    ids=["some", "all"],
)
@pytest.mark.parametrize("backend", mostly_slow(OTHERS, *OTHERS[:1]) or ["none"])
def test_files_on_another_backend(saved, backend, files):
    root = pathlib.Path(__file__).parents[2]
    process = subprocess.run(
        [sys.executable, "-m", "tests.models.test_saving", saved(*files), *files],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=root,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    assert process.stdout.splitlines()[-1] == f"{len(files)} cases on {backend}"


@pytest.mark.slow_elsewhere
def test_frozen_weights_stay_frozen(tmp_path):
    model = tiny_vit()
    model.get_layer("patch_encoder").trainable = False
    model.get_layer("block_0").mlp.trainable = False
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(random_images(model), np.array([0, 1]), verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    trainable = [w.path for w in model.trainable_weights]
    assert len(trainable) < len(model.weights)
    assert [w.path for w in loaded.trainable_weights] == trainable
    assert not loaded.get_layer("patch_encoder").trainable
    assert loaded.get_layer("block_0").trainable
    for old, new in zip(
        model.optimizer.variables, loaded.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(array(new), array(old))


@pytest.mark.slow_elsewhere
def test_a_model_made_from_weights_saves_without_them(goldens, tmp_path):
    model = keras_vit.load_checkpoint(goldens / "google_gap.checkpoint.npz")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    images = random_images(model)
    np.testing.assert_array_equal(array(loaded(images)), array(model(images)))


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("make", mostly_slow([tiny_vit, tiny_t2t], tiny_vit))
def test_class_names(make, tmp_path):
    names = ("a", "b", "c", "d", "e")
    model = perturb(make(class_names=names))
    assert model.get_config()["class_names"] == list(names)
    height, width, channels = model.input_shape[1:]
    resized = model.resized((2 * height, width, channels))
    assert resized.get_config()["class_names"] == list(names)
    path = tmp_path / "model.keras"
    model.save(path)
    load = keras_vit.load_checkpoint
    assert load(path).get_config()["class_names"] == list(names)
    headless = load(path, include_top=False)
    assert headless.get_config()["class_names"] is None
    new = load(path, head="new", classes=2)
    assert new.get_config()["class_names"] is None
    new = load(path, head="new", classes=2, class_names=["x", "y"])
    assert new.get_config()["class_names"] == ["x", "y"]
    old = {k: v for k, v in model.get_config().items() if k != "class_names"}
    assert type(model).from_config(old).get_config()["class_names"] is None


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ("abcde", "sequence of str"),
        ([1, 2, 3, 4, 5], "sequence of str"),
        (["a", "b"], "one name for each of the 5 classes; received 2 names"),
    ],
)
def test_bad_class_names(names, message):
    with pytest.raises(ValueError, match=message):
        tiny_vit(class_names=names)


if __name__ == "__main__":  # test_files_on_another_backend runs this file.
    directory, *names = sys.argv[1:]
    for case in names:
        # Backends round bfloat16 products at different places.
        check_files(pathlib.Path(directory), case, 1e-2 if case == "dtype" else 1e-5)
    print(f"{len(names)} cases on {keras.backend.backend()}")


@pytest.mark.any_backend
@pytest.mark.parametrize("make", mostly_slow([tiny_vit, tiny_t2t], tiny_vit))
def test_a_new_head_trains_on_a_frozen_model(make, tmp_path):
    model = make(classes=5)
    perturb(model)
    model.trainable = False
    model.save(tmp_path / "frozen.keras")
    new = keras_vit.load_checkpoint(tmp_path / "frozen.keras", classes=3, head="new")
    trained = {path for path, w in new.weights_by_path().items() if w.trainable}
    assert trained == {"classifier/kernel", "classifier/bias"}
    assert len(new.trainable_weights) == 2
    kept = keras_vit.load_checkpoint(tmp_path / "frozen.keras")
    assert not kept.trainable_weights
    assert not new.resized((32, 32, 3)).get_layer("block_0").trainable_weights
