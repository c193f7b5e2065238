"""Conversion to transformers' directories, read back by keras_vit and transformers.

Without transformers, only keras_vit reads them.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_vit
from keras_vit.convert import convert
from keras_vit.weights.transformers.writer import transformers_directory
from recipes.benchmark import torchvision_stub
from tests.cases import array, mostly_slow, perturb, random_images, tiny_vit
from tests.golden import Golden

pytestmark = pytest.mark.any_backend

SQUARE = {"input_shape": (16, 16, 3)}
# Arguments of models, each of which transformers can express.
DINOV2 = {**SQUARE, "layer_scale": 0.1, "mlp_dim": 32, "activation": "gelu"}
DINOV3 = {"positions": "rope_axial", "layer_scale": 0.1, "activation": "gelu",
          "include_top": False}  # fmt: skip
CLIP = {**SQUARE, "embedding_norm": "tokens", "final_norm": None}
CLIP_GAP = {"pooling": "gap", "class_token": True}
BEIT = {**SQUARE, "qkv_bias": "qv", "class_token": True, "activation": "gelu"}
MODELS = {
    "vit": {"layer_norm_epsilon": 1e-12, "activation": "gelu"},
    "cropped": {**SQUARE, "class_names": ["a", "b", "c", "d", "e"]},
    "headless": {"include_top": False, "activation": "quick_gelu", "qkv_bias": False},
    "tokens": {"include_top": False, "pooling": None, "activation": "silu"},
    "grey": {"input_shape": (16, 16, 1), "classifier_activation": "sigmoid"},
    "deit": {"registers": 1, "activation": "gelu"},
    "teacher": {"distillation_token": True, "activation": "gelu"},
    "ijepa": {"pooling": "gap"},
    "dinov2": {**DINOV2, "include_top": False},
    "dinov2_classifier": {**DINOV2, "pooling": "token_gap"},
    "dinov2_registers": {**DINOV2, "registers": 3, "include_top": False},
    "dinov2_registers_classifier": {**DINOV2, "registers": 3, "pooling": "token_gap"},
    "dinov2_swiglu": {**DINOV2, "include_top": False, "mlp": "swiglu"},
    "dinov3": {**DINOV3, "qkv_bias": "qv"},
    "dinov3_gated": {**DINOV3, "mlp": "swiglu", "registers": 2, "qkv_bias": False},
    "clip": {**CLIP, "include_top": False, "final_norm": "after_pooling"},
    "clip_classifier": {**CLIP, **CLIP_GAP},
    "aimv2": {**SQUARE, "include_top": False, "norm": "rms", "mlp": "swiglu",
              "embedding_norm": "patches", "class_token": False, "qkv_bias": True,
              "pooling": keras_vit.layers.AttentionPooling(
                  2, None, use_query_projection=False)},
    "siglip": {**SQUARE, "pooling": "map", "include_top": False},
    "siglip_classifier": {**SQUARE, "pooling": "gap"},
    "beit": {**BEIT, "positions": "relative_bias", "layer_scale": 0.1, "pooling": "gap",
             "final_norm": "after_pooling"},
    "beit_token": {**BEIT, "positions": "learned", "include_top": False},
}  # fmt: skip


def with_preprocessor(**arguments):
    """Return a tiny model with a preprocessor that transformers can express."""
    *size, channels = arguments.get("input_shape", (16, 24, 3))
    crop = {"crop_fraction": 0.8, "crop_rounding": "floor"}
    preprocessor = keras_vit.layers.Preprocessor(
        [100.0, 110.0, 120.0],
        50.0,
        image_size=tuple(size),
        resize="bilinear_antialias",
        **(crop if "class_names" in arguments else {"crop_fraction": None}),
    ).with_channels(channels)
    return tiny_vit(preprocessor=preprocessor, **arguments)


FAST = "vit", "dinov2_registers_classifier", "dinov3_gated", "siglip", "beit"


@pytest.fixture(scope="module", params=mostly_slow(MODELS, *FAST))
def converted(request, tmp_path_factory):
    """Return a model, and the directory to which it was converted."""
    model = perturb(with_preprocessor(**MODELS[request.param]))
    directory = tmp_path_factory.mktemp(request.param)
    model.save(directory / "model.keras")
    target = directory / "converted"
    assert convert(directory / "model.keras", target, to="transformers") <= 1e-5
    return model, target


def test_the_directory_is_read_back(converted):
    model, directory = converted
    again = keras_vit.load_checkpoint(directory)
    weights = again.weights_by_path()
    for path, weight in model.weights_by_path().items():
        np.testing.assert_array_equal(array(weight), array(weights[path]), err_msg=path)
    own, other = model.get_config(), again.get_config()
    assert own["class_names"] == other["class_names"]
    assert own["classifier_activation"] == other["classifier_activation"]
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 50, own["input_shape"][2]))
    pixels = pixels.astype("uint8")
    images = [array(m.preprocessor(pixels)) for m in (model, again)]
    np.testing.assert_allclose(*images, rtol=0, atol=1e-5)


def test_transformers_gives_the_same_outputs(converted):
    torchvision_stub.install()
    reason = "conversion to transformers is NOT TESTED"
    torch = pytest.importorskip("torch", reason=reason)
    transformers = pytest.importorskip("transformers", reason=reason)
    model, directory = converted
    config = json.loads((directory / "config.json").read_text())
    network_class = getattr(transformers, config["architectures"][0])
    network, info = network_class.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    images = random_images(model)
    with torch.no_grad():
        tensor = torch.from_numpy(array(images).transpose(0, 3, 1, 2).copy())
        found = network.eval()(tensor, output_hidden_states=True)
    arguments = model.get_config()
    if arguments["include_top"]:
        model = keras_vit.load_checkpoint(directory, classifier_activation=None)
        assert (
            list(network.config.id2label.values())[:1]
            == (arguments["class_names"] or ["LABEL_0"])[:1]
        )
    found = {name: value for name, value in found.items() if value is not None}
    outputs = found["logits"] if "logits" in found else found["pooler_output"]
    if arguments["pooling"] is None:
        outputs = network.base_model(tensor)["last_hidden_state"].detach()
    np.testing.assert_allclose(array(model(images)), outputs.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"positions": "none"}, "positions"),
        ({"registers": 2}, "registers"),
        ({"layer_scale": 0.1}, "pooling"),
        ({**DINOV2, "pooling": "token_gap", "mlp_dim": 24}, "mlp_dim"),
        ({"norm": "rms"}, "norm"),
    ],
)
def test_models_that_transformers_cannot_express_are_refused(tmp_path, arguments, named):
    perturb(with_preprocessor(**arguments)).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=rf"{named}.*transformers.*Nothing was written"):
        convert(tmp_path / "model.keras", tmp_path / "new", to="transformers")
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({**SQUARE, "pooling": "map"}, "include_top=False"),
        ({**DINOV3, "include_top": True}, "include_top=False"),
        ({**DINOV3, "layer_scale": None}, "layer_scale"),
        ({**DINOV3, "positions": "rope_mixed"}, "positions"),
        ({**CLIP, "input_shape": (16, 24, 3), **CLIP_GAP}, "input_shape=(16, 16, 3)"),
        ({**CLIP, "final_norm": "after_pooling"}, "classifier/bias"),
        ({**BEIT, "positions": "relative_bias", "pooling": "gap"}, "pooling"),
    ],
)
def test_networks_that_transformers_does_not_have_are_refused(arguments, named):
    model = perturb(with_preprocessor(**arguments))
    with pytest.raises(ValueError, match=r"transformers.*Nothing was written") as error:
        transformers_directory(model)
    assert named in str(error.value)


# DeiT without a teacher keeps its second token as a register, with its position added.
@pytest.mark.parametrize("name", ["hf_vit", "hf_deit_teacher"])
def test_the_way_back_to_transformers_is_bit_identical(tmp_path, name):
    golden = Golden(name)
    *size, channels = golden.input_shape
    preprocessor = keras_vit.layers.Preprocessor(
        image_size=tuple(size), resize="bilinear_antialias"
    ).with_channels(channels)
    arguments = {**golden.overrides, "preprocessor": preprocessor}
    convert(golden.path, tmp_path / "new", to="transformers", **arguments)
    original = load_file(golden.path)
    written = load_file(tmp_path / "new" / "model.safetensors")
    # transformers 5 has other names for some of the same tensors.
    assert sorted(x.tobytes() for x in original.values()) == sorted(
        x.tobytes() for x in written.values()
    )
