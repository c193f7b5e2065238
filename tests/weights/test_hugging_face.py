"""Repositories of timm and transformers, with configuration files beside the weights."""

import json
import shutil

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.safetensors import SafetensorsFile
from tests.cases import array, mostly_slow
from tests.golden import Golden

pytestmark = pytest.mark.any_backend

TIMM_CONFIG = {
    "architecture": "vit_tiny_patch16_224",
    "global_pool": "token",
    "model_args": {"num_heads": 4},
    "label_names": list("abcdefghij"),
    "pretrained_cfg": {
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "crop_pct": 0.95,
        "interpolation": "bicubic",
    },
}
OLD_NAMES = {
    "layers.": "encoder.layer.",
    "attention.q_proj": "attention.attention.query",
    "attention.k_proj": "attention.attention.key",
    "attention.v_proj": "attention.attention.value",
    "attention.o_proj": "attention.output.dense",
    "mlp.fc1": "intermediate.dense",
    "mlp.fc2": "output.dense",
}


def repository(directory, golden, config, preprocessor=None, tensors=None):
    """Create a directory like a repository on the Hugging Face Hub."""
    if tensors is None:
        shutil.copy(golden.path, directory / "model.safetensors")
    else:
        save_file(tensors, directory / "model.safetensors")
    (directory / "config.json").write_text(json.dumps(config))
    if preprocessor is not None:
        (directory / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return directory


def assert_same_logits(model, golden):
    np.testing.assert_allclose(
        model.predict(golden.inputs, verbose=0), golden.outputs, rtol=0, atol=1e-4
    )


def test_a_directory_of_timm(tmp_path):
    golden = Golden("timm_registers_layerscale")
    config = {**TIMM_CONFIG, "model_args": {"num_heads": 2}}
    model = keras_vit.load_checkpoint(
        repository(tmp_path, golden, config), classifier_activation=None
    )
    assert_same_logits(model, golden)
    preprocessor = model.preprocessor
    np.testing.assert_allclose(preprocessor.mean, [123.675, 116.28, 103.53])
    assert preprocessor.crop_fraction == 0.95
    assert preprocessor.resize == "bicubic_antialias"
    assert preprocessor.image_size == (56, 56)


def test_the_pooling_that_timms_configuration_tells(tmp_path):
    golden = Golden("timm_token")
    path = repository(tmp_path, golden, {**TIMM_CONFIG, "global_pool": "avg"})
    model = keras_vit.load_checkpoint(path, **golden.overrides)
    assert model.get_config()["pooling"] == "gap"
    assert model.get_config()["class_token"] is True


def test_the_size_of_images_that_configurations_tell(tmp_path):
    """Check grids of 4x6 patches, for which timm's rows could also mean 5x5."""
    golden = Golden("timm_token")
    published = {**TIMM_CONFIG["pretrained_cfg"], "input_size": [3, 64, 96]}
    config = {**TIMM_CONFIG, "pretrained_cfg": published}
    model = keras_vit.load_checkpoint(repository(tmp_path, golden, config))
    assert model.input_shape == (None, 64, 96, 3)
    golden = Golden("hf_deit")
    model = keras_vit.load_checkpoint(repository(tmp_path, golden, golden.config))
    assert model.input_shape == (None, 32, 48, 3)
    larger = {"input_shape": (48, 48, 3)}
    model = keras_vit.load_checkpoint(tmp_path, **larger)
    assert model.grid_shape == (6, 6)


def test_heads_that_nothing_tells():
    golden = Golden("timm_map")
    with pytest.raises(ValueError, match=r"width 64 with .*Pass num_heads="):
        keras_vit.load_checkpoint(golden.path)
    golden = Golden("hf_vit")
    with pytest.raises(ValueError, match=r"no config\.json.*Pass num_heads="):
        keras_vit.load_checkpoint(golden.path)


def test_heads_that_a_configuration_does_not_tell(tmp_path):
    """They are those of transformers' defaults, whatever the width."""
    golden = Golden("hf_vit")
    config = {k: v for k, v in golden.config.items() if k != "num_attention_heads"}
    assert open_checkpoint(repository(tmp_path, golden, config)).num_heads == 12


def test_a_directory_of_transformers(tmp_path):
    golden = Golden("hf_vit")
    config = {**golden.config, "id2label": {str(i): f"class {i}" for i in range(10)}}
    preprocessor = {
        "image_mean": [0.5, 0.25, 0.5],
        "image_std": [0.5, 0.5, 0.25],
        "resample": 2,
        "size": {"height": 64, "width": 64},
    }
    path = repository(tmp_path, golden, config, preprocessor)
    model = keras_vit.load_checkpoint(path, classifier_activation=None)
    assert_same_logits(model, golden)
    assert model.get_config()["layer_norm_epsilon"] == 1e-12
    assert model.preprocessor.resize == "bilinear_antialias"
    np.testing.assert_allclose(model.preprocessor.mean, [127.5, 63.75, 127.5])
    with pytest.warns(UserWarning, match="trained with num_heads=4; the model has 8"):
        other = keras_vit.load_checkpoint(path, num_heads=8)
    assert other.get_config()["num_heads"] == 8


def test_the_gelu_that_transformers_configuration_tells(tmp_path):
    golden = Golden("hf_vit")
    config = {**golden.config, "hidden_act": "gelu_pytorch_tanh"}
    path = repository(tmp_path, golden, config)
    model = keras_vit.load_checkpoint(path)
    assert model.get_config()["activation"] == "gelu_tanh"


@pytest.mark.parametrize("name", ["hf_vit", "hf_deit", "hf_deit_teacher"])
def test_names_before_version_5(tmp_path, name):
    golden = Golden(name)
    tensors = {}
    for key, value in load_file(golden.path).items():
        for new, old in OLD_NAMES.items():
            key = key.replace(new, old)
        tensors[key] = value
    # Make sure that the renaming above produced the old names.
    assert any("encoder.layer.1.output.dense.bias" in key for key in tensors)
    path = repository(tmp_path, golden, golden.config, tensors=tensors)
    model = keras_vit.load_checkpoint(
        path, input_shape=golden.input_shape, classifier_activation=None
    )
    assert_same_logits(model, golden)


def test_a_file_in_parts(tmp_path):
    golden = Golden("hf_vit")
    tensors = load_file(golden.path)
    names = list(tensors)
    parts = {"a.safetensors": names[:9], "b.safetensors": names[9:]}
    for part, members in parts.items():
        save_file({n: tensors[n] for n in members}, tmp_path / part)
    index = {n: part for part, members in parts.items() for n in members}
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": index})
    )
    (tmp_path / "config.json").write_text(json.dumps(golden.config))
    model = keras_vit.load_checkpoint(tmp_path, classifier_activation=None)
    assert_same_logits(model, golden)
    (tmp_path / "b.safetensors").unlink()
    with pytest.raises(ValueError, match="not a readable"):
        keras_vit.load_checkpoint(tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision(tmp_path, dtype):
    import ml_dtypes

    golden = Golden("timm_map")
    kind = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}[dtype]
    path = tmp_path / "half.safetensors"
    save_file({n: x.astype(kind) for n, x in load_file(golden.path).items()}, path)
    model = keras_vit.load_checkpoint(path, num_heads=4, activation="gelu")
    exact = golden.load()
    for half, whole in zip(model.weights, exact.weights, strict=True):
        expected = array(whole).astype(kind).astype("float32")
        np.testing.assert_array_equal(array(half), expected)


