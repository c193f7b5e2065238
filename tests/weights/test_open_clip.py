"""open_clip's own files: CLIP of transformers under the names of open_clip."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import keras_vit
import recipes.compatibility  # noqa: F401, makes timm importable without torchvision
from keras_vit.weights.detect import open_checkpoint
from tests.cases import array
from tests.weights.test_transformers_networks import MLP, assert_equal, build

pytestmark = pytest.mark.any_backend

NAMES = {
    r"^vision_model\.": "",
    r"^encoder\.layers\.": "transformer.resblocks.",
    r"^embeddings\.patch_embedding\.": "conv1.",
    r"^embeddings\.class_embedding": "class_embedding",
    r"^embeddings\.position_embedding\.weight": "positional_embedding",
    r"^pre_layrnorm": "ln_pre",
    r"^post_layernorm": "ln_post",
    r"layer_norm(\d)": r"ln_\1",
    r"self_attn\.": "attn.",
    r"mlp\.fc1": "mlp.c_fc",
    r"mlp\.fc2": "mlp.c_proj",
}
TEXT = {
    "positional_embedding": (7, 8),
    "text_projection": (8, 7),
    "token_embedding.weight": (9, 8),
    "transformer.resblocks.0.ln_1.weight": (8,),
    "ln_final.bias": (8,),
    "logit_scale": (),
}
VISION = {
    "image_size": 32,
    "layers": 2,
    "width": 48,
    "head_width": 16,
    "mlp_ratio": 80 / 48,
    "patch_size": 8,
}


def tensors_of(network):
    """Return the tensors of transformers' CLIP under the names of open_clip."""
    tensors = {}
    for name, value in network.state_dict().items():
        if name.endswith("position_ids"):
            continue
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        tensors[name] = value.numpy().copy()
    tensors["proj"] = tensors.pop("visual_projection.weight").T.copy()
    for name in [name for name in tensors if ".q_proj." in name]:
        parts = [tensors.pop(name.replace(".q_", f".{part}_")) for part in "qkv"]
        tensors[name.replace(".q_proj.", ".in_proj_")] = np.concatenate(parts)
    return tensors


@pytest.fixture(scope="module", params=["quick_gelu", "gelu"])
def network(request):
    settings = {**MLP, "projection_dim": 7, "hidden_act": request.param}
    return build("CLIPVisionModelWithProjection", settings)


def write(directory, network, two_towers=True, **config):
    prefix = "visual." * two_towers
    tensors = {prefix + name: x for name, x in tensors_of(network).items()}
    if two_towers:
        tensors |= {name: np.ones(shape, "float32") for name, shape in TEXT.items()}
    path = directory / "open_clip_model.safetensors"
    save_file(tensors, path)
    if config:
        (directory / "open_clip_config.json").write_text(json.dumps(config))
    return path


@pytest.mark.parametrize("two_towers", [True, False])
def test_a_bare_file(tmp_path, network, two_towers):
    path = write(tmp_path, network, two_towers)
    with pytest.raises(ValueError, match=r"shows activation.*open_clip_config\.json"):
        keras_vit.load_checkpoint(path, num_heads=3)
    activation = network.config.hidden_act
    model = keras_vit.load_checkpoint(path, num_heads=3, activation=activation)
    assert_equal(model, network)


def test_with_its_configuration(tmp_path, network):
    quick = network.config.hidden_act == "quick_gelu"
    model_cfg = {"embed_dim": 7, "vision_cfg": VISION, "quick_gelu": quick}
    path = write(
        tmp_path, network, model_cfg=model_cfg, preprocess_cfg={"std": [0.5] * 3}
    )
    model = keras_vit.load_checkpoint(path)
    assert_equal(model, network)
    preprocessor = model.preprocessor
    assert (preprocessor.crop_fraction, preprocessor.crop_rounding) == (1.0, "nearest")
    np.testing.assert_allclose(preprocessor.std, [127.5] * 3)
    np.testing.assert_allclose(preprocessor.mean[0], 255 * 0.48145466)


@pytest.mark.parametrize("change", [{"pool_type": "avg"}, {"layers": 3}, {"new": 1}])
def test_a_configuration_of_another_network(tmp_path, network, change):
    path = write(tmp_path, network, model_cfg={"vision_cfg": {**VISION, **change}})
    with pytest.raises(
        ValueError, match=r"open_clip_config\.json.*(another|does not have)"
    ):
        open_checkpoint(path).infer_config({})


def test_preprocessing_that_is_refused(tmp_path, network):
    path = write(tmp_path, network, preprocess_cfg={"resize_mode": "longest"})
    with pytest.raises(ValueError, match="resize_mode='longest'"):
        open_checkpoint(path).preprocessing  # noqa: B018


@pytest.fixture(scope="module")
def trunk(tmp_path_factory):
    """Return the path of a file with a tower of timm, and the inputs and outputs."""
    pytest.importorskip("timm", reason="open_clip's towers of timm are NOT TESTED")
    from recipes.compatibility import timm_networks

    network = timm_networks.build("vit_base_patch16_siglip_224")
    tensors = {f"visual.trunk.{n}": x.numpy() for n, x in network.state_dict().items()}
    tensors |= {f"text.{n}": np.ones(shape, "float32") for n, shape in TEXT.items()}
    path = tmp_path_factory.mktemp("trunk") / "open_clip_model.safetensors"
    save_file(tensors, path)
    images = timm_networks.images(network)
    return path, images, timm_networks.outputs(network, images)["logits"]


def write_trunk_config(path, preprocess_cfg=None, **vision):
    vision = {
        "image_size": 64,
        "timm_model_name": "vit_base_patch16_siglip_224",
        "timm_pool": "map",
        "timm_proj": "",
        **vision,
    }
    model_cfg = {"embed_dim": 10, "vision_cfg": vision, "text_cfg": {"width": 8}}
    config = {"model_cfg": model_cfg, "preprocess_cfg": preprocess_cfg}
    (path.parent / "open_clip_config.json").write_text(json.dumps(config))


def test_a_tower_of_timm(trunk):
    """Check that the configuration determines the network and that it has no softmax."""
    path, images, expected = trunk
    half = {"mean": [0.5] * 3, "std": [0.5] * 3, "resize_mode": "squash"}
    write_trunk_config(path, half)
    model = keras_vit.load_checkpoint(path)
    np.testing.assert_allclose(array(model(images)), expected, rtol=0, atol=1e-4)
    preprocessor = model.preprocessor
    assert preprocessor.mean == [127.5] * 3
    assert preprocessor.crop_fraction is None
    write_trunk_config(path)
    assert keras_vit.load_checkpoint(path).preprocessor.crop_fraction == 1.0


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("timm_model_name", "vit_unknown"),
        ("timm_pool", "abs_attn"),
        ("new_setting", 1),
    ],
)
def test_a_tower_of_timm_that_is_refused(trunk, setting, value):
    path, *_ = trunk
    write_trunk_config(path, **{setting: value})
    with pytest.raises(ValueError, match=rf"open_clip_config\.json.*{value}"):
        keras_vit.load_checkpoint(path)
