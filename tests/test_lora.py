"""LoRA in plain Keras: `keras_vit.lora`."""

import re

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit import lora
from keras_vit.models.lora import is_factor
from keras_vit.weights.pieces import HEAD_PATHS
from tests.cases import array, perturb, random_array, random_images, tiny_t2t, tiny_vit

LABELS = np.array([0, 1, 2, 3])


def base_model(**overrides):
    """Return a model with the same weights in every call."""
    keras.utils.set_random_seed(0)
    overrides = {"num_layers": 1, "classifier_activation": None, **overrides}
    return perturb(tiny_vit(**overrides))


def values(model):
    return {path: array(weight) for path, weight in model.weights_by_path().items()}


def outputs(model, images):
    if keras.backend.backend() == "jax":  # Compilation saves time only here.
        return model.predict(images, verbose=0)
    return array(model(images))


def fit(model, images, optimizer="adam", steps=3):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    jit = keras.backend.backend() == "jax"
    model.compile(keras.optimizers.get(optimizer), loss, jit_compile=jit)
    model.fit(images, LABELS, batch_size=4, epochs=steps, verbose=0)


@pytest.fixture(scope="module")
def images():
    return random_images(base_model(), batch=4)


@pytest.fixture(scope="module")
def trained(images, tmp_path_factory):
    """Return a trained model, its weights before training, and its files."""
    model = base_model()
    expected = outputs(model, images)
    lora.enable(model, rank=2, alpha=4)
    np.testing.assert_array_equal(outputs(model, images), expected)
    before = values(model)
    fit(model, images)
    folder = tmp_path_factory.mktemp("lora")
    lora.save(model, folder / "updates.safetensors")
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    return model, before, folder


def test_only_factors_and_head_change(trained):
    model, before, _ = trained
    after = values(model)
    changed = {p for p, v in after.items() if not np.array_equal(v, before[p])}
    assert changed == {p for p in before if is_factor(p) or p.startswith(HEAD_PATHS)}
    assert len(changed) == 4 * 2 + 2
    assert changed == {p for p, w in model.weights_by_path().items() if w.trainable}


def test_a_file_gives_the_same_outputs(trained, images):
    model, _, folder = trained
    expected = outputs(model, images)
    other = base_model()
    lora.load(other, folder / "updates.safetensors")
    np.testing.assert_array_equal(outputs(other, images), expected)
    assert {w.path for w in other.trainable_weights} == {
        w.path for w in model.trainable_weights
    }
    lora.load(other, folder / "updates.safetensors")  # Into a model that has LoRA.
    resized = base_model().resized((32, 24, 3))
    lora.load(resized, folder / "updates.safetensors")
    back = resized.resized(model.input_shape[1:])
    assert back.get_config()["lora"] == model.get_config()["lora"]


def test_merged_models_and_whole_files(trained, images):
    model, _, folder = trained
    expected = outputs(model, images)
    merged = lora.merge(model)
    plain = base_model()
    assert all(weight.trainable for weight in merged.weights)
    assert len(merged.weights) == len(plain.weights)
    assert lora.merge(merged) is merged
    loaded = keras_vit.load_checkpoint(folder / "model.keras")
    assert loaded.get_config()["lora"] == model.get_config()["lora"]
    plain.load_weights(folder / "model.weights.h5")  # Keras stores merged kernels.
    for other in (merged, loaded, plain):
        found = outputs(other, images)
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_the_fast_form_trains_as_keras_does():
    x, y = random_array(4, 5, 6), random_array(4, 5, 7, seed=1)
    results = []
    for kind in ("fast", "plain"):
        keras.utils.set_random_seed(0)
        layer = keras_vit.layers.Dense(7, activation="tanh")
        model = keras.Sequential([keras.Input((5, 6)), layer])
        layer.enable_lora(2, lora_alpha=3)
        layer.lora_kernel_b.assign(random_array(2, 7, seed=2))
        keras_vit.kernels.use(kind)
        model.compile(keras.optimizers.SGD(0.1), "mse", jit_compile=False)
        loss = model.train_on_batch(x, y)
        keras_vit.kernels.use("fast")
        results.append([loss, *map(array, model.weights)])
    for fast, plain in zip(*results, strict=True):
        np.testing.assert_allclose(fast, plain, atol=1e-6)


