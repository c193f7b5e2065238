"""Checkpoints of transformers' vision models, with other values of every setting.

Each checkpoint must give the outputs of transformers or raise an error that names the
setting. The networks are tiny and every weight is perturbed.
"""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from recipes.benchmark import torchvision_stub
from tests.cases import array, mostly_slow

torchvision_stub.install()
torch = pytest.importorskip("torch", reason="transformers' models are NOT TESTED")
transformers = pytest.importorskip("transformers", reason="its models are NOT TESTED")

pytestmark = pytest.mark.any_backend

SIZES = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "image_size": 32,
    "patch_size": 8,
}
MLP = {"intermediate_size": 80}
TWO_TOWERS = (
    transformers.SiglipConfig | transformers.CLIPConfig | transformers.Aimv2Config
)
# Class, sizes, and changes of settings that must load exactly.
EXACT = {
    "ViTModel": [MLP, {}, {"qkv_bias": False}, {"layer_norm_eps": 1e-3}],
    "ViTForImageClassification": [MLP, {"hidden_act": "gelu_new"}, {"num_channels": 1}],
    "ViTMAEModel": [{**MLP, "mask_ratio": 0.0}],
    "DeiTForImageClassification": [MLP, {}, {"hidden_act": "silu"}],
    "ViTMSNForImageClassification": [MLP, {}, {"layer_norm_eps": 1e-3}],
    "IJepaModel": [MLP, {}, {"qkv_bias": False}, {"image_size": [16, 32]}],
    "IJepaForImageClassification": [MLP, {"problem_type": "multi_label_classification"}],
    "Dinov2Model": [{}, {"mlp_ratio": 3}, {"qkv_bias": False}, {"hidden_act": "relu"}],
    "Dinov2ForImageClassification": [{}, {"use_mask_token": False}],
    "Dinov2WithRegistersModel": [{}, {"num_register_tokens": 2}],
    "Dinov2WithRegistersForImageClassification": [{}, {"layer_norm_eps": 1e-3}],
    "Dinov2Model-swiglu": [{"use_swiglu_ffn": True}],
    "BeitModel": [
        {**MLP, "use_relative_position_bias": True},
        {"use_mean_pooling": False},
        {"use_absolute_position_embeddings": True, "use_mask_token": True},
        {"use_relative_position_bias": False, "layer_scale_init_value": 0.0},
    ],
    "BeitForImageClassification": [{**MLP, "use_shared_relative_position_bias": True}],
    "DINOv3ViTModel": [MLP, {"num_register_tokens": 2}, {"image_size": [16, 32]}],
    "CLIPVisionModel": [MLP, {}, {"hidden_act": "gelu"}],
    "CLIPVisionModelWithProjection": [{**MLP, "projection_dim": 7}],
    "CLIPModel": [MLP],
    "CLIPForImageClassification": [MLP],
    "Aimv2VisionModel": [
        MLP,
        {"qkv_bias": True, "mlp_bias": True},
        {"rms_norm_eps": 1e-3},
    ],
    "Aimv2Model": [MLP],
    "SiglipVisionModel": [MLP, {}, {"vision_use_head": False}, {"hidden_act": "gelu"}],
    "SiglipModel": [MLP, {}],
    "SiglipForImageClassification": [MLP, {}],
}
# Classes of which a bare file leaves an argument open.
OPEN = {
    **dict.fromkeys(
        ("IJepaModel", "IJepaForImageClassification", "ViTMAEModel"),
        "layer_norm_epsilon",
    ),
    **dict.fromkeys(
        (
            "CLIPVisionModel",
            "CLIPVisionModelWithProjection",
            "CLIPModel",
            "CLIPForImageClassification",
        ),
        "activation",
    ),
}
# One class for each scheme of names.
SCHEMES = (
    "ViTModel",
    "DeiTForImageClassification",
    "IJepaModel",
    "Dinov2WithRegistersForImageClassification",
    "BeitModel",
    "DINOv3ViTModel",
    "CLIPModel",
    "Aimv2Model",
    "SiglipModel",
)
# Settings that change a number or an activation, but not which tensors there are.
NUMBERS = {"layer_norm_eps", "rms_norm_eps", "hidden_act", "image_size", "num_channels"}
REFUSED = [
    ("Dinov2Model", {"image_size": [16, 64]}, "image_size"),
    (
        "BeitModel",
        {"use_relative_position_bias": True, "image_size": [16, 64]},
        "image_size",
    ),
    ("ViTModel", {**MLP, "hidden_act": "leaky_relu"}, "hidden_act"),
    ("SiglipVisionModel", {**MLP, "hidden_act": "gelu_10"}, "hidden_act"),
    ("ViTModel", {**MLP, "head_dim": 8}, "head_dim"),
    ("Dinov2Model", {"new_setting": 2}, "new_setting"),
    ("DINOv3ViTModel", {**MLP, "rope_theta": 50.0}, "rope_theta"),
    ("Aimv2VisionModel", {**MLP, "is_native": True}, "is_native"),
    ("Aimv2VisionModel", {**MLP, "hidden_act": "gelu"}, "hidden_act"),
    ("DINOv3ViTModel", {**MLP, "value_bias": False}, "value_bias"),
    ("DINOv3ViTModel", {**MLP, "use_gated_mlp": True}, "hidden_act"),
]


