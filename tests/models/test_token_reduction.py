"""Models whose blocks merge tokens: equality, pooling, files, features and refusals."""

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import TokenMerging, TokenPooling
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    outputs,
    perturb,
    random_images,
    tiny_t2t,
    tiny_vit,
    weights_of,
)
from tests.formulas import dense, layer_norm, softmax
from tests.layers.test_token_merging import block_formula

# Twelve tokens and the prefix tokens.
SIZES = {"patch_size": 4, "input_shape": (12, 16, 3), "num_layers": 3}


def model_of(**arguments):
    return perturb(tiny_vit(**SIZES, **arguments))


def formula(model, images, counts, prefix=1):
    """Return the tokens after the last norm and their sizes, one image at a time."""
    encoded = keras.Model(model.input, model.get_layer("dropout").output)
    blocks = [weights_of(model.get_layer(f"block_{i}")) for i in range(3)]
    norm = weights_of(model.get_layer("norm"))
    for x in outputs(encoded, images).astype("float64"):
        sizes = np.ones(len(x))
        for w, merged in zip(blocks, counts, strict=True):
            x, sizes = block_formula(x, w, sizes, merged, prefix)
        yield layer_norm(x, norm["gamma"], norm["beta"]), sizes


@pytest.mark.parametrize(
    "pooling", mostly_slow_elsewhere(["token", "gap", "token_gap"], "gap")
)
def test_formula(pooling):
    model = model_of(pooling=pooling)
    images, prefix = random_images(model), model.num_prefix_tokens
    merging = model.with_token_reduction([3, 0, 2])
    assert list(merging.weights_by_path()) == list(model.weights_by_path())
    head = weights_of(model.get_layer("classifier"))
    expected = []
    for x, sizes in formula(model, images, [3, 0, 2], prefix):
        grid, weights = x[prefix:], sizes[prefix:, None]
        mean = (grid * weights).sum(0) / weights.sum()
        parts = {"token": [x[0]], "gap": [mean], "token_gap": [x[0], mean]}[pooling]
        x = np.concatenate(parts)
        expected.append(softmax(dense(x, {f"c/{k}": v for k, v in head.items()}, "c")))
    np.testing.assert_allclose(outputs(merging, images), expected, atol=1e-5)


@pytest.mark.any_backend
def test_map_pooling_attends_to_merged_tokens_as_often():
    model = model_of(pooling="map")
    pooling = model.get_layer("pooling")
    x, sizes = random_images(model)[:, :3, :, 0], [[1, 3, 2]] * 2
    repeated = np.repeat(x, sizes[0], axis=1)
    np.testing.assert_allclose(
        array(pooling(x, np.array(sizes, "int32"))), array(pooling(repeated)), atol=1e-5
    )
    assert model.with_token_reduction(2).output_shape == (None, 5)


@pytest.mark.any_backend
def test_zero_changes_nothing():
    model = model_of()
    images = random_images(model)
    for nothing in (0, [0, 0], None):
        same = model.with_token_reduction(nothing)
        np.testing.assert_array_equal(array(same(images)), array(model(images)))


@pytest.mark.any_backend
def test_half_of_the_tokens_at_most():
    model = model_of(distillation_token=True, registers=1).with_token_reduction(100)
    lengths = [model.get_layer(f"block_{i}").output[0].shape[1] for i in range(3)]
    assert lengths == [9, 6, 5]
    assert model(random_images(model)).shape == (2, 5)


@pytest.mark.any_backend
def test_files(tmp_path):
    model = model_of()
    merging = model.with_token_reduction(TokenMerging(3, inflection=-1.0))
    images = random_images(model)
    merging.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(array(again(images)), array(merging(images)))
    plain = keras_vit.load_checkpoint(tmp_path / "model.keras", token_reduction=None)
    np.testing.assert_array_equal(array(plain(images)), array(model(images)))
    larger = merging.resized((16, 16, 3))
    assert larger.get_layer("block_0").output[0].shape[1] == 11


@pytest.mark.any_backend
def test_features_have_a_place_for_every_patch():
    model = model_of(pooling="gap", final_norm="after_pooling").with_token_reduction([5])
    images = random_images(model)
    first, _ = model.features(images, blocks=[0, -1])
    assert tuple(first.shape) == (2, 3, 4, 16)
    flat = array(first).reshape(2, 12, 16)
    assert [len(np.unique(x, axis=0)) for x in flat] == [7, 7]
    config = {**model.get_config(), "include_top": False, "pooling": None}
    tokens = keras_vit.ViT.from_config({**config, "final_norm": "before_pooling"})
    assert tokens.output_shape == (None, 12, 16)


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            {"positions": "relative"},
            "added to the tokens .*received positions='relative'",
        ),
        ({"positions": "rope_axial"}, "received positions='rope_axial'"),
        ({"block": "parallel"}, "needs block='pre_norm'; received 'parallel'"),
        ({"remat": True}, "needs remat=False"),
        (
            {"pooling": TokenPooling(1)},
            "one of the 1 tokens before them; received index=1",
        ),
        ({"token_reduction": "all"}, "received 'all'"),
        ({"token_reduction": [1, 1, 1, 1]}, "4 entries, and the model 3 blocks"),
        ({"token_reduction": keras.layers.Dense(2)}, "received <Dense"),
    ],
)
def test_refusals(overrides, message):
    with pytest.raises(ValueError, match=message):
        tiny_vit(**SIZES, **{"token_reduction": 1, **overrides})


@pytest.mark.any_backend
def test_what_needs_all_tokens():
    model = model_of(token_reduction=1)
    for function in ("attention_weights", "attention_rollout"):
        with pytest.raises(ValueError, match=r"with_token_reduction\(None\)"):
            getattr(keras_vit.visualize, function)(model, random_images(model))
    with pytest.raises(TypeError, match="no argument 'token_reduction'"):
        keras_vit.T2TViT(token_reduction=1)
    model = perturb(tiny_t2t())
    with pytest.raises(ValueError, match="must be None; received 1"):
        model.with_token_reduction(1)
    images = random_images(model)
    np.testing.assert_array_equal(
        array(model.with_token_reduction(None)(images)), array(model(images))
    )