@pytest.mark.any_backend
def test_the_head_of_another_model(trained, tmp_path):
    model, path = trained[0], tmp_path / "updates.safetensors"
    other, loaded = tiny_vit(num_layers=1), base_model()
    other.get_layer("classifier").bias.assign(np.arange(5.0))
    lora.save(model, path, head_of=other)
    lora.load(loaded, path)
    found, expected = values(loaded), {**values(model), "classifier/bias": np.arange(5.0)}
    expected["classifier/kernel"] = array(other.get_layer("classifier").kernel)
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.any_backend
def test_layers_by_path():
    model = tiny_vit(representation_size=12)
    lora.enable(model, 3, layers=["attention/qkv", "block_1/mlp"])
    assert model.get_config()["lora"] == {
        "block_0/attention/qkv": [3, 3],
        "block_1/attention/qkv": [3, 3],
        "block_1/mlp/expand": [3, 3],
        "block_1/mlp/contract": [3, 3],
    }
    trained = [p for p, w in model.weights_by_path().items() if w.trainable]
    assert trained[-4:] == [
        "pre_logits/kernel",
        "pre_logits/bias",
        "classifier/kernel",
        "classifier/bias",
    ]
    frozen = tiny_t2t()
    frozen.trainable = False
    lora.enable(frozen, 2, layers="mlp")
    assert len(frozen.trainable_weights) == 2 * 2 * (2 + 2) + 2


@pytest.mark.any_backend
def test_models_that_cannot_be_enabled():
    model = tiny_vit(num_layers=1)
    for rank in (0, -1, 10**9, 2.0, None):
        with pytest.raises(ValueError, match="must have a rank from 1 to 48"):
            lora.enable(model, rank, layers=["qkv"])
    message = (
        r"has \['head', 'atten'\] in its path. Their paths: patch_encoder/projection"
    )
    with pytest.raises(ValueError, match=message):
        lora.enable(model, layers=["head", "mlp", "atten"])
    with pytest.raises(ValueError, match="no dense layer has"):
        lora.enable(model, layers=["classifier"])
    with pytest.raises(ValueError, match="no dense layer has"):
        lora.enable(model, layers=[])
    assert len(model.trainable_weights) == len(model.weights)
    lora.enable(model)
    with pytest.raises(ValueError, match="uses LoRA already, on 4 layers"):
        lora.enable(model)
    model = tiny_vit(num_layers=1)
    model.quantize("int8", filters="qkv")  # Quantizing takes seconds per layer.
    with pytest.raises(ValueError, match=r"quantized \(int8"):
        lora.enable(model)


@pytest.mark.any_backend
def test_files_that_do_not_fit(trained, tmp_path, goldens):
    path = trained[2] / "updates.safetensors"
    model = base_model()
    before = values(model)
    cases = [
        (base_model(classes=4), "classifier/kernel: the model needs"),
        (tiny_t2t(backbone="ghost"), "updates block_0/mlp/expand, and .* no such dense"),
        (base_model(mlp_dim=32), "block_0/mlp/expand/lora_kernel_b: the model needs"),
        (tiny_vit(), "belongs to other weights"),
    ]
    for other, message in cases:
        with pytest.raises(ValueError, match=message):
            lora.load(other, path)
        assert "lora" not in other.get_config()
    other = tiny_vit()
    lora.enable(other, 3)
    with pytest.raises(ValueError, match="LoRA with other ranks"):
        lora.load(other, path)
    with pytest.raises(ValueError, match="does not use LoRA: call"):
        lora.save(model, tmp_path / "a.safetensors")
    with pytest.raises(ValueError, match=r"must end in \.safetensors; received a\.npz"):
        lora.save(trained[0], "a.npz")
    damaged = tmp_path / "damaged.safetensors"
    damaged.write_bytes(path.read_bytes()[:-7])
    with pytest.raises(ValueError, match=re.escape(str(damaged))):
        lora.load(model, damaged)
    whole = goldens / "timm_map.checkpoint.safetensors"
    with pytest.raises(ValueError, match=r"not written by keras_vit\.lora\.save"):
        lora.load(model, whole)
    with pytest.raises(ValueError, match="holds the LoRA updates of a model"):
        keras_vit.load_checkpoint(path)
    for name, value in values(model).items():
        np.testing.assert_array_equal(value, before[name])


@pytest.mark.any_backend
def test_the_backbone_of_a_segmentation_model(tmp_path):
    backbone = base_model(include_top=False)
    model = keras_vit.SegmentationModel(backbone, keras.layers.Dense(3))
    lora.enable(model.backbone, 2)
    head = {w.path for w in model.weights} - {w.path for w in backbone.weights}
    trained = {w.path for w in model.trainable_weights}
    assert trained == head | {w.path for w in backbone.trainable_weights}
    assert len(trained) == len(head) + 8
    lora.save(model.backbone, tmp_path / "updates.safetensors")
