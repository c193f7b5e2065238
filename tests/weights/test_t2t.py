"""Released T2T-ViT checkpoints: overrides and errors."""

import argparse

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers.positions import sinusoids
from keras_vit.weights.detect import open_checkpoint
from tests.cases import array, random_array
from tests.golden import Golden

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.any_backend

PERFORMER = Golden("t2t_performer")


def tensors(golden=PERFORMER):
    return torch.load(golden.path, weights_only=True)["state_dict_ema"]


def written(tmp_path, content):
    path = tmp_path / "model.pth.tar"
    torch.save(content, path)
    return path


def values(model):
    return {path: array(weight) for path, weight in model.weights_by_path().items()}


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("t2t_performer", {"tokens": "performer", "backbone": "plain"}),
        ("t2t_transformer", {"tokens": "transformer", "hidden_dim": 96}),
        ("t2t_se", {"backbone": "se", "mlp_dim": 192}),
        ("t2t_ghost", {"backbone": "ghost", "mlp_dim": 192}),
        ("t2t_dense", {"backbone": "dense", "num_layers": (2, 2), "growth_rate": 16}),
    ],
)
def test_what_a_file_tells(name, told):
    golden = Golden(name)
    config = open_checkpoint(golden.path).infer_config({"num_heads": 2})
    always = {"token_dim": 64, "classes": 10, "input_shape": (224, 224, 3)}
    for key, value in {**always, **told, "qkv_bias": False}.items():
        assert config[key] == value


def test_the_model_and_its_preprocessor():
    model = PERFORMER.load(head="new", classes=3, input_shape=(32, 48, 3))
    assert type(model) is keras_vit.T2TViT
    preprocessor = model.preprocessor
    assert (preprocessor.image_size, preprocessor.crop_fraction) == ((32, 48), 0.9)
    assert preprocessor.mean == [123.675, 116.28, 103.53]
    # Unlike `pretrained=True` in the original, heads are scaled by head_dim ** -0.5.
    assert model.get_layer("block_0").attention.scale == 32**-0.5
    whole = values(PERFORMER.load())
    for path, value in values(model).items():
        if path == "patch_encoder/positions/embedding":
            np.testing.assert_array_equal(value, sinusoids(7, 64))
        elif path.startswith("classifier/"):
            assert value.shape[-1] == 3
        else:
            np.testing.assert_array_equal(value, whole[path], err_msg=path)


def test_features_without_the_head():
    model = PERFORMER.load(include_top=False, pooling=None, input_shape=(32, 32, 3))
    assert model.output_shape == (None, 5, 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["t2t_performer", "t2t_transformer"])
def test_a_grey_image_gives_what_it_gave_as_rgb(name, tmp_path):
    """Check gray images for a first norm that treats all channels equally."""
    golden = Golden(name)
    state = tensors(golden)
    for vector in ("weight", "bias"):
        key = f"tokens_to_token.attention1.norm1.{vector}"
        state[key] = state[key].reshape(3, 49)[:1].repeat(3, 1).reshape(147)
    path = written(tmp_path, state)
    shared = {**golden.overrides, "classifier_activation": None}
    colour = keras_vit.load_checkpoint(path, **{**shared, "input_shape": (32, 32, 3)})
    grey = keras_vit.load_checkpoint(path, **{**shared, "input_shape": (32, 32, 1)})
    image = random_array(1, 32, 32, 1)
    np.testing.assert_allclose(
        grey.predict(image, verbose=0),
        colour.predict(np.repeat(image, 3, axis=-1), verbose=0),
        rtol=0,
        atol=1e-5,
    )
    colour.save(tmp_path / "colour.keras")
    again = keras_vit.load_checkpoint(tmp_path / "colour.keras", input_shape=(32, 32, 1))
    for path, value in values(grey).items():
        np.testing.assert_array_equal(values(again)[path], value, err_msg=path)


