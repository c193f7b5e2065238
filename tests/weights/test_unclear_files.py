"""Ambiguous networks, stated preprocessing, and wrapped or sharded files."""

import json
import re

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import keras_vit
from keras_vit.convert import convert
from keras_vit.layers import Preprocessor
from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.timm_architectures import architectures, find_architecture
from tests.cases import array, perturb, tiny_vit
from tests.golden import Golden
from tests.weights.test_hugging_face import TIMM_CONFIG, repository

pytestmark = pytest.mark.any_backend


def configuration(source, overrides=None):
    """Return the configuration that a file implies, without building a model."""
    return open_checkpoint(source).infer_config(overrides or {"num_heads": 4})


def written(path, tensors, **changes):
    save_file({**tensors, **changes}, path)
    return path


@pytest.mark.parametrize(
    ("name", "argument", "value"),
    [
        ("timm_deit3", "positions", "learned"),  # Or vit_small_patch16_rope_ape_224.
        ("timm_map", "activation", "gelu_tanh"),  # Or vit_base_patch32_siglip_256.
    ],
)
def test_what_no_tensor_shows_needs_an_argument(name, argument, value):
    golden = Golden(name)
    overrides = {k: v for k, v in golden.overrides.items() if k != argument}
    with pytest.raises(ValueError, match=rf"No tensor in .*{argument}=.*architecture="):
        configuration(golden.path, overrides)
    configuration(golden.path, {**overrides, argument: value})
    named = open_checkpoint(golden.path, architecture="vit_base_patch32_siglip_256")
    assert named.infer_config(overrides)["activation"] == "gelu_tanh"


def test_networks_with_the_tensors_of_a_plain_vit(tmp_path):
    tensors = load_file(Golden("timm_map").path)
    registers = np.zeros((1, 2, 64), "float32")
    path = written(tmp_path / "registers.safetensors", tensors, reg_token=registers)
    with pytest.raises(ValueError, match="pools over its registers"):
        configuration(path, {"num_heads": 4, "activation": "gelu"})
    tensors = load_file(Golden("timm_gap_fcnorm").path)
    no_bias = {n: x for n, x in tensors.items() if not n.endswith("qkv.bias")}
    path = written(tmp_path / "after.safetensors", no_bias)
    with pytest.raises(ValueError, match="norms come before the branches"):
        configuration(path)
    tensors = load_file(Golden("timm_deit_distilled").path)
    for change in (
        {"reg_token": np.zeros((1, 2, 32), "float32")},
        {f"fc_norm.{n}": np.zeros(32, "float32") for n in ("weight", "bias")},
    ):
        path = written(tmp_path / "distilled.safetensors", tensors, **change)
        with pytest.raises(ValueError, match="distillation token beside"):
            open_checkpoint(path)


def test_architectures():
    assert len(architectures()) == 293
    for name, num_heads in (
        ("vit_base_patch16_gap_224", 16),
        ("vit_base_patch16_224.augreg_in21k", 12),
        ("vit_small_patch16_224_in21k", 6),
        ("eva02_tiny_patch14_224", 3),
    ):
        assert find_architecture(name).arguments["num_heads"] == num_heads
    assert find_architecture("swin_tiny_patch4_window7_224") is None
    with pytest.raises(ValueError, match=r"'vit_tiny_patch61_224'.*closest.*vit_tiny"):
        open_checkpoint(Golden("timm_token").path, architecture="vit_tiny_patch61_224")
    with pytest.raises(ValueError, match="names a network of timm"):
        open_checkpoint(Golden("hf_vit").path, architecture="vit_tiny_patch16_224")
    # The message names the source of the architecture: there is no config.json.
    name = "vit_dwee_patch16_reg1_gap_256"
    with pytest.raises(ValueError, match=f"^architecture='{name}' describes a network"):
        open_checkpoint(Golden("timm_token").path, architecture=name)


