"""Models with LoRA or quantization: saving, loading, resizing and merging."""

import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit import convert
from keras_vit.export import served_model
from keras_vit.layers import ResNetStem
from keras_vit.models.lora import merged
from tests.cases import DENSE, array, perturb, random_images, tiny_t2t, tiny_vit

# Models for each mode; together they have every kind of layer.
CASES = {
    "lora": lambda: tiny_t2t(**{**DENSE, "num_layers": (1, 1)}),
    "int8": lambda: tiny_vit(num_layers=1, representation_size=12),
    "int4": lambda: tiny_vit(num_layers=1, pooling="map", classifier_activation=None),
    "float8": lambda: tiny_vit(num_layers=1, stem=ResNetStem((), width=32), patch_size=1),
    "int8 lora": lambda: tiny_vit(num_layers=1),
}


def _dense_layers(model):
    return [x for x in model._flatten_layers() if isinstance(x, keras.layers.Dense)]


def _with_lora(model, seed=0):
    for layer in _dense_layers(perturb(model)):
        layer.enable_lora(2, lora_alpha=3)
        noise = np.random.default_rng(seed).normal(size=layer.lora_kernel_b.shape)
        layer.lora_kernel_b.assign(0.1 * noise)
    return model


def _outputs(model, seed=0):
    images = random_images(model, seed=seed)
    if keras.backend.backend() == "jax":  # Compilation saves time only here.
        return model.predict(images, verbose=0)
    return array(model(images))


def _adapted(case):
    model = CASES[case]()
    if case == "lora":
        return _with_lora(model)
    perturb(model).quantize(case.split()[0])
    if "lora" in case:
        model.get_layer("block_0").attention.qkv.enable_lora(2)
    return model


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize(
    "case",
    [
        "lora",
        *(
            pytest.param(case, marks=pytest.mark.slow)
            for case in ("int8", "int4", "float8", "int8 lora")
        ),
    ],
)
def test_saved_and_loaded(case, tmp_path):
    model = _adapted(case)
    if case == "int8":
        dense = len(_dense_layers(model))
        assert sum("int8" in str(w.dtype) for w in model.weights) == dense == 7
    expected = _outputs(model)
    model.save(tmp_path / "model.keras")
    loaded = keras_vit.load_checkpoint(tmp_path / "model.keras")
    np.testing.assert_allclose(_outputs(loaded), expected, atol=1e-6)
    assert [w.dtype for w in loaded.weights] == [w.dtype for w in model.weights]
    assert json.dumps(loaded.get_config()) == json.dumps(model.get_config())
    assert [w.path for w in loaded.trainable_weights] == [
        w.path for w in model.trainable_weights
    ]
    if case == "int8":
        again = keras.models.clone_model(model)
        again.set_weights(model.get_weights())
        np.testing.assert_allclose(_outputs(again), expected, atol=1e-6)
        part = keras.Model(model.input, model.layers[-2].output)
        part.save(tmp_path / "part.keras")
        loaded = keras.saving.load_model(tmp_path / "part.keras")
        np.testing.assert_allclose(_outputs(loaded), _outputs(part), atol=1e-6)


@pytest.mark.slow_elsewhere
def test_a_loaded_model_goes_on_learning(tmp_path):
    model = _with_lora(tiny_vit())
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    loaded.compile("sgd", "sparse_categorical_crossentropy")
    qkv = loaded.get_layer("block_0").attention.qkv
    base, factor = array(qkv._kernel), array(qkv.lora_kernel_b)
    loaded.fit(random_images(loaded), np.array([0, 1]), verbose=0)
    assert np.abs(array(qkv.lora_kernel_b) - factor).max() > 0
    np.testing.assert_array_equal(array(qkv._kernel), base)


@pytest.mark.slow_elsewhere
def test_resized_new_head_and_merged(tmp_path):
    model = _with_lora(tiny_vit())
    expected = _outputs(model)
    np.testing.assert_allclose(_outputs(model.resized((16, 24, 3))), expected, atol=1e-6)
    plain = merged(model)
    np.testing.assert_allclose(_outputs(plain), expected, atol=1e-6)
    assert "lora" not in plain.get_config()
    assert len(plain.trainable_weights) == len(plain.weights) == len(tiny_vit().weights)
    assert merged(plain) is plain
    model.save(tmp_path / "model.keras")
    new = keras_vit.load_checkpoint(tmp_path / "model.keras", head="new", classes=3)
    assert set(new.get_config()["lora"]) == set(model.get_config()["lora"]) - {
        "classifier"
    }
    convert.convert(tmp_path / "model.keras", tmp_path / "model.npz")
    again = keras_vit.load_checkpoint(tmp_path / "model.npz", input_shape=(16, 24, 3))
    np.testing.assert_allclose(_outputs(again), expected, atol=1e-6)


def test_frozen_beside_lora():
    model = _with_lora(tiny_vit())
    model.get_layer("block_0").trainable = False
    again = keras_vit.ViT.from_config(model.get_config())
    assert not again.get_layer("block_0").trainable_weights
    assert len(again.trainable_weights) == len(model.trainable_weights)
    assert not merged(model).get_layer("block_0").trainable_weights
    config = {**model.get_config(), "lora": {"classifier": [10**9, 1]}}
    with pytest.raises(ValueError, match="classifier must have a rank from 1 to 16"):
        keras_vit.ViT.from_config(config)


@pytest.mark.slow
def test_what_a_quantized_model_refuses():
    model = tiny_vit()
    config = keras.quantizers.GPTQConfig(dataset=["a"], tokenizer=lambda text: [0])
    message = (
        "mode 'gptq' for a Vision Transformer; choose one of 'int8', 'int4', 'float8'"
    )
    with pytest.raises(ValueError, match=message):
        model.quantize("gptq", config=config)
    for arguments in (["gptq"], ["awq"], [None, config]):
        with pytest.raises(ValueError, match=message.replace("gptq", "(gptq|awq)")):
            model.quantize(*arguments)
    model.quantize("int8", filters="qkv")
    assert list(model.get_config()["quantized"]) == [
        "block_0/attention/qkv",
        "block_1/attention/qkv",
    ]
    message = r"quantized \(int8; 2 layers.*weights_dtype='int8'"
    with pytest.raises(ValueError, match=message):
        served_model.loaded(model)


@pytest.mark.any_backend
@pytest.mark.parametrize("alpha", [0, -1.0, True, float("nan")])
def test_alpha_out_of_range(alpha):
    with pytest.raises(ValueError, match="alpha must be a number above 0"):
        keras_vit.lora.enable(tiny_vit(), rank=2, alpha=alpha)


@pytest.mark.any_backend
def test_a_numpy_alpha_and_a_convolution_are_saved(tmp_path):
    stem = keras_vit.layers.ConvTokenizer((16,))
    model = perturb(tiny_vit(stem=stem, patch_size=1))
    base = model.get_config(), model.get_weights()
    keras_vit.lora.enable(model, rank=2, alpha=np.float32(4), layers=["stem"])
    keras_vit.lora.save(perturb(model), tmp_path / "updates.safetensors")
    other = type(model).from_config(base[0])
    other.set_weights(base[1])
    # The kernels of the base are those of the model that was saved.
    for path, weight in other.weights_by_path().items():
        weight.assign(model.weights_by_path()[path])
    keras_vit.lora.load(other, tmp_path / "updates.safetensors")
    images = random_images(model)
    np.testing.assert_allclose(array(other(images)), array(model(images)), atol=1e-6)
