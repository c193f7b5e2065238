"""Features of the blocks, compared with the layers called one by one and with timm."""

import json

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import TransformerBlock
from recipes.benchmark import torchvision_stub
from tests.cases import (
    DENSE,
    array,
    perturb,
    random_array,
    random_images,
    tiny_t2t,
    tiny_vit,
)
from tests.golden import NAMES, Golden
from tests.weights.test_modern_goldens import DIRECTORY, TIMM

MODELS = {
    "token": lambda: tiny_vit(registers=2),
    "grid alone": lambda: tiny_vit(pooling="gap"),
    "norm after pooling": lambda: tiny_vit(pooling="gap", final_norm="after_pooling"),
    "distillation": lambda: tiny_vit(distillation_token=True),
    "rotary, post-norm": lambda: tiny_vit(positions="rope_axial", block="post_norm"),
    "tokens alone": lambda: tiny_vit(pooling=None, class_token=True, include_top=False),
    "hybrid": lambda: tiny_vit(
        input_shape=(32, 48, 3),
        patch_size=4,
        stem=keras_vit.layers.ResNetStem(num_blocks=(1,), width=32),
    ),
    "T2T": tiny_t2t,
}


def tokens_by_block(model, images):
    """Return the output of each block and that of the last norm, layer by layer."""
    x = keras.ops.convert_to_tensor(images)
    outputs = []
    for layer in model.layers[1:]:
        if layer.name in ("norm", "pooling", "distillation_pooling"):
            break
        x = layer(x, training=False) if layer.name == "dropout" else layer(x)
        if isinstance(layer, TransformerBlock):
            outputs.append(x)
    return outputs


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize(
    "kind",
    [
        "token",
        *(pytest.param(k, marks=pytest.mark.slow) for k in MODELS if k != "token"),
    ],
)
def test_features_are_the_tokens_of_the_blocks(kind):
    model = perturb(MODELS[kind]())
    images = random_images(model)
    expected = tokens_by_block(model, images)
    prefix, (gh, gw) = model.num_prefix_tokens, model.grid_shape
    norm = model.get_layer("norm") if kind != "norm after pooling" else lambda x: x
    for options, function in (({}, norm), ({"norm": False}, lambda x: x)):
        found = model.features(images, blocks=[1, -2], prefix_tokens=True, **options)
        flat = model.features(images, blocks=2, as_grid=False, **options)
        for (grid, before), index in zip(found, (1, 0), strict=True):
            tokens = array(function(expected[index]))
            shape = (2, gh, gw, 16)
            np.testing.assert_allclose(array(before), tokens[:, :prefix], atol=1e-5)
            np.testing.assert_allclose(
                array(grid), tokens[:, prefix:].reshape(shape), atol=1e-5
            )
            np.testing.assert_allclose(array(flat[index]), tokens[:, prefix:], atol=1e-5)


def test_prediction_in_batches_compiles_once_and_follows_the_weights(monkeypatch):
    model = perturb(tiny_vit())
    images = random_images(model, batch=6)
    traces = []
    transform = TransformerBlock._transform
    monkeypatch.setattr(
        TransformerBlock,
        "_transform",
        lambda self, x, training: traces.append(1) or transform(self, x, training),
    )

    def predict():
        network = model.feature_model(blocks=[0, 1], prefix_tokens=True)
        return network.predict(images, batch_size=3, verbose=0)

    first = predict()
    count = len(traces)
    (grid, prefix), _ = model.features(images, blocks=2, prefix_tokens=True)
    np.testing.assert_allclose(first["block_0"], array(grid), atol=1e-5)
    np.testing.assert_allclose(first["block_0_prefix"], array(prefix), atol=1e-5)
    traces.clear()
    predict()
    if keras.backend.backend() != "torch":  # Torch does not compile here.
        assert count > 0
        assert traces == []
    perturb(model, seed=1)
    (other,) = model.features(images, blocks=[0])
    np.testing.assert_allclose(predict()["block_0"], array(other), atol=1e-5)
    assert np.abs(first["block_0"] - array(other)).max() > 0.1


@pytest.mark.slow_elsewhere
def test_a_prediction_after_lora_includes_it():
    model = perturb(tiny_vit())
    images = random_images(model)
    model.feature_model().predict(images, verbose=0)
    dense = model.get_layer("block_0").mlp.expand
    dense.enable_lora(2)
    for weight in (dense.lora_kernel_a, dense.lora_kernel_b):
        weight.assign(random_array(*weight.shape))
    (expected,) = model.features(images)
    found = model.feature_model().predict(images, verbose=0)["block_1"]
    np.testing.assert_allclose(found, array(expected), atol=1e-4)