def build(name, settings):
    """Return a perturbed network of transformers."""
    torch.manual_seed(0)
    network_class = getattr(transformers, name.partition("-")[0])
    config_class, settings = network_class.config_class, {**SIZES, **settings}
    if issubclass(config_class, TWO_TOWERS):
        text = {**SIZES, **MLP, "vocab_size": 9}
        config = config_class(vision_config=settings, text_config=text)
    else:
        config = config_class(**settings)
    if name.endswith("Classification"):
        config.num_labels = 5
    network = network_class(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight.add_(0.2 * torch.randn(weight.shape))
            weight.mul_(1.3)
    return network


def reference(network, images):
    """Return the output that a loaded model has: logits or pooled features."""
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        if hasattr(network, "text_model"):
            pooled = network.vision_model(images).pooler_output
            if hasattr(network, "visual_projection"):
                pooled = network.visual_projection(pooled)
            return pooled.numpy()
        outputs = network(images)
    for head in ("logits", "image_embeds"):
        if head in outputs:
            return outputs[head].numpy()
    tokens = outputs.last_hidden_state
    # The poolers of other models are layers for other tasks.
    is_pooled = isinstance(network, transformers.BeitModel) or not hasattr(
        network, "pooler"
    )
    if is_pooled and outputs.get("pooler_output") is not None:
        return outputs.pooler_output.numpy()
    has_class_token = hasattr(network.embeddings, "cls_token")
    return (tokens[:, 0] if has_class_token else tokens.mean(1)).numpy()


def assert_equal(model, network):
    images = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
    images = images.astype("float32")
    if model.get_config()["include_top"]:
        model.layers[-1].activation = None
    np.testing.assert_allclose(
        array(model(images)), reference(network, images), rtol=0, atol=1e-4
    )


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        pytest.param(
            name,
            {**sizes, **change},
            marks=[pytest.mark.slow] if index and set(change) <= NUMBERS else [],
        )
        for name, (sizes, *changes) in EXACT.items()
        for index, change in enumerate(changes or [{}])
    ],
)
def test_settings(tmp_path, name, settings):
    network = build(name, settings)
    network.save_pretrained(tmp_path)
    assert_equal(keras_vit.load_checkpoint(tmp_path), network)


@pytest.mark.parametrize(("name", "settings", "field"), REFUSED)
def test_settings_that_are_refused(tmp_path, name, settings, field):
    network = build(name, {k: v for k, v in settings.items() if k != "head_dim"})
    network.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))
    with pytest.raises(ValueError, match=rf"config\.json.*{field}"):
        keras_vit.load_checkpoint(tmp_path)