def test_other_spellings(tmp_path):
    """Check `gamma_1` (DeiT III), `register_tokens` and `mask_token` (DINOv2)."""
    golden = Golden("timm_registers_layerscale")
    tensors = {
        key.replace("ls1.gamma", "gamma_1")
        .replace("ls2.gamma", "gamma_2")
        .replace("reg_token", "register_tokens"): value
        for key, value in load_file(golden.path).items()
    }
    tensors["mask_token"] = np.zeros((1, 64), "float32")
    path = tmp_path / "other.safetensors"
    save_file(tensors, path)
    model = keras_vit.load_checkpoint(path, num_heads=2, classifier_activation=None)
    assert_same_logits(model, golden)


# Tensors whose absence shows another network.
SHOWS = {
    "pos_embed": "positions='none'",
    "norm.weight": "final_norm=None",
    "blocks.0.norm1.bias": "norm='rms'",
    "blocks.0.norm2.weight": "block='parallel'",
    "blocks.0.attn.proj.bias": r"attention=SelfAttention\(use_projection_bias=False",
    "blocks.0.mlp.fc2.bias": r"mlp=MLP\(use_bias=False",
}


@pytest.mark.parametrize("name", mostly_slow(["timm_deit_distilled", "hf_vit"], "hf_vit"))
def test_no_tensor_can_be_left_out(tmp_path, name):
    golden = Golden(name)
    tensors = load_file(golden.path)
    config = golden.load().get_config()
    path = tmp_path / "short.safetensors"
    for missing in tensors:
        save_file({n: x for n, x in tensors.items() if n != missing}, path)
        message = missing
        if missing.endswith("patch_embeddings.projection.weight"):
            message = "not a ViT checkpoint"
        elif missing in SHOWS:
            message = f"requires {SHOWS[missing]}"
        with pytest.raises(ValueError, match=f"(?s)short.safetensors .*{message}"):
            keras_vit.ViT.from_config({**config, "weights": path})


def test_a_damaged_file(tmp_path):
    golden = Golden("timm_map")
    content = golden.path.read_bytes()
    for damaged in (b"", content[:100], content[:-8], b"\xff" * 1000):
        path = tmp_path / "damaged.safetensors"
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"not a readable \.safetensors.*download"):
            SafetensorsFile(path)


