"""Models that combine the parts of the modern networks."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import (
    AttentionPooling,
    GatedMLP,
    GlobalAveragePooling,
    RotaryPositions,
    SelfAttention,
)
from keras_vit.models.modern_variants import MODERN_ARGUMENTS
from tests.cases import (
    TINY,
    array,
    mostly_slow,
    perturb,
    random_images,
    tiny_t2t,
    tiny_vit,
)
from tests.models.test_parameter_counts import count

MODELS = {
    "eva02": {
        "positions": [
            "learned",
            RotaryPositions(coordinates="index", layout="interleaved"),
        ],
        "mlp": GatedMLP(inner_norm=True),
        "attention": SelfAttention(qk_norm=True, inner_norm=True),
        "qkv_bias": "qv",
        "registers": 2,
        "layer_scale": 0.1,
    },
    "mixed": {"positions": "rope_mixed", "norm": "rms", "block": "parallel"},
    "beit": {
        "positions": "relative_bias",
        "block": "post_norm",
        "pooling": GlobalAveragePooling(0),
        "class_token": True,
        "final_norm": "after_pooling",
    },
    "pe": {
        "positions": "rope_axial",
        "embedding_norm": "tokens",
        "pooling": AttentionPooling(4, 20),
        "mlp": "swiglu",
        "final_norm": None,
    },
}


@pytest.mark.any_backend
@pytest.mark.parametrize("name", mostly_slow(MODELS, "beit"))
def test_files_restore_the_model(tmp_path, name):
    model = perturb(tiny_vit(**MODELS[name]))
    images = random_images(model)
    expected = array(model(images))
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(array(restored(images)), expected, atol=1e-6)
    assert restored.get_config() == model.get_config()
    model.save_weights(tmp_path / "model.weights.h5")
    other = perturb(tiny_vit(**MODELS[name]), seed=1)
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_allclose(array(other(images)), expected, atol=1e-6)


@pytest.mark.parametrize("name", mostly_slow(MODELS, "beit"))
def test_training_with_everything(name):
    model = perturb(
        tiny_vit(
            **MODELS[name], remat=True, stochastic_depth_rate=0.1, dtype="mixed_bfloat16"
        )
    )
    # Compilation with XLA is slow under TensorFlow.
    jit_compile = keras.backend.backend() == "jax"
    model.compile("sgd", "sparse_categorical_crossentropy", jit_compile=jit_compile)
    before = {path: array(w) for path, w in model.weights_by_path().items()}
    model.fit(random_images(model, 4), np.arange(4), verbose=0)
    after = model.weights_by_path()
    assert all(np.isfinite(array(w)).all() for w in after.values())
    moved = {p for p in after if not np.array_equal(array(after[p]), before[p])}
    assert moved == {w.path for w in model.trainable_weights}


@pytest.mark.any_backend
@pytest.mark.parametrize("name", mostly_slow(MODELS, "mixed", "beit"))
def test_other_sizes_and_lora(name):
    model = perturb(tiny_vit(**MODELS[name]))
    larger = model.resized((32, 40, 3))
    assert array(larger(random_images(larger))).shape == (2, 5)
    block = model.get_layer("block_1")
    tokens = keras.Model(model.input, block.input)(random_images(model))
    assert array(block.attention_weights(tokens)).shape[:2] == (2, 2)
    block.attention.qkv.enable_lora(2)
    merged = keras_vit.ViT.from_config(model.get_config())
    assert merged.get_layer("block_1").attention.qkv.lora_enabled


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"positions": ["learned", "sincos_2d"]}, "one kind that is added"),
        ({"positions": ["rope_axial", "relative"]}, "one that acts inside"),
        ({"positions": "rope_axial", "num_heads": 8}, "divisible by 4; received 2"),
        ({"positions": 3}, "positions must be one of"),
        ({"mlp": "glu"}, "Unknown mlp 'glu'"),
        ({"norm": "batch"}, "Unknown norm 'batch'"),
        ({"block": "serial"}, "Unknown block 'serial'"),
        ({"qkv_bias": "q"}, "qkv_bias must be a bool or 'qv'"),
        ({"embedding_norm": "grid"}, "Unknown embedding_norm 'grid'"),
        ({"attention": SelfAttention(4)}, "num_heads=4.*requires 2"),
        ({"attention": keras.layers.Dense(3)}, "attention must be a"),
        ({"pooling": "mean"}, "Unknown pooling 'mean'"),
        ({"pooling": keras.layers.Dense(3)}, "pooling must be a"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_vit(**arguments)


@pytest.mark.any_backend
def test_a_t2t_vit_with_rotary_positions():
    model = perturb(tiny_t2t(positions="rope_axial", mlp="swiglu"))
    assert array(model(random_images(model))).shape == (2, 5)
    assert tiny_vit(**TINY).get_config()["mlp"] == "plain"


# Number of parameters in timm at 1000 classes, and the size of the images. The biases of
# keys, which are always zero, are not counted.
COUNTS = {
    "DINOv2ViTS14": (22_441_192, 518),
    "DINOv2ViTB14": (87_348_712, 518),
    "DINOv2ViTL14": (305_392_616, 518),
    "DINOv2ViTG14": (1_138_016_232, 518),
    "DINOv3ViTS16": (21_981_160, 256),
    "DINOv3ViTSPlus16": (29_077_480, 256),
    "DINOv3ViTB16": (86_428_648, 256),
    "DINOv3ViTL16": (304_153_576, 256),
    "DINOv3ViTHPlus16": (841_872_360, 256),
    "DINOv3ViT7B16": (6_720_127_976, 256),
    "CLIPViTB32": (88_225_000, 224),
    "CLIPViTB16": (86_568_424, 224),
    "CLIPViTL14": (304_204_776, 224),
    "CLIPViTH14": (632_047_080, 224),
    "SigLIPViTB16": (93_653_224, 224),
    "SigLIPViTL16": (316_981_224, 256),
    "SigLIPViTSo400m14": (428_833_704, 224),
    "EVA02ViTTi14": (5_695_144, 224),
    "EVA02ViTS14": (22_006_120, 224),
    "EVA02ViTB14": (86_527_720, 224),
    "EVA02ViTL14": (304_293_800, 224),
    "BEiTB16": (86_530_984, 224),
    "BEiTL16": (304_430_568, 224),
}


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize(
    "name",
    mostly_slow(
        MODERN_ARGUMENTS,
        *("DINOv3ViTSPlus16", "SigLIPViTB16", "EVA02ViTTi14"),
    ),
)
def test_parameter_counts_of_variants(name):
    parameters, size = COUNTS[name]
    arguments = MODERN_ARGUMENTS[name]
    if arguments.get("qkv_bias") == "qv":
        parameters += arguments["num_layers"] * arguments["hidden_dim"]
    one, two = (
        count(name, num_layers=layers, input_shape=(size, size, 3)) for layers in (1, 2)
    )
    assert one + (arguments["num_layers"] - 1) * (two - one) == parameters