@pytest.mark.parametrize(
    "arguments",
    [
        {"attn_layer": "diff"},
        {"dynamic_img_pad": True},
        {"pos_embed": "rope"},
        {"a_later_argument": 1},
    ],
)
def test_arguments_of_timm_that_change_the_network(tmp_path, arguments):
    config = {**TIMM_CONFIG, "model_args": {"num_heads": 4, **arguments}}
    path = repository(tmp_path, Golden("timm_token"), config)
    with pytest.raises(ValueError, match="network that keras_vit does not have"):
        open_checkpoint(path)


def test_a_timm_config_that_states_two_poolings(tmp_path):
    config = {**TIMM_CONFIG, "model_args": {"num_heads": 4, "global_pool": "avg"}}
    path = repository(tmp_path, Golden("timm_token"), config)
    message = r"'token', and 'avg' in its model_args.*pooling="
    with pytest.raises(ValueError, match=message):
        configuration(path)
    configuration(path, {"pooling": "gap"})
    config["global_pool"] = "avg"
    repository(tmp_path, Golden("timm_token"), config)
    assert configuration(path)["pooling"] == "gap"


def test_the_grid_that_timms_configuration_states(tmp_path):
    golden = Golden("timm_map")  # The table of positions has 16 rows.
    arguments = {"num_heads": 4, "img_size": [32, 128], "dynamic_img_size": True}
    published = {"input_size": [3, 224, 224]}
    config = {**TIMM_CONFIG, "global_pool": "map", "pretrained_cfg": published}
    path = repository(tmp_path, golden, {**config, "model_args": arguments})
    assert configuration(path)["input_shape"] == (32, 128, 3)
    repository(tmp_path, golden, config)
    with pytest.raises(ValueError, match=r"14x14 patches, but .* 16 rows.*source_grid"):
        configuration(path)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 0.95),
        ({"crop_mode": "squash", "crop_pct": 1.0}, None),
        ({"crop_mode": "squash"}, "crop_mode='squash' with crop_pct=0.95"),
        ({"crop_mode": "border"}, "crop_mode='border'"),
        ({"interpolation": "lanczos"}, "interpolation='lanczos'"),
        ({"crop_border_pixels": 3}, "crop_border_pixels=3"),
    ],
)
@pytest.mark.parametrize("flat", [False, True])
def test_timms_preprocessing(tmp_path, change, expected, flat):
    published = {**TIMM_CONFIG["pretrained_cfg"], **change}
    config = {**TIMM_CONFIG, "pretrained_cfg": published}
    if flat:
        config = {"architecture": "vit_tiny_patch16_224", **published}
    source = open_checkpoint(repository(tmp_path, Golden("timm_token"), config))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"{expected}.*preprocessor="):
            source.preprocessing  # noqa: B018
    else:
        assert source.preprocessing["crop_fraction"] == expected
        np.testing.assert_allclose(
            source.preprocessing["mean"], [123.675, 116.28, 103.53]
        )


IMAGENET = {"image_mean": [0.485] * 3, "image_std": [0.229] * 3, "resample": 3}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"size": {"height": 64, "width": 64}}, {"resize": "bicubic_antialias"}),
        ({"do_resize": False}, {"image_size": None}),
        (
            {"size": {"shortest_edge": 72}, "do_center_crop": True, "crop_size": 64},
            {"crop_fraction": 64 / 72},
        ),
        ({"size": 72, "do_center_crop": True, "crop_size": 64}, "not shortest_edge"),
        ({"size": {"shortest_edge": 64}}, "without a crop"),
        ({"do_pad": True}, "do_pad=True"),
        ({"image_processor_type": "ConvNextImageProcessor"}, "ConvNext"),
    ],
)
def test_transformers_preprocessing(tmp_path, change, expected):
    golden = Golden("hf_vit")
    config = {**golden.config, "image_size": 64}
    path = repository(tmp_path, golden, config, {**IMAGENET, **change})
    source = open_checkpoint(path)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=f"{expected}.*preprocessor="):
            source.preprocessing  # noqa: B018
    else:
        assert source.preprocessing.items() >= expected.items()