@pytest.mark.parametrize("name", mostly_slow(EXACT, *SCHEMES))
def test_a_bare_file(tmp_path, name):
    """Check the names of `state_dict()`, which differ from those of saved files."""
    network = build(name, EXACT[name][0])
    tensors = {n: x.numpy().copy() for n, x in network.state_dict().items()}
    path = tmp_path / "model.safetensors"
    save_file(tensors, path)
    arguments = {"num_heads": 3}
    if name == "DINOv3ViTModel":
        arguments["input_shape"] = (32, 32, 3)
    if name in OPEN:
        argument = OPEN[name]
        with pytest.raises(
            ValueError, match=rf"shows {argument}.*Pass {argument}=\.\.\."
        ):
            keras_vit.load_checkpoint(path, **arguments)
        value = {"layer_norm_epsilon": 1e-12, "activation": "quick_gelu"}[argument]
        arguments[argument] = value
    assert_equal(keras_vit.load_checkpoint(path, **arguments), network)


@pytest.mark.parametrize("name", ["Dinov2Model", "Dinov2WithRegistersModel"])
def test_images_of_the_preprocessors_size(tmp_path, name):
    network = build(name, {})
    network.save_pretrained(tmp_path)
    processor = {
        "image_processor_type": "BitImageProcessor",
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 48, "width": 48},
    }
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(processor))
    model = keras_vit.load_checkpoint(tmp_path)
    assert model.input_shape == (None, 48, 48, 3)
    assert model.preprocessor.crop_fraction == 0.75
    assert_equal(model, network)


def test_tokens_before_the_last_norm_of_clip(tmp_path):
    network = build("CLIPVisionModel", MLP)
    network.save_pretrained(tmp_path)
    model = keras_vit.load_checkpoint(tmp_path, pooling=None)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    with torch.no_grad():
        expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    expected = expected.last_hidden_state.numpy()
    np.testing.assert_allclose(array(model(images)), expected, rtol=0, atol=1e-4)


def test_tokens_without_the_attention_pooling(tmp_path):
    network = build("SiglipVisionModel", MLP)
    network.save_pretrained(tmp_path)
    model = keras_vit.load_checkpoint(tmp_path, pooling=None)
    assert model.output_shape == (None, 16, 48)
    tensors = load_file(tmp_path / "model.safetensors")
    assert any(name.startswith("head.") for name in tensors)


@pytest.mark.parametrize(
    ("name", "tower"),
    [("ViTForMaskedImageModeling", "vit"), ("BeitForMaskedImageModeling", "beit")],
)
def test_heads_of_pretraining_are_ignored(tmp_path, name, tower):
    network = build(name, MLP)
    network.save_pretrained(tmp_path)
    model = keras_vit.load_checkpoint(tmp_path, pooling=None)
    images = np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("float32")
    with torch.no_grad():
        pixels = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        expected = getattr(network, tower)(pixels).last_hidden_state.numpy()
    np.testing.assert_allclose(array(model(images)), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("grid", [(4, 4), (3, 5), (6, 6)])
def test_siglip_2_for_one_image_size(tmp_path, grid):
    """Compare the network for any aspect ratio, whose positions are resized at load."""
    network = build("Siglip2VisionModel", {**MLP, "num_patches": 16})
    network.save_pretrained(tmp_path)
    rows, columns = grid
    images = np.random.default_rng(0).normal(size=(2, 8 * rows, 8 * columns, 3))
    images = images.astype("float32")
    patches = images.reshape(2, rows, 8, columns, 8, 3).swapaxes(2, 3)
    with torch.no_grad():
        expected = network(
            pixel_values=torch.from_numpy(patches.reshape(2, rows * columns, -1).copy()),
            pixel_attention_mask=torch.ones(2, rows * columns, dtype=torch.int64),
            spatial_shapes=torch.tensor([grid] * 2),
        ).pooler_output.numpy()
    model = keras_vit.load_checkpoint(tmp_path, input_shape=images.shape[1:])
    np.testing.assert_allclose(array(model(images)), expected, rtol=0, atol=1e-4)
