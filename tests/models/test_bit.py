"""Big Transfer: outputs of timm's networks, sizes, adaptation, and checkpoints."""

import json
import shutil

import keras
import numpy as np
import pytest

import keras_vit
from tests.cases import array, outputs, perturb, random_array, tiny_bit
from tests.models.test_parameter_counts import count

# The golden's norms have 8 groups, so that its channels could be few.
GOLDEN = {"groups": 8, "input_shape": (64, 64, 3), "classifier_activation": None}
FILES = ["bit.checkpoint.npz", "bit.checkpoint.safetensors"]
# Counts for 1000 classes: R50x1, R101x3 and R152x4 as published, the others as in timm.
PARAMETERS = {
    "BiTR50x1": 25_549_352,
    "BiTR50x3": 217_319_080,
    "BiTR101x1": 44_541_480,
    "BiTR101x3": 387_934_888,
    "BiTR152x2": 236_335_208,
    "BiTR152x4": 936_533_224,
}


@pytest.fixture(scope="module")
def tiny():
    return perturb(tiny_bit())


@pytest.fixture
def golden(goldens):
    with np.load(goldens / "bit.io.npz") as arrays:
        return dict(arrays)


@pytest.mark.parametrize(
    "file", [FILES[0], pytest.param(FILES[1], marks=pytest.mark.any_backend)]
)
def test_outputs_of_timm(goldens, golden, file):
    model = keras_vit.load_checkpoint(goldens / file, **GOLDEN)
    assert model.count_params() == 30_711
    np.testing.assert_allclose(
        outputs(model, golden["inputs"]), golden["logits"], rtol=0, atol=1e-5
    )
    features = keras.Model(model.input, model.get_layer("activation").output)
    np.testing.assert_allclose(
        outputs(features, golden["inputs"]), golden["features"], rtol=0, atol=1e-4
    )


@pytest.mark.any_backend
@pytest.mark.parametrize("name", PARAMETERS)
def test_parameter_counts(name):
    assert count(name) == PARAMETERS[name]


@pytest.mark.any_backend
def test_files_restore_the_model(tiny, tmp_path):
    tiny.save(tmp_path / "model.keras")
    again = keras_vit.load_checkpoint(tmp_path / "model.keras")
    images = random_array(2, 40, 24, 3)
    np.testing.assert_array_equal(array(again(images)), array(tiny(images)))
    assert again.get_config() == tiny.get_config()
    assert list(again.weights_by_path())[:2] == [
        "root/kernel",
        "stage_0_unit_0/norm_1/gamma",
    ]


@pytest.mark.any_backend
def test_another_size_has_the_same_weights(tiny):
    larger = tiny.resized((64, 52, 3))
    assert larger.preprocessor.image_size == (64, 52)
    assert larger.grid_shape == (8, 7)
    for path, value in tiny._values().items():
        np.testing.assert_array_equal(larger._values()[path], value)
    with pytest.raises(ValueError, match="changes height and width only"):
        tiny.resized((64, 48, 1))


@pytest.mark.any_backend
def test_a_new_head_and_other_channels(goldens):
    file = goldens / FILES[0]
    common = {**GOLDEN, "head": "new", "classes": 3}
    colour = keras_vit.load_checkpoint(file, **common)._values()
    grey = keras_vit.load_checkpoint(file, **{**common, "input_shape": (64, 64, 1)})
    kernel = colour["root/kernel"].sum(axis=2, keepdims=True)
    np.testing.assert_allclose(grey._values()["root/kernel"], kernel, rtol=1e-6)
    assert colour["classifier/kernel"].shape == (96, 3)
    assert not colour["classifier/kernel"].any()


@pytest.mark.any_backend
def test_a_file_for_other_epsilons(goldens):
    config = keras_vit.load_checkpoint(goldens / FILES[1], **GOLDEN).resolved_config()
    assert config["epsilons"] == "timm"
    with pytest.raises(ValueError, match=r"would give other outputs.*epsilons='timm'"):
        keras_vit.BiT(**{**config, "epsilons": "bit"}, weights=goldens / FILES[1])