CLIP = {"image_processor_type": "CLIPImageProcessor"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        # Defaults of the processors of transformers.
        ({}, {"mean": [127.5] * 3, "resize": "bilinear_antialias"}),
        ({"do_resize": None}, {"resize": "bilinear_antialias"}),
        (
            {"image_processor_type": "DeiTImageProcessor"},
            "size=256, not shortest_edge, with a center crop",
        ),
        (CLIP, {"crop_fraction": 1.0, "mean": [122.7709383, 116.7460125, 104.09373615]}),
        ({**CLIP, "size": {"shortest_edge": 256}}, {"crop_fraction": 224 / 256}),
        ({**CLIP, "size": 256, "default_to_square": True}, "default_to_square=True"),
        ({"size": 224, "default_to_square": False}, "default_to_square=False"),
        ({"size": {"shortest_edge": 256, "longest_edge": 300}}, "longest_edge"),
        ({"size": {"max_height": 224, "max_width": 224}}, "max_height"),
        ({"size": True}, "a size of True"),
        ({"size": [224, 224, 3]}, "a size of"),
        ({"do_rescale": False}, {"mean": [0.5] * 3, "std": [0.5] * 3}),
        ({"rescale_factor": 1.0}, {"mean": [0.5] * 3}),
        ({"rescale_factor": 0}, "ZeroDivisionError"),
        ({"resample": 1}, "resample=1"),
        ({"do_convert_rgb": False}, {"resize": "bilinear_antialias"}),
    ],
)
def test_defaults_of_transformers_processors(tmp_path, change, expected):
    golden = Golden("hf_vit")
    config = {**golden.config, "image_size": 64}
    change = change or {"image_processor_type": "ViTImageProcessor"}
    source = open_checkpoint(repository(tmp_path, golden, config, change))
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=rf"{expected}.*preprocessor="):
            source.preprocessing  # noqa: B018
        return
    for name, value in expected.items():
        if isinstance(value, str):
            assert source.preprocessing[name] == value
        else:
            np.testing.assert_allclose(source.preprocessing[name], value)


def test_a_preprocessor_for_another_size(tmp_path):
    """Check the error for images that the network of transformers does not accept."""
    golden = Golden("hf_vit")  # The image size is 64.
    config = {**golden.config, "image_size": 64}
    stated = {**IMAGENET, "size": {"height": 96, "width": 80}}
    path = repository(tmp_path, golden, config, stated)
    message = r"makes images of 96x80 pixels, but the network takes 64x64\. Pass "
    message += r"input_shape=\(96, 80, 3\) .* or input_shape=\(64, 64, 3\)"
    with pytest.raises(ValueError, match=message):
        keras_vit.load_checkpoint(path)
    for shape in ((96, 80, 3), (64, 64, 3)):
        model = keras_vit.load_checkpoint(path, input_shape=shape)
        assert model.preprocessor.image_size == model.input_shape[1:3] == shape[:2]
    assert keras_vit.load_checkpoint(path, preprocessor=Preprocessor(1.0, 2.0))
    repository(tmp_path, golden, config, IMAGENET)  # The size is not stated.
    assert keras_vit.load_checkpoint(path).preprocessor.image_size == (64, 64)
    repository(tmp_path, golden, {**config, "image_size": [64, 64, 3]})
    with pytest.raises(ValueError, match=r"image_size in the config\.json .*\[64, 64, 3"):
        keras_vit.load_checkpoint(path)


def test_a_given_preprocessor_is_taken_instead(tmp_path):
    golden = Golden("hf_vit")
    path = repository(tmp_path, golden, golden.config, {**IMAGENET, "do_pad": True})
    preprocessor = Preprocessor(1.0, 2.0)
    model = keras_vit.load_checkpoint(path, preprocessor=preprocessor)
    assert model.preprocessor is preprocessor


