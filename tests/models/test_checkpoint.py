"""Loading and conversion of checkpoints that keras_vit wrote."""

import os
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.convert import convert
from keras_vit.layers import Preprocessor, resize_grid
from keras_vit.weights.patch_kernels import adapt_channels, resize_patches
from tests.cases import array, mostly_slow, perturb, random_images, tiny_vit
from tests.commands import run_command
from tests.golden import Golden

pytestmark = pytest.mark.any_backend


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Return a model and the directory of its `.keras` and `.weights.h5` files."""
    directory = tmp_path_factory.mktemp("saved")
    preprocessor = Preprocessor.imagenet((16, 24))
    model = perturb(tiny_vit(representation_size=12, preprocessor=preprocessor))
    model.save(directory / "model.keras")
    model.save_weights(directory / "model.weights.h5")
    return model, directory


def test_keras_file(saved):
    model, directory = saved
    loaded = keras_vit.load_checkpoint(directory / "model.keras")
    assert loaded.get_config() == model.get_config()
    images = random_images(model)
    np.testing.assert_array_equal(array(loaded(images)), array(model(images)))


def test_keras_file_for_another_size(saved):
    model, directory = saved
    loaded = keras_vit.load_checkpoint(
        directory / "model.keras", input_shape=(32, 40, 3), resize="bicubic"
    )
    assert loaded.grid_shape == (4, 5)
    assert loaded.preprocessor.image_size == (32, 40)
    assert loaded.preprocessor.mean == model.preprocessor.mean
    old, new = (
        array(m.get_layer("patch_encoder").positions.embedding) for m in (model, loaded)
    )
    np.testing.assert_array_equal(new[:, :1], old[:, :1])
    expected = resize_grid(old[0, 1:].reshape(2, 3, -1), (4, 5), "bicubic")
    np.testing.assert_allclose(new[0, 1:].reshape(4, 5, -1), expected, atol=1e-6)


def test_keras_file_with_another_head(saved):
    model, directory = saved
    path = directory / "model.keras"
    new = keras_vit.load_checkpoint(path, head="new", classes=3)
    assert new.output_shape == (None, 3)
    assert not array(new.get_layer("classifier").kernel).any()
    for headless in (
        keras_vit.load_checkpoint(path, head="drop"),
        keras_vit.load_checkpoint(path, include_top=False),
    ):
        images = random_images(model)
        features = keras.Model(model.input, model.get_layer("pooling").output)
        np.testing.assert_allclose(
            array(headless(images)), array(features(images)), atol=1e-6
        )


@pytest.mark.any_backend
def test_a_new_head_has_not_the_activation_of_the_old_one(tmp_path):
    path = tmp_path / "model.keras"
    head = {"classifier_activation": "sigmoid", "classifier_bias": -10.0}
    tiny_vit(**head).save(path)
    config = keras_vit.load_checkpoint(path, head="new", classes=3).get_config()
    assert (config["classifier_activation"], config["classifier_bias"]) == ("softmax", 0)
    config = keras_vit.load_checkpoint(path, head="new", classes=1).get_config()
    assert config["classifier_activation"] is None
    config = keras_vit.load_checkpoint(path, head="new", classes=3, **head).get_config()
    assert config["classifier_bias"] == -10


@pytest.mark.any_backend
def test_a_new_head_for_a_file_without_one(tmp_path):
    path = tmp_path / "backbone.keras"
    tiny_vit(include_top=False).save(path)
    assert keras_vit.load_checkpoint(path, head="new", classes=3).output_shape[-1] == 3
    for arguments in ({"head": "new"}, {"include_top": True, "classes": 3}):
        with pytest.raises(ValueError, match="has no head: pass classes="):
            keras_vit.load_checkpoint(path, **arguments)


@pytest.mark.any_backend
def test_a_new_similarity_head_can_learn(saved):
    head = keras_vit.layers.SimilarityClassifier(projection_dim=4, activation="softmax")
    model = keras_vit.load_checkpoint(
        saved[1] / "model.keras", head="new", classes=3, classifier=head
    )
    assert array(model.get_layer("classifier").projection.kernel).std() > 0
    logits = keras_vit.models.adapt.adapted(model, {"classifier_activation": None})
    assert logits.get_layer("classifier").activation is None


@pytest.mark.any_backend
def test_a_quantized_kernel_is_not_adapted(tmp_path):
    path, model = tmp_path / "model.keras", perturb(tiny_vit())
    # Keras collects garbage for every layer that it quantizes, so quantize only one.
    projection = model.get_layer("patch_encoder").projection
    model.quantize("int8", filters=lambda layer: layer is projection)
    model.save(path)
    for arguments in ({"input_shape": (16, 24, 1)}, {"patch_size": 4}):
        with pytest.raises(ValueError, match="kernel of the patches is quantized"):
            keras_vit.load_checkpoint(path, **arguments)


def test_keras_file_for_other_channels_and_patches(saved):
    model, directory = saved
    path = directory / "model.keras"
    kernel = array(model.weights_by_path()["patch_encoder/projection/kernel"])
    kernel = kernel.reshape(8, 8, 3, 16)
    grey = keras_vit.load_checkpoint(path, input_shape=(16, 24, 1))
    assert np.size(grey.preprocessor.mean) == 1
    small = keras_vit.load_checkpoint(path, patch_size=4, input_shape=(8, 12, 3))
    for loaded, expected in (
        (grey, adapt_channels(kernel, 1)),
        (small, resize_patches(kernel, 4)),
    ):
        new = array(loaded.weights_by_path()["patch_encoder/projection/kernel"])
        np.testing.assert_allclose(new, expected.reshape(new.shape), atol=1e-6)


def test_keras_file_with_other_numbers(saved):
    _, directory = saved
    path = directory / "model.keras"
    loaded = keras_vit.load_checkpoint(
        path, classifier_activation=None, dropout_rate=0.1, dtype="mixed_bfloat16"
    )
    config = loaded.get_config()
    assert config["dropout_rate"] == 0.1
    assert config["dtype"] == "mixed_bfloat16"
    with pytest.raises(ValueError, match="block_2"):
        keras_vit.load_checkpoint(path, num_layers=3)


def test_weights_file(saved):
    model, directory = saved
    path = directory / "model.weights.h5"
    config = model.get_config()
    loaded = keras_vit.ViT.from_config({**config, "weights": path})
    images = random_images(model)
    np.testing.assert_array_equal(array(loaded(images)), array(model(images)))
    with pytest.raises(ValueError, match="holds weights and not the model"):
        keras_vit.load_checkpoint(path)
    with pytest.raises(ValueError, match=r"weights in .* do not match the model"):
        keras_vit.ViT.from_config({**config, "num_layers": 3, "weights": path})


def test_weights_of_another_model(saved, tmp_path):
    """Check that additional weights are an error; Keras alone would ignore them."""
    model, directory = saved
    path = directory / "model.weights.h5"
    config = {**model.get_config(), "weights": path}
    for change in ({"num_layers": 1}, {"representation_size": None}, {"head": "drop"}):
        with pytest.raises(ValueError, match=r"do not match.*only in the file"):
            keras_vit.ViT.from_config({**config, **change})
    for argument, value in (("head", "new"), ("resize", "google")):
        with pytest.raises(ValueError, match=r"do not go with \.weights\.h5"):
            keras_vit.ViT.from_config({**config, argument: value})
    damaged = tmp_path / "x.weights.h5"
    damaged.write_bytes(b"no HDF5")
    with pytest.raises(ValueError, match=r"x\.weights\.h5 \(7 bytes\) is not a readable"):
        keras_vit.ViT.from_config({**config, "weights": damaged})


def test_nans_in_files_of_this_package(tmp_path):
    model = perturb(tiny_vit())
    kernel = model.weights_by_path()["block_0/mlp/expand/kernel"]
    kernel.assign(array(kernel) * np.nan)
    weights, whole = tmp_path / "m.weights.h5", tmp_path / "m.keras"
    model.save_weights(weights)
    model.save(whole)
    config = {**model.get_config(), "weights": weights}
    with pytest.raises(ValueError, match="NaN or infinite"):
        keras_vit.ViT.from_config(config)
    with pytest.raises(ValueError, match=r"block_0/mlp/expand/kernel in .*NaN"):
        keras_vit.load_checkpoint(whole)
    keras_vit.ViT.from_config({**config, "check_finite": False})
    keras_vit.load_checkpoint(whole, check_finite=False)


def test_keras_file_with_arguments_that_do_not_fit(saved):
    _, directory = saved
    path = directory / "model.keras"
    with pytest.raises(ValueError, match="Unknown head 'nwe'"):
        keras_vit.load_checkpoint(path, head="nwe")
    with pytest.raises(ValueError, match="leave source_grid_shape out"):
        keras_vit.load_checkpoint(path, source_grid_shape=(2, 3))
    with pytest.raises(ValueError, match=r"(?s)classifier/kernel.*head='new'"):
        keras_vit.load_checkpoint(path, classes=7)


def test_a_hybrid_keras_file_for_other_channels(tmp_path):
    stem = keras_vit.layers.ResNetStem((1,), width=32)
    model = perturb(tiny_vit(stem=stem, patch_size=2))
    model.save(tmp_path / "m.keras")
    grey = keras_vit.load_checkpoint(tmp_path / "m.keras", input_shape=(16, 24, 1))
    old, new = (array(m.weights_by_path()["stem/root/kernel"]) for m in (model, grey))
    np.testing.assert_allclose(new, adapt_channels(old, 1), atol=1e-6)


def test_a_given_model_that_disagrees_about_gelu_or_epsilon_is_told():
    """Check the warnings for a golden that has the exact GELU and an epsilon of 1e-12."""
    golden = Golden("hf_vit")
    config = golden.load().get_config()
    for argument, value in (("activation", "gelu_tanh"), ("layer_norm_epsilon", 1e-5)):
        with pytest.warns(UserWarning, match=f"with {argument}=.*has {value!r}"):
            keras_vit.ViT.from_config({**config, argument: value, "weights": golden.path})


@pytest.mark.parametrize(
    "ending", mostly_slow([".keras", ".weights.h5", ".npz"], ".keras")
)
@pytest.mark.parametrize(
    "name", ["google_token_prelogits", pytest.param("hf_vit", marks=pytest.mark.slow)]
)
def test_convert(tmp_path, name, ending):
    golden = Golden(name)
    arguments = {**golden.overrides, "classifier_activation": None}
    if ending == ".npz":
        # Google's files do not state these settings, so the model must have Google's
        # values.
        arguments |= {"activation": "gelu_tanh", "layer_norm_epsilon": 1e-6}
    target = tmp_path / "new" / f"model{ending}"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The changed settings cause warnings.
        assert convert(golden.path, target, **arguments) <= 1e-5
        expected = keras_vit.load_checkpoint(golden.path, **arguments)
    assert [file.name for file in target.parent.iterdir()] == [target.name]
    if ending == ".weights.h5":
        again = keras_vit.ViT.from_config({**expected.get_config(), "weights": target})
    else:
        again = keras_vit.load_checkpoint(target, **arguments)
    outputs = [model.predict(golden.inputs, verbose=0) for model in (again, expected)]
    np.testing.assert_allclose(*outputs, atol=1e-5)
    with pytest.raises(FileExistsError, match="delete it or choose another"):
        convert(golden.path, target, **arguments)


def test_convert_there_and_back_is_bit_identical(tmp_path):
    golden = Golden("google_token_prelogits")
    there, back = tmp_path / "model.keras", tmp_path / "back.npz"
    convert(golden.path, there)
    convert(there, back)
    arrays = golden.arrays
    with np.load(back) as converted:
        assert set(converted) == set(arrays)
        for name, array_ in arrays.items():
            np.testing.assert_array_equal(converted[name], array_, err_msg=name)
            assert converted[name].dtype == array_.dtype


@pytest.mark.filterwarnings("ignore:The classifier")
def test_convert_sees_what_a_head_of_zeros_hides(tmp_path, monkeypatch):
    model = tiny_vit()
    model.save(tmp_path / "m.keras")
    load = keras_vit.ViT.load_weights

    def damage(self, *arguments, **keywords):
        load(self, *arguments, **keywords)
        kernel = self.weights_by_path()["block_0/mlp/expand/kernel"]
        kernel.assign(array(kernel) + 1)

    monkeypatch.setattr(keras_vit.ViT, "load_weights", damage)
    with pytest.raises(RuntimeError, match=r"was not written.*block_0/mlp/expand/kernel"):
        convert(tmp_path / "m.keras", tmp_path / "m.weights.h5")
    assert not (tmp_path / "m.weights.h5").exists()


def test_convert_to_what_cannot_be_written(tmp_path):
    golden = Golden("timm_registers_layerscale")
    with pytest.raises(ValueError, match=r"must end in \.keras, \.weights\.h5, \.npz"):
        convert(golden.path, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match=r"layer_scale|registers"):
        convert(golden.path, tmp_path / "model.npz", **golden.overrides)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path, capsys):
    golden = Golden("timm_map")
    target = tmp_path / "model.keras"
    named = ["--architecture", "vit_base_patch16_siglip_224"]
    with pytest.warns(UserWarning, match="trained with num_heads=12"):
        run_command(
            "convert", [str(golden.path), str(target), "--num-heads", "4", *named]
        )
    assert f"Wrote {target}" in capsys.readouterr().out
    logits = keras_vit.load_checkpoint(target, classifier_activation=None).predict(
        golden.inputs, verbose=0
    )
    np.testing.assert_allclose(logits, golden.outputs, atol=1e-4)


@pytest.mark.slow
def test_an_error_of_the_command_is_one_line(tmp_path):
    process = subprocess.run(
        [
            *(sys.executable, "-m", "keras_vit", "convert"),
            *(Golden("timm_map").path, tmp_path / "other.keras"),
        ],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "numpy"},  # The fastest backend to import.
    )
    assert process.returncode == 1
    assert "Pass num_heads=" in process.stderr
    assert "Traceback" not in process.stderr