@pytest.mark.any_backend
def test_what_timms_configuration_tells(goldens, tmp_path):
    shutil.copy(goldens / FILES[1], tmp_path / "model.safetensors")
    names = list("abcdefg")
    config = {"architecture": "resnetv2_50x1_bit", "label_names": names}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = keras_vit.load_checkpoint(tmp_path, **GOLDEN)
    assert model.get_config()["class_names"] == names
    for other in (
        {"global_pool": "max"},
        {"model_args": {"global_pool": "avgmax"}},
        {"model_args": {"output_stride": 16}},
    ):
        (tmp_path / "config.json").write_text(json.dumps({**config, **other}))
        with pytest.raises(ValueError, match=r"has (global_pool|output_stride)="):
            keras_vit.load_checkpoint(tmp_path, **GOLDEN)


@pytest.mark.any_backend
def test_precision():
    model = tiny_bit(dtype="mixed_bfloat16")
    outputs = model(random_array(2, 40, 24, 3))
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    assert model.get_layer("norm").compute_dtype == "bfloat16"


@pytest.mark.slow_elsewhere  # JAX compiles convolutions' gradients for half a minute.
def test_a_step_changes_every_weight():
    model = perturb(tiny_bit())
    before = model._values()
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    model.fit(random_array(4, 40, 24, 3), np.array([0, 1, 2, 3]), verbose=0)
    after = model._values()
    assert not [path for path in before if np.array_equal(before[path], after[path])]


@pytest.mark.any_backend
def test_there_is_no_attention_to_show(tiny):
    images = random_array(1, 40, 24, 3)
    with pytest.raises(ValueError, match="A BiT has no Transformer blocks"):
        keras_vit.visualize.attention_weights(tiny, images)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groups": 3}, "groups=3 must divide stem_channels=16"),
        ({"channels": (32,)}, "one positive int for each stage"),
        ({"pooling": None}, "needs include_top=False"),
        ({"classes": 0}, "classes must be a positive int"),
        ({"class_names": ["a"]}, "one name for each of the 5 classes"),
        ({"epsilons": "other"}, "epsilons"),
        ({"input_shape": (40, 24)}, "input_shape"),
    ],
)
def test_arguments_out_of_range(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_bit(**arguments)


@pytest.mark.any_backend
def test_files_of_other_networks(goldens, tmp_path):
    with pytest.raises(ValueError, match=r"use keras_vit\.BiT"):
        keras_vit.ViTTi16(weights=goldens / FILES[0])
    with pytest.raises(ValueError, match="not one of a ResNet"):
        tiny_bit(weights=goldens / "google_gap.checkpoint.npz")
    with pytest.raises(ValueError, match="groups=32 must divide"):
        keras_vit.load_checkpoint(goldens / FILES[0])
    shutil.copy(goldens / FILES[1], tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "resnetv2_50"}))
    with pytest.raises(ValueError, match="resnetv2_50, which keras_vit does not have"):
        keras_vit.load_checkpoint(tmp_path, groups=8)


@pytest.mark.any_backend
def test_preprocessing_of_timm(goldens, tmp_path):
    shutil.copy(goldens / FILES[1], tmp_path / "model.safetensors")
    config = {
        "architecture": "resnetv2_50x1_bit",
        "pretrained_cfg": {
            "input_size": [3, 96, 96],
            "crop_pct": 1.0,
            "interpolation": "bilinear",
            "mean": [0.5, 0.5, 0.5],
            "std": [0.5, 0.5, 0.5],
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = keras_vit.load_checkpoint(tmp_path, groups=8)
    assert model.input_shape == (None, 96, 96, 3)
    assert model.preprocessor.resize == "bilinear_antialias"
    assert list(model.preprocessor.mean) == [127.5] * 3