@pytest.mark.parametrize(
    ("change", "activation"),
    [
        ({}, "softmax"),
        ({"problem_type": "multi_label_classification"}, "sigmoid"),
        ({"problem_type": "regression"}, None),
    ],
)
def test_the_head_that_transformers_configuration_states(tmp_path, change, activation):
    golden = Golden("hf_vit")
    names = [f"species {i}" for i in range(10)]
    labels = {str(i): name for i, name in enumerate(names)}
    config = {**golden.config, "id2label": labels, **change}
    source = open_checkpoint(repository(tmp_path, golden, config))
    assert source.infer_config({})["classifier_activation"] == activation
    assert source.class_names(10) == names
    with pytest.raises(ValueError, match="names 10 classes, but its classifier has 11"):
        source.class_names(11)
    config["id2label"] = {str(i): f"LABEL_{i}" for i in range(10)}
    assert open_checkpoint(repository(tmp_path, golden, config)).class_names(10) is None


@pytest.mark.parametrize("problem", [None, "single_label_classification"])
def test_a_transformers_head_of_one_class_has_no_softmax(tmp_path, problem):
    golden = Golden("hf_vit")
    tensors = load_file(golden.path)
    one = {n: x[:1] for n, x in tensors.items() if n.startswith("classifier.")}
    config = {**golden.config, "id2label": {"0": "age"}, "problem_type": problem}
    path = repository(tmp_path, golden, config, tensors={**tensors, **one})
    assert open_checkpoint(path).infer_config({})["classifier_activation"] is None


def test_class_names_of_checkpoints(tmp_path):
    golden = Golden("timm_map")
    config = {**TIMM_CONFIG, "global_pool": "map"}
    path = repository(tmp_path, golden, config)
    model = keras_vit.load_checkpoint(path)
    assert model.get_config()["class_names"] == list("abcdefghij")
    new = keras_vit.load_checkpoint(path, head="new", classes=2)
    assert new.get_config()["class_names"] is None


@pytest.mark.parametrize("change", [{"model_type": "dinov2"}, {"hidden_act": "gelu_10"}])
def test_other_models_of_transformers(tmp_path, change):
    golden = Golden("hf_vit")
    path = repository(tmp_path, golden, {**golden.config, **change})
    with pytest.raises(ValueError, match=next(iter(change.values()))):
        open_checkpoint(path)


@pytest.mark.parametrize(
    "change",
    [
        *({"hidden_size": 128}, {"num_hidden_layers": 1}, {"intermediate_size": 7}),
        *({"patch_size": 8}, {"num_channels": 1}, {"qkv_bias": False}),
        {"pruned_heads": {"0": [1]}},
    ],
)
def test_a_transformers_config_of_other_tensors(tmp_path, change):
    """Check the error for a config that describes another network than the tensors."""
    golden = Golden("hf_vit")
    path = repository(tmp_path, golden, {**golden.config, **change})
    with pytest.raises(ValueError, match=f"another network: {next(iter(change))}="):
        open_checkpoint(path).infer_config({})


@pytest.mark.parametrize("name", ["timm_token", "hf_vit"])
@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "net."])
def test_prefixes_of_wrappers(tmp_path, name, prefix):
    golden = Golden(name)
    tensors = {prefix + n: x for n, x in load_file(golden.path).items()}
    path = written(tmp_path / "wrapped.safetensors", tensors)
    source, plain = open_checkpoint(path), open_checkpoint(golden.path)
    assert source.shapes == plain.shapes
    with source.file.reader() as read, plain.file.reader() as read_plain:
        for tensor in plain.file.shapes:
            np.testing.assert_array_equal(read(tensor), read_plain(tensor))
    extra = np.zeros(3, "float32")
    path = written(tmp_path / "more.safetensors", tensors, **{"criterion.weight": extra})
    with pytest.raises(
        ValueError, match=r"1 other tensors: criterion\.weight.*state_dict"
    ):
        open_checkpoint(path)
    chosen = open_checkpoint(path, state_dict=prefix.rstrip("."))
    assert chosen.shapes == plain.shapes