def test_a_file_of_something_else(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"a": np.zeros(3, "float32")}, path)
    with pytest.raises(ValueError, match="not a ViT checkpoint that keras_vit can read"):
        keras_vit.load_checkpoint(path)
    save_file({"patch_embed.proj.weight": np.zeros(3, "int64")}, path)
    with pytest.raises(ValueError, match="holds I64, not float16"):
        keras_vit.load_checkpoint(path)
    other = tmp_path / "weights.onnx"
    other.write_bytes(b"")
    with pytest.raises(ValueError, match=r"must end in \.npz, \.safetensors"):
        keras_vit.load_checkpoint(other)


@pytest.mark.parametrize(
    "change",
    [
        {"global_pool": "max"},
        {"model_args": {"num_heads": 4, "act_layer": "relu"}},
    ],
)
def test_other_networks_whose_tensors_look_alike(tmp_path, change):
    golden = Golden("timm_token")
    path = repository(tmp_path, golden, {**TIMM_CONFIG, **change})
    with pytest.raises(ValueError, match="a network that keras_vit does not have"):
        keras_vit.load_checkpoint(path, **golden.overrides)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {
                "architecture": "vit_small_patch16_dinov3",
                "model_args": {"use_abs_pos_emb": False},
            },
            "use_abs_pos_emb=False",
        ),
        ({"model_args": {"norm_layer": "rmsnorm"}}, "norm_layer='rmsnorm'"),
        ({"model_args": {"pos_embed": "none"}}, "pos_embed='none'"),
    ],
)
def test_a_configuration_of_another_network(tmp_path, change, message):
    golden = Golden("timm_token")
    path = repository(tmp_path, golden, {**TIMM_CONFIG, **change})
    with pytest.raises(ValueError, match=f"are not those of the network.*{message}"):
        keras_vit.load_checkpoint(path, **golden.overrides)


def test_a_file_without_positions_is_refused(tmp_path):
    """Check the error for files such as DINOv3's, which use rotary positions."""
    golden = Golden("timm_map")
    tensors = load_file(golden.path)
    del tensors["pos_embed"]
    path = tmp_path / "rope.safetensors"
    save_file(tensors, path)
    for overrides in ({}, {"positions": "none"}, {"positions": "sincos_2d"}):
        with pytest.raises(ValueError, match=r"shows the.*positions.*Pass architecture="):
            keras_vit.load_checkpoint(path, **golden.overrides, **overrides)
    arguments = {"num_heads": 4, "pos_embed": "none", "img_size": 64}
    config = {**TIMM_CONFIG, "global_pool": "map", "model_args": arguments}
    model = keras_vit.load_checkpoint(
        repository(tmp_path, golden, config, tensors=tensors)
    )
    assert model.get_config()["positions"] == "none"
    assert model.input_shape == (None, 64, 64, 3)


@pytest.mark.parametrize(
    ("architecture", "activation"),
    [
        ("vit_base_patch16_siglip_224", "gelu"),
        ("vit_so400m_patch14_siglip_384", "gelu"),
        ("vit_so400m_patch16_siglip_256", "gelu_tanh"),
        ("vit_large_patch16_siglip_gap_512", "gelu_tanh"),
    ],
)
def test_the_gelu_of_siglip(tmp_path, architecture, activation):
    golden = Golden("timm_map")
    config = {**TIMM_CONFIG, "global_pool": "map", "architecture": architecture}
    model = keras_vit.load_checkpoint(repository(tmp_path, golden, config))
    assert model.get_config()["activation"] == activation


def test_two_names_of_one_tensor(tmp_path):
    golden = Golden("timm_registers_layerscale")
    tensors = load_file(golden.path)
    tensors["blocks.0.gamma_1"] = tensors["blocks.0.ls1.gamma"] + 1
    path = tmp_path / "twice.safetensors"
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"gamma.* are the same tensor under two names"):
        keras_vit.load_checkpoint(path, **golden.overrides)


@pytest.mark.parametrize(
    "change",
    [
        {"resample": 0},
        {"image_mean": None},
        {"do_center_crop": True, "crop_size": 56, "size": None},
    ],
)
def test_preprocessing_that_is_not_understood(tmp_path, change):
    golden = Golden("hf_vit")
    config = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3, "resample": 2, **change}
    path = repository(tmp_path, golden, golden.config, config)
    with pytest.raises(ValueError, match=r"preprocessor_config\.json (is not|describes)"):
        keras_vit.load_checkpoint(path)


def test_images_that_are_not_rescaled(tmp_path):
    golden = Golden("hf_vit")
    config = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "do_normalize": False}
    path = repository(tmp_path, golden, golden.config, config)
    preprocessor = keras_vit.load_checkpoint(path).preprocessor
    assert preprocessor.mean == [0.0] * 3
    np.testing.assert_allclose(preprocessor.std, [255.0] * 3)
