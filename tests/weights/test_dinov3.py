"""Files of facebookresearch/dinov3: DINOv3 of transformers under the names of Meta."""

import re

import pytest

import keras_vit
from keras_vit.weights.detect import open_checkpoint
from tests.weights.test_transformers_networks import MLP, assert_equal, build, torch

pytestmark = pytest.mark.any_backend

NAMES = {
    r"^model\.": "",
    r"^embeddings\.patch_embeddings": "patch_embed.proj",
    r"^embeddings\.register_tokens": "storage_tokens",
    r"^embeddings\.": "",
    r"^layer\.": "blocks.",
    r"layer_scale(\d)\.lambda1": r"ls\1.gamma",
    r"attention\.o_proj": "attn.proj",
    r"attention\.(.)_proj": r"attn.\1",
    r"mlp\.gate_proj": "mlp.w1",
    r"mlp\.up_proj": "mlp.fc1",
    r"mlp\.down_proj": "mlp.fc2",
}
GATED = {"fc1": "w2", "fc2": "w3"}
SETTINGS = {
    "plain": {},
    "gated": {"use_gated_mlp": True, "hidden_act": "silu"},
    "without biases": {"query_bias": False, "value_bias": False},
}


def tensors_of(network):
    """Return the tensors of transformers' DINOv3 under the names of its authors."""
    tensors = {}
    for name, tensor in network.state_dict().items():
        for pattern, replacement in NAMES.items():
            name = re.sub(pattern, replacement, name)
        if network.config.use_gated_mlp:
            name = re.sub(r"mlp\.(fc\d)", lambda found: f"mlp.{GATED[found[1]]}", name)
        tensors[name] = tensor
    for name in [name for name in tensors if ".attn.q." in name]:
        q, v = tensors.pop(name), tensors.pop(name.replace(".q.", ".v."))
        bias = torch.ones(len(q))  # The mask disables this one.
        k = tensors.pop(name.replace(".q.", ".k."), bias)
        tensors[name.replace(".q.", ".qkv.")] = torch.cat([q, k, v])
        if name.endswith("bias"):
            mask = torch.cat(
                [torch.ones(len(q)), torch.zeros(len(q)), torch.ones(len(q))]
            )
            tensors[name.replace(".q.bias", ".qkv.bias_mask")] = mask
    tensors["rope_embed.periods"] = 100.0 ** (torch.arange(4) / 4)
    tensors["local_cls_norm.weight"] = torch.ones(48)
    return tensors


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=list(SETTINGS))
def test_a_backbone(tmp_path, settings):
    network = build("DINOv3ViTModel", {**MLP, "num_register_tokens": 2, **settings})
    path = tmp_path / "dinov3.pth"
    torch.save(tensors_of(network), path)
    with pytest.raises(ValueError, match=r"epsilon.*Pass layer_norm_epsilon="):
        keras_vit.load_checkpoint(path)
    model = keras_vit.load_checkpoint(path, layer_norm_epsilon=1e-5)
    assert model.input_shape == (None, 224, 224, 3)
    model = keras_vit.load_checkpoint(
        path, layer_norm_epsilon=1e-5, input_shape=(32, 32, 3)
    )
    assert_equal(model, network)


def test_a_training_checkpoint(tmp_path):
    network = build("DINOv3ViTModel", {**MLP, "num_register_tokens": 2})
    backbone = {f"backbone.{n}": x for n, x in tensors_of(network).items()}
    head = {"dino_head.mlp.0.weight": torch.ones(3, 4)}
    path = tmp_path / "checkpoint.pth"
    torch.save({"teacher": {**backbone, **head}}, path)
    arguments = {"layer_norm_epsilon": 1e-5, "input_shape": (32, 32, 3)}
    assert_equal(keras_vit.load_checkpoint(path, **arguments), network)


def test_other_periods_are_refused(tmp_path):
    network = build("DINOv3ViTModel", MLP)
    tensors = tensors_of(network)
    tensors["rope_embed.periods"] = 50.0 ** (torch.arange(4) / 4)
    path = tmp_path / "dinov3.pth"
    torch.save(tensors, path)
    with pytest.raises(ValueError, match=r"rope_embed\.periods from 1\.0 to 18\.8"):
        keras_vit.load_checkpoint(path)


def test_the_published_sizes_need_no_arguments(tmp_path):
    """Check the arguments for a file of the size of DINOv3-S, without its weights."""
    network = build(
        "DINOv3ViTModel",
        {"hidden_size": 384, "num_attention_heads": 6, "num_hidden_layers": 12, **MLP},
    )
    tensors = tensors_of(network)
    tensors["rope_embed.periods"] = 100.0 ** (torch.arange(16) / 16)
    path = tmp_path / "dinov3_vits16_pretrain_lvd1689m-08c60483.pth"
    torch.save({n: x.to(torch.bfloat16) for n, x in tensors.items()}, path)
    source = open_checkpoint(path)
    config = source.infer_config({})
    assert (config["num_heads"], config["layer_norm_epsilon"]) == (6, 1e-5)
    assert config["input_shape"] == (224, 224, 3)
    assert source.preprocessing["mean"] == pytest.approx([123.675, 116.28, 103.53])
    path = path.rename(tmp_path / "dinov3_vits16_pretrain_sat493m.pth")
    satellite = [255 * x for x in (0.430, 0.411, 0.296)]
    assert open_checkpoint(path).preprocessing["mean"] == pytest.approx(satellite)