def test_state_dicts_of_training_scripts(tmp_path):
    torch = pytest.importorskip("torch")
    golden = Golden("timm_token")
    tensors = {n: torch.from_numpy(x) for n, x in load_file(golden.path).items()}
    twice = {n: 2 * x for n, x in tensors.items()}
    path = tmp_path / "last.pth"
    torch.save(
        {"student": twice, "teacher": tensors, "loss": {"c": tensors["norm.bias"]}}, path
    )
    with pytest.raises(ValueError, match=r"'student', 'teacher'.*state_dict=\.\.\."):
        open_checkpoint(path)
    source = open_checkpoint(path, state_dict="teacher")
    with source.file.reader() as read:
        np.testing.assert_array_equal(read("norm.bias"), array(tensors["norm.bias"]))
    torch.save({"model": {"weights": tensors}, "epoch": 3}, path)
    assert open_checkpoint(path).shapes == source.shapes


def test_integers_beside_a_network(tmp_path):
    tensors = load_file(Golden("timm_token").path)
    path = tmp_path / "moco.safetensors"
    counter = {"queue_ptr": np.zeros(1, "int64")}
    save_file({**{f"model.{n}": x for n, x in tensors.items()}, **counter}, path)
    source = open_checkpoint(path, state_dict="model")
    assert source.shapes == open_checkpoint(Golden("timm_token").path).shapes
    with pytest.raises(ValueError, match="1 other tensors: queue_ptr"):
        open_checkpoint(path)


def test_a_gated_mlp_of_timm_and_of_dinov2(tmp_path):
    preprocessor = Preprocessor(image_size=(16, 24), resize="bicubic_antialias")
    model = perturb(
        tiny_vit(
            mlp="swiglu", activation="gelu", layer_scale=1e-5, preprocessor=preprocessor
        )
    )
    model.save(tmp_path / "model.keras")
    convert(tmp_path / "model.keras", tmp_path / "timm", to="timm")
    config = json.loads((tmp_path / "timm" / "config.json").read_text())
    # timm's own SiLU is an argument of this architecture, which others replace.
    config["model_args"]["act_layer"] = "gelu"
    (tmp_path / "timm" / "config.json").write_text(json.dumps(config))
    mlp = configuration(tmp_path / "timm")["mlp"]
    assert mlp.get_config()["activation"] == "gelu"
    tensors = load_file(tmp_path / "timm" / "model.safetensors")
    names = {"mlp.fc1": "mlp.w12", "mlp.fc2": "mlp.w3"}
    for old, new in names.items():
        tensors = {name.replace(old, new): x for name, x in tensors.items()}
    path = tmp_path / "dinov2_vitg14_pretrain.safetensors"
    save_file(tensors, path)
    own = model.get_config()
    again = keras_vit.ViT.from_config({**own, "weights": path})
    for weight, value in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(array(weight), array(value))


def test_a_norm_of_the_patches_that_we_wrote(tmp_path):
    preprocessor = Preprocessor(image_size=(16, 24), resize="bicubic_antialias")
    model = perturb(tiny_vit(embedding_norm="patches", preprocessor=preprocessor))
    model.save(tmp_path / "model.keras")
    convert(tmp_path / "model.keras", tmp_path / "timm", to="timm")
    again = keras_vit.load_checkpoint(tmp_path / "timm")
    for weight, value in zip(again.weights, model.weights, strict=True):
        np.testing.assert_array_equal(array(weight), array(value))