@pytest.mark.slow
@pytest.mark.any_backend
def test_models_of_features_save_and_the_files_of_the_model_stay_the_same(tmp_path):
    model = perturb(tiny_vit(registers=1))
    images = random_images(model)
    network = model.feature_model(blocks=2, prefix_tokens=True)
    network.save(tmp_path / "features.keras")
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "features.keras")
    for name, value in network.predict(images, verbose=0).items():
        other = restored.predict(images, verbose=0)[name]
        np.testing.assert_allclose(other, value, atol=1e-6)
    assert restored.grid_shape == (2, 3)
    loaded = keras_vit.load_checkpoint(tmp_path / "model.keras")
    (expected,) = model.features(images)
    np.testing.assert_allclose(array(loaded.features(images)[0]), array(expected), 1e-5)


def test_features_inside_of_tf_data(tensorflow):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("tf.data maps functions of the TensorFlow backend only")
    model = perturb(tiny_vit())
    images = random_images(model, batch=5)
    dataset = tensorflow.data.Dataset.from_tensor_slices(images).batch(2)
    maps = [grid.numpy() for (grid,) in dataset.map(lambda x: tuple(model.features(x)))]
    (expected,) = model.features(images)
    np.testing.assert_allclose(np.concatenate(maps), array(expected), atol=1e-5)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("blocks", "message"),
    [
        (3, "blocks=3 is out of range. The model has 2 blocks. Pass an int from 1 to 2"),
        (0, "out of range"),
        ([0, 2], r"no block 2. .* block numbers from -2 to 1"),
        ([-3], "no block -3"),
        ([], "empty"),
        ("last", "an int or a list of ints"),
        ([0.5], "an int or a list of ints"),
        (True, "not a block number"),
    ],
)
def test_unknown_blocks(blocks, message):
    model = tiny_vit()
    with pytest.raises(ValueError, match=message):
        model.features(random_images(model), blocks=blocks)


@pytest.mark.any_backend
def test_images_of_another_size():
    with pytest.raises(ValueError, match=r"takes images of 16x24 .* model.resized"):
        tiny_vit().features(np.zeros((1, 24, 24, 3), "float32"))
    with pytest.raises(ValueError, match="floats"):
        tiny_vit().features(np.zeros((1, 16, 24, 3), "uint8"))


@pytest.mark.any_backend
def test_a_norm_of_another_width():
    model = tiny_t2t(**DENSE)
    images = random_images(model)
    assert model.features(images)[0].shape[-1] == model.get_layer("norm").input.shape[-1]
    assert len(model.features(images, blocks=3, norm=False)) == 3
    with pytest.raises(ValueError, match=r"block_1 has width 32. Pass norm=False"):
        model.features(images, blocks=3)


def timm_network(name):
    """Return timm's network and the path of its file."""
    torchvision_stub.install()
    timm = pytest.importorskip("timm", reason="NOT TESTED against timm")
    safetensors = pytest.importorskip("safetensors.torch")
    if name in TIMM:
        description = json.loads((DIRECTORY / name / "config.json").read_text())
        network = timm.create_model(
            description["architecture"], **description["model_args"]
        )
        path = DIRECTORY / name / "model.safetensors"
    else:
        golden = Golden(name)
        kind = "VisionTransformer"
        module = timm.models.vision_transformer
        if "distilled" in name:
            kind, module = "VisionTransformerDistilled", timm.models.deit
        arguments = {"img_size": golden.input_shape[:2], **golden.config}
        network, path = getattr(module, kind)(**arguments), golden.path
    network.load_state_dict(safetensors.load_file(path))
    return network.eval()


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("name", [*TIMM, *(n for n in NAMES if n.startswith("timm_"))])
def test_features_are_those_of_timm(name):
    torch = pytest.importorskip("torch", reason="NOT TESTED against timm")
    if name in TIMM and not DIRECTORY.is_dir():
        pytest.skip(f"no {DIRECTORY}: modern checkpoints are NOT TESTED")
    network = timm_network(name)
    model = (
        keras_vit.load_checkpoint(DIRECTORY / name)
        if name in TIMM
        else Golden(name).load()
    )
    images = random_images(model)
    pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    for blocks in (1, 2, [-2], [0, -1]):
        for norm in (True, False):
            with torch.no_grad():
                expected = network.forward_intermediates(
                    pixels, blocks, True, norm, intermediates_only=True
                )
            found = model.features(images, blocks, norm=norm, prefix_tokens=True)
            assert len(found) == len(expected)
            for (grid, prefix), other in zip(found, expected, strict=True):
                other = other if isinstance(other, tuple) else (other, None)
                other_grid = other[0].numpy().transpose(0, 2, 3, 1)
                np.testing.assert_allclose(array(grid), other_grid, rtol=0, atol=1e-4)
                if model.num_prefix_tokens:
                    np.testing.assert_allclose(
                        array(prefix), other[1].numpy(), rtol=0, atol=1e-4
                    )