def test_four_channels():
    model = PERFORMER.load(input_shape=(32, 32, 4))
    kernel = values(model)["stem/performer_0/qkv/kernel"].reshape(49, 4, -1)
    np.testing.assert_array_equal(kernel[:, 3], kernel[:, 0])
    gamma = values(model)["stem/performer_0/attention_norm/gamma"].reshape(49, 4)
    np.testing.assert_array_equal(gamma[:, 3], gamma[:, 0])
    whole = values(PERFORMER.load(input_shape=(32, 32, 3)))
    np.testing.assert_allclose(
        gamma[:, :3].ravel(), whole["stem/performer_0/attention_norm/gamma"], rtol=1e-6
    )


def test_a_keras_file_of_another_size(tmp_path):
    PERFORMER.load(input_shape=(32, 32, 3)).save(tmp_path / "model.keras")
    model = keras_vit.load_checkpoint(
        tmp_path / "model.keras", input_shape=(48, 32, 3), classes=3, head="new"
    )
    assert type(model) is keras_vit.T2TViT
    assert model.output_shape == (None, 3)
    table = values(model)["patch_encoder/positions/embedding"]
    np.testing.assert_array_equal(table, sinusoids(7, 64))


def test_what_training_saves(tmp_path):
    """Check a training checkpoint, of which the averaged weights are preferred."""
    state = tensors()
    content = {
        "epoch": 309,
        "arch": "t2t_vit_14",
        "args": argparse.Namespace(lr=5e-4, model="t2t_vit_14"),
        "state_dict": {name: torch.zeros_like(x) for name, x in state.items()},
        "state_dict_ema": {f"module.{name}": x for name, x in state.items()},
    }
    path = written(tmp_path, content)
    overrides = {**PERFORMER.overrides, "input_shape": (32, 32, 3)}
    expected = values(PERFORMER.load(input_shape=(32, 32, 3)))
    with pytest.warns(UserWarning, match="averaged ones, 'state_dict_ema', were read"):
        averaged = keras_vit.load_checkpoint(path, **overrides)
    for name, value in values(averaged).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    with pytest.warns(UserWarning, match="is all zeros"):
        raw = keras_vit.load_checkpoint(path, **overrides, state_dict="state_dict")
    assert not values(raw)["norm/gamma"].any()


def test_heads_that_nothing_tells():
    with pytest.raises(ValueError, match=r"width 64\. Pass num_heads=\.\.\."):
        keras_vit.load_checkpoint(PERFORMER.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extra": torch.zeros(2)}, r"not used by the model \(1\):\s+extra \(2,\)"),
        ({"norm.bias": None}, r"not in the file \(1\):\s+norm\.bias \(64,\)"),
        ({"cls_token": None}, r"is not a T2T-ViT checkpoint.*cls_token \(not there\)"),
        ({"norm.bias": torch.full((64,), torch.nan)}, "64 of 64 entries are NaN"),
    ],
)
def test_files_that_do_not_fit(tmp_path, change, message):
    state = {**tensors(), **change}
    state = {name: x for name, x in state.items() if x is not None}
    path = written(tmp_path, state)
    overrides = {**PERFORMER.overrides, "input_shape": (32, 32, 3)}
    with pytest.raises(ValueError, match=message):
        keras_vit.load_checkpoint(path, **overrides)


@pytest.mark.slow
def test_models_of_another_kind():
    with pytest.raises(ValueError, match=r"T2T-ViT checkpoint: use keras_vit\.T2TViT"):
        keras_vit.ViT(weights=PERFORMER.path)
    google = Golden("google_token")
    with pytest.raises(ValueError, match="Google ViT checkpoint, which requires"):
        keras_vit.T2TViT(weights=google.path)
    for wrong in ({"tokens": "convolution"}, {"pooling": "map"}, {"registers": 1}):
        with pytest.raises(ValueError, match="T2T-ViT checkpoint, which requires"):
            PERFORMER.load(**wrong)
    with pytest.raises(ValueError, match=r"input_shape=\(32, 48, 3\)"):
        PERFORMER.load(input_shape=(33, 48, 3))
    with pytest.warns(UserWarning, match="trained with activation='gelu'"):
        PERFORMER.load(activation="relu", input_shape=(32, 32, 3))
    keras.utils.clear_session()
