"""Conversion to timm's directories, read back by keras_vit and, if installed, by timm."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file

import keras_vit
from keras_vit.convert import convert
from keras_vit.weights.directory import check_same_network
from keras_vit.weights.timm_writer import timm_directory
from tests.cases import array, mostly_slow, perturb, random_images, tiny_vit
from tests.commands import run_command
from tests.golden import Golden

pytestmark = pytest.mark.any_backend

layers = keras_vit.layers
RESIZE = {"resize": "bicubic_antialias", "crop_fraction": 0.9}
# Arguments of models, each of which timm can express.
MODELS = {
    "vit": {"activation": "gelu"},
    "rectangular": {"activation": "gelu_tanh", "mlp_dim": 23},
    "grey": {"input_shape": (16, 16, 1), "activation": "gelu", "classes": 1,
             "classifier_activation": "sigmoid"},
    "gap": {"pooling": "gap", "final_norm": "after_pooling", "activation": "gelu"},
    "map": {"pooling": "map", "activation": "gelu", "qkv_bias": False},
    "deit": {"distillation_token": True, "activation": "gelu"},
    "dinov2": {"registers": 3, "layer_scale": 0.1, "class_token_position": False,
               "activation": "gelu", "include_top": False},
    "registers": {"registers": 3, "activation": "silu"},
    "tokens": {"include_top": False, "pooling": None, "activation": "gelu"},
    "clip": {"embedding_norm": "tokens", "layer_norm_epsilon": 1e-5,
             "activation": "quick_gelu"},
    "parts": {"norm": "rms", "activation": "gelu", "class_token": True,
              "attention": keras_vit.layers.SelfAttention(qk_norm=True)},
    "named": {"activation": "gelu", "class_names": ["a", "b", "c", "d", "e"]},
    "post_norm": {"block": "post_norm", "pooling": "gap", "activation": "gelu"},
    "parallel": {"block": "parallel", "qkv_bias": False, "layer_scale": 0.1,
                 "activation": "gelu"},
    "swiglu": {"mlp": "swiglu", "layer_scale": 0.1, "activation": "silu"},
    "hybrid": {"stem": layers.ResNetStem((), epsilons="timm"), "patch_size": 2,
               "activation": "gelu"},
    "rope": {"positions": ["learned", layers.RotaryPositions(
                 coordinates="index", reference_grid_shape=(4, 4), layout="interleaved")],
             "qkv_bias": "qv", "activation": "gelu",
             "mlp": layers.GatedMLP(inner_norm=True)},
    "rope_pooled": {"positions": "rope_axial", "class_token": True, "registers": 2,
                    "layer_norm_epsilon": 1e-5, "embedding_norm": "tokens",
                    "activation": "gelu", "pooling": layers.AttentionPooling(
                        4, 40, activation="gelu", layer_norm_epsilon=1e-5)},
    "rope_mixed": {"positions": "rope_mixed", "layer_scale": 0.1, "activation": "gelu"},
    "beit": {"positions": ["learned", "relative_bias"], "qkv_bias": "qv",
             "class_token": True, "pooling": "gap", "final_norm": "after_pooling",
             "activation": "gelu"},
    "relpos": {"positions": layers.RelativePositionMLP(hidden_dim=12), "pooling": "gap",
               "layer_scale": 0.1, "activation": "gelu"},
}  # fmt: skip
# Models whose blocks have equal relative positions, which timm stores once.
SHARED = ("beit",)


FAST = "dinov2", "rope_mixed", "relpos", "hybrid"


@pytest.fixture(scope="module", params=mostly_slow(MODELS, *FAST))
def converted(request, tmp_path_factory):
    """Return a model, and the directory to which it was converted."""
    model = perturb(with_preprocessor(**MODELS[request.param]))
    if request.param in SHARED:
        weights = model.weights_by_path()
        table = weights["block_0/attention/relative_bias/table"]
        weights["block_1/attention/relative_bias/table"].assign(table)
    directory = tmp_path_factory.mktemp(request.param)
    model.save(directory / "model.keras")
    assert convert(directory / "model.keras", directory / "timm", to="timm") <= 1e-5
    return model, directory / "timm"


def with_preprocessor(**arguments):
    """Return a tiny model with a preprocessor that timm can express."""
    shape = arguments.get("input_shape", (16, 24, 3))
    preprocessor = keras_vit.layers.Preprocessor(
        [100.0, 110.0, 120.0], 50.0, image_size=shape[:2], **RESIZE
    ).with_channels(shape[-1])
    return tiny_vit(preprocessor=preprocessor, **arguments)


def test_the_directory_is_read_back(converted):
    model, directory = converted
    assert sorted(x.name for x in directory.iterdir()) == [
        "config.json",
        "model.safetensors",
    ]
    again = keras_vit.load_checkpoint(directory)
    weights = again.weights_by_path()
    for path, weight in model.weights_by_path().items():
        np.testing.assert_array_equal(array(weight), array(weights[path]), err_msg=path)
    own, other = (m.preprocessor.get_config() for m in (model, again))
    for key in ("mean", "std"):
        np.testing.assert_allclose(own.pop(key), other.pop(key), rtol=1e-6)
    own.pop("name"), other.pop("name")
    assert own == other
    assert again.get_config()["class_names"] == model.get_config()["class_names"]


@pytest.mark.parametrize("how", ["local-dir", "checkpoint_path"])
def test_timm_gives_the_same_outputs(converted, how):
    from recipes.benchmark import torchvision_stub

    torchvision_stub.install()
    torch = pytest.importorskip("torch", reason="conversion to timm is NOT TESTED")
    timm = pytest.importorskip("timm", reason="conversion to timm is NOT TESTED")
    model, directory = converted
    if how == "local-dir":
        network = timm.create_model(f"local-dir:{directory}", pretrained=True).eval()
        data = timm.data.resolve_data_config({}, model=network)
        assert data["input_size"] == tuple(np.roll(model.input_shape[1:], 1))
        assert (data["crop_pct"], data["interpolation"]) == (0.9, "bicubic")
        np.testing.assert_allclose(
            255 * np.array(data["mean"]), model.preprocessor.mean, rtol=1e-6
        )
        names = model.get_config()["class_names"]
        assert list(network.pretrained_cfg.get("label_names") or []) == (names or [])
    else:
        config = json.loads((directory / "config.json").read_text())
        network = timm.create_model(
            config["architecture"],
            checkpoint_path=directory / "model.safetensors",
            **config["model_args"],
        ).eval()
    tensors = load_file(directory / "model.safetensors")
    assert set(network.state_dict()) == set(tensors)
    images = random_images(model)
    with torch.no_grad():
        outputs = network(torch.from_numpy(array(images).transpose(0, 3, 1, 2).copy()))
    if model.get_config()["include_top"]:
        model = keras_vit.load_checkpoint(directory, classifier_activation=None)
    np.testing.assert_allclose(array(model(images)), outputs.numpy(), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"positions": "sincos_2d"}, "positions"),
        ({"representation_size": 8}, "representation_size"),
        ({"layer_norm_epsilon": 1e-12}, "layer_norm_epsilon"),
        ({"activation": "relu"}, "activation"),
        ({"preprocessor": keras_vit.layers.Preprocessor(image_size=(16, 24))}, "resize"),
        (
            {
                "preprocessor": keras_vit.layers.Preprocessor(
                    image_size=(16, 24),
                    resize="bicubic_antialias",
                    crop_fraction=0.9,
                    crop_rounding="floor",
                )
            },
            "crop_rounding",
        ),
    ],
)
def test_models_that_timm_cannot_express_are_refused(tmp_path, arguments, named):
    settings = {"activation": "gelu", **arguments}
    model = tiny_vit(**settings) if "preprocessor" in settings else None
    perturb(model or with_preprocessor(**settings)).save(tmp_path / "model.keras")
    with pytest.raises(ValueError, match=rf"{named}.*timm.*Nothing was written"):
        convert(tmp_path / "model.keras", tmp_path / "timm", to="timm")
    assert [file.name for file in tmp_path.iterdir()] == ["model.keras"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"block": "parallel", "mlp": "swiglu"}, "mlp='plain'"),
        ({"block": "parallel", "positions": "rope_axial"}, "block='pre_norm'"),
        ({"pooling": "token_gap"}, "pooling"),
        ({"pooling": "sequence"}, "pooling"),
        ({"stem": layers.ConvTokenizer((8,)), "patch_size": 1}, "stem"),
        ({"positions": "relative"}, "positions='learned'"),
        ({"positions": "rope_axial", "activation": "gelu_tanh"}, "mlp"),
        ({"positions": "rope_axial", "norm": "rms"}, "norm"),
        ({"block": "post_norm", "layer_scale": 0.1}, "layer_scale"),
        ({"block": "post_norm", "mlp": "swiglu"}, "mlp='plain'"),
        ({"mlp": layers.GatedMLP(use_bias=False)}, "mlp"),
        ({"stem": layers.ResNetStem((1,), width=32), "patch_size": 2}, "stem"),
        ({"positions": "relative_bias", "pooling": "gap"}, "class_token"),
        ({"positions": "relative_mlp", "mlp": "swiglu"}, "mlp"),
        (
            {"positions": "rope_axial", "pooling": layers.AttentionPooling(2, None)},
            "pooling",
        ),
        ({"positions": "rope_mixed", "registers": 2, "pooling": "map"}, "pooling"),
        (
            {
                "positions": layers.RotaryPositions(coordinates="index"),
                "layer_norm_epsilon": 1e-5,
            },
            "reference_grid_shape",
        ),
    ],
)
def test_networks_that_timm_does_not_have_are_refused(arguments, named):
    model = with_preprocessor(**{"activation": "gelu", **arguments})
    with pytest.raises(ValueError, match=r"Nothing was written") as error:
        timm_directory(model)
    assert f"{named}" in str(error.value)
    assert str(error.value).startswith("timm ")


def test_preprocessors_are_compared():
    model, other = (
        with_preprocessor(activation="gelu", input_shape=(16, 16, 3)) for _ in range(2)
    )
    check_same_network(model, other, "timm")
    for setting, value in (("crop_fraction", 0.5), ("mean", 90.0)):
        config = model.preprocessor.get_config()
        other.preprocessor = layers.Preprocessor.from_config({**config, setting: value})
        with pytest.raises(ValueError, match=rf"preprocessor with {setting}="):
            check_same_network(model, other, "timm")


@pytest.mark.parametrize(
    "name",
    mostly_slow(
        ["timm_token", "timm_deit_distilled", "timm_registers_layerscale", "timm_map"],
        "timm_deit_distilled",
        "timm_map",
    ),
)
def test_the_way_back_to_timm_is_bit_identical(tmp_path, name):
    golden = Golden(name)
    *size, channels = golden.input_shape
    preprocessor = keras_vit.layers.Preprocessor(image_size=size, **RESIZE)
    overrides = {**golden.overrides, "preprocessor": preprocessor.with_channels(channels)}
    convert(golden.path, tmp_path / "timm", to="timm", **overrides)
    original = load_file(golden.path)
    written = load_file(tmp_path / "timm" / "model.safetensors")
    assert set(original) == set(written)
    for tensor, values in original.items():
        np.testing.assert_array_equal(written[tensor], values, err_msg=tensor)


def test_the_command(tmp_path, capsys):
    perturb(with_preprocessor(activation="gelu")).save(tmp_path / "model.keras")
    target = str(tmp_path / "timm")
    run_command("convert", [str(tmp_path / "model.keras"), target, "--to", "timm"])
    assert f"Wrote {target}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="delete it or choose another path"):
        run_command("convert", [str(tmp_path / "model.keras"), target, "--to", "timm"])