@pytest.mark.parametrize("argument", ["norm_layer", "embed_norm_layer"])
def test_norms_of_two_epsilons(tmp_path, argument):
    tensors = load_file(Golden("timm_token").path)
    tensors |= {"patch_embed.norm.weight": np.ones(64, "float32")}
    config = {
        "architecture": "aimv2_large_patch14_224",
        "model_args": {argument: "rmsnorm"},
    }
    path = repository(tmp_path, Golden("timm_token"), config, tensors=tensors)
    with pytest.raises(ValueError, match=rf"{argument}='rmsnorm'"):
        open_checkpoint(path)


def test_directories_of_pytorch(tmp_path):
    torch = pytest.importorskip("torch")
    golden = Golden("hf_vit")
    tensors = {n: torch.from_numpy(x) for n, x in load_file(golden.path).items()}
    (tmp_path / "config.json").write_text(json.dumps(golden.config))
    shards = {"a.bin": list(tensors)[:9], "b.bin": list(tensors)[9:]}
    for shard, names in shards.items():
        torch.save({n: tensors[n] for n in names}, tmp_path / shard)
    tensors["embeddings.position_ids"] = torch.arange(3)  # No weight.
    shards["b.bin"].append("embeddings.position_ids")
    torch.save({n: tensors[n] for n in shards["b.bin"]}, tmp_path / "b.bin")
    index = {n: shard for shard, names in shards.items() for n in names}
    path = tmp_path / "pytorch_model.bin.index.json"
    path.write_text(json.dumps({"weight_map": index}))
    source, plain = open_checkpoint(tmp_path), open_checkpoint(golden.path)
    assert source.shapes == plain.shapes
    (tmp_path / "b.bin").unlink()
    with pytest.raises(ValueError, match=r"index\.json.*b\.bin is missing"):
        open_checkpoint(tmp_path)
    path.unlink()
    torch.save(tensors, tmp_path / "a.bin")
    assert open_checkpoint(tmp_path).shapes == plain.shapes
    torch.save(tensors, tmp_path / "c.pth")
    with pytest.raises(ValueError, match=r"several checkpoints: a\.bin, c\.pth"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("chunked", [False, True])
def test_files_of_dino(tmp_path, chunked):
    """Check training checkpoints of DINO and DINOv2: the teacher, without its head."""
    torch = pytest.importorskip("torch", reason="files of DINO are NOT TESTED")
    golden = Golden("timm_registers_layerscale")
    head = "dino_head" if chunked else "head"
    teacher = {
        f"{head}.last_layer.weight_v": np.ones((3, 4)),
        f"{head}.mlp.0.bias": np.ones(3),
    }
    for name, tensor in load_file(golden.path).items():
        if name.startswith("head."):
            continue
        if chunked:
            name = name.replace("reg_token", "register_tokens")
            name = re.sub(r"^blocks\.(\d+)\.", r"blocks.0.\1.", name)
        teacher[f"backbone.{name}"] = tensor
    teacher = {name: torch.from_numpy(x) for name, x in teacher.items()}
    student = {f"module.{name}": x + 1 for name, x in teacher.items()}
    path = tmp_path / "checkpoint.pth"
    torch.save({"student": student, "teacher": teacher, "epoch": 3}, path)
    model = keras_vit.load_checkpoint(path, num_heads=2, state_dict="teacher")
    expected = golden.load(include_top=False)
    for weight, other in zip(model.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(array(weight), array(other), err_msg=weight.path)
    teacher["head.bias"] = torch.ones(3)  # Any other head is not ignored.
    torch.save({"teacher": teacher}, path)
    with pytest.raises(ValueError, match=r"1 other tensors: head\.bias"):
        keras_vit.load_checkpoint(path, num_heads=2)


def test_the_encoder_of_mae(tmp_path):
    golden = Golden("timm_token")
    tensors = load_file(golden.path)
    decoder = {
        "decoder_pred.bias": np.ones(3, "float32"),
        "mask_token": np.ones(3, "float32"),
    }
    path = written(tmp_path / "mae.safetensors", tensors, **decoder)
    model = keras_vit.load_checkpoint(path, **golden.overrides)
    assert model.count_params() == golden.load().count_params()
