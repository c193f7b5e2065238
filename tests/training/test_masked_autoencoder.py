import keras
import numpy as np
import pytest

from keras_vit.layers import Patches, SinCosPositions2D
from keras_vit.training import MaskedAutoencoder
from tests.cases import array, perturb, random_images, tiny_vit
from tests.formulas import below, block, dense, layer_norm

PREFIX = 3  # A class token and two registers.


def model_of(ratio=0.75, normalize_pixels=True, decoder_mlp_dim=20, **overrides):
    backbone = tiny_vit(
        **{
            "patch_size": 4,
            "include_top": False,
            "pooling": None,
            "class_token": True,
            "registers": 2,
            **overrides,
        }
    )
    return MaskedAutoencoder(
        backbone,
        ratio,
        decoder_dim=12,
        decoder_layers=2,
        decoder_heads=3,
        decoder_mlp_dim=decoder_mlp_dim,
        normalize_pixels=normalize_pixels,
    )


def weights(model):
    by_path = model.weights_by_path()
    return {path: array(weight).astype("float64") for path, weight in by_path.items()}


@pytest.mark.slow_elsewhere
def test_formula():
    """Compare the model with a formula that processes each image separately."""
    model = perturb(model_of())
    w = weights(model)
    images = random_images(model, 3)
    outputs = {name: array(value) for name, value in model(images).items()}
    patches = array(Patches(4)(images)).astype("float64")
    tokens = dense(patches, w, "patch_encoder/projection")
    class_token = np.broadcast_to(w["patch_encoder/class_token"], (3, 1, 16))
    tokens = np.concatenate([class_token, tokens], axis=1)
    tokens = tokens + w["patch_encoder/positions/embedding"]
    registers = w["patch_encoder/registers"][0]
    places = array(SinCosPositions2D((4, 6))(np.zeros((1, 24, 12), "float32")))[0]
    assert outputs["patches"].shape == (3, 18)
    for image in range(3):
        hidden = outputs["patches"][image]
        visible = np.setdiff1d(np.arange(24), hidden)
        grid = tokens[image, 1:]
        x = np.concatenate([tokens[image, :1], registers, grid[visible]])[None]
        for i in range(2):
            x = block(x, below(w, f"block_{i}/"), 2)
        x = layer_norm(x, w["norm/gamma"], w["norm/beta"])
        x = dense(x, w, "decoder_embedding")[0]
        decoded = np.empty((24, 12))
        decoded[:] = w["decoder_tokens/mask_token"][0]
        decoded[visible] = x[PREFIX:]
        x = np.concatenate([x[:PREFIX], decoded + places])[None]
        for i in range(2):
            x = block(x, below(w, f"decoder_block_{i}/"), 3)
        x = layer_norm(x, w["decoder_norm/gamma"], w["decoder_norm/beta"])
        pixels = dense(x, w, "prediction")[0, PREFIX:]
        np.testing.assert_allclose(
            outputs["predictions"][image], pixels[hidden], rtol=0, atol=1e-4
        )


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("normalize", [pytest.param(False, marks=pytest.mark.slow), True])
@pytest.mark.parametrize(
    "by_image", [pytest.param(None, marks=pytest.mark.slow_elsewhere), [1.0, 0.0, 2.0]]
)
def test_targets_and_loss(normalize, by_image):
    model = perturb(model_of(normalize_pixels=normalize))
    images = random_images(model, 3)
    images[0, :4, :4] = 0.5  # A constant patch must not cause a division by zero.
    targets = array(Patches(4)(images)).astype("float64")
    if normalize:
        targets = targets - targets.mean(-1, keepdims=True)
        targets /= np.sqrt((targets**2).mean(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(array(model.targets(images)), targets, rtol=0, atol=1e-4)
    outputs = {name: array(value) for name, value in model(images).items()}
    targets = np.take_along_axis(targets, outputs["patches"][..., None], axis=1)
    losses = ((outputs["predictions"] - targets) ** 2).mean((1, 2))
    model.compile()
    sample_weight = None if by_image is None else np.array(by_image)
    loss = model.evaluate(images, sample_weight=sample_weight, verbose=0)
    expected = np.mean(losses * (1 if by_image is None else sample_weight))
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


def hidden_pixels(model, images):
    hidden = np.zeros((len(images), 24), bool)
    np.put_along_axis(hidden, array(model(images)["patches"]), True, axis=1)
    pixels = np.kron(hidden.reshape(-1, 4, 6), np.ones((4, 4)))
    return pixels[..., None].astype(bool)


@pytest.mark.any_backend
def test_only_visible_patches_are_seen():
    model = perturb(model_of())
    images = random_images(model)
    encoded = keras.Model(model.input, model.get_layer("decoder_embedding").output)
    assert encoded.output_shape == (None, PREFIX + 6, 12)
    hidden = hidden_pixels(model, images)
    changed = np.where(hidden, images + 1, images)
    for part in (encoded, lambda images: model(images)["predictions"]):
        before = array(part(images))
        np.testing.assert_array_equal(array(part(changed)), before)
        other = array(part(np.where(hidden, images, images + 1)))
        assert not np.allclose(other, before, atol=1e-3)


@pytest.mark.slow_elsewhere
@pytest.mark.parametrize("normalize", [False, True])
def test_reconstruct(normalize):
    model = perturb(model_of(normalize_pixels=normalize))
    images = random_images(model)
    outputs = {name: array(value) for name, value in model(images).items()}
    patches = array(Patches(4)(images))
    for image, places in enumerate(outputs["patches"]):
        pixels = outputs["predictions"][image]
        if normalize:
            true = patches[image, places]
            deviation = np.sqrt(true.var(-1, keepdims=True) + 1e-6)
            pixels = pixels * deviation + true.mean(-1, keepdims=True)
        patches[image, places] = pixels
    expected = np.empty_like(images)
    for patch in range(24):
        y, x = 4 * (patch // 6), 4 * (patch % 6)
        expected[:, y : y + 4, x : x + 4] = patches[:, patch].reshape(2, 4, 4, 3)
    pictures = array(model.reconstruct(images))
    np.testing.assert_allclose(pictures, expected, rtol=0, atol=1e-5)
    visible = ~hidden_pixels(model, images)
    np.testing.assert_array_equal(pictures[visible[..., 0]], images[visible[..., 0]])


@pytest.mark.slow_elsewhere
def test_no_prefix_and_fixed_positions():
    model = perturb(model_of(class_token=False, registers=0, positions="sincos_1d"))
    outputs = model(random_images(model))
    assert tuple(outputs["predictions"].shape) == (2, 18, 48)
    # The position embeddings of the backbone must not be trained either.
    trained = {id(weight) for weight in model.trainable_weights}
    fixed = [
        p for p, weight in model.weights_by_path().items() if id(weight) not in trained
    ]
    assert fixed == ["patch_encoder/positions/embedding"]


@pytest.mark.slow_elsewhere
def test_defaults_are_the_papers():
    backbone = tiny_vit(patch_size=4, include_top=False, hidden_dim=8)
    config = MaskedAutoencoder(backbone, decoder_layers=1).get_config()
    assert (config["ratio"], config["decoder_dim"], config["decoder_heads"]) == (
        0.75,
        512,
        16,
    )
    model = MaskedAutoencoder(backbone, decoder_dim=16, decoder_layers=1)
    path = "decoder_block_0/mlp/expand/kernel"
    assert tuple(model.weights_by_path()[path].shape) == (16, 64)


def test_weights_have_names():
    model = model_of()
    own = set(model.weights_by_path()) - set(model.backbone.weights_by_path())
    outside = {path for path in own if not path.startswith("decoder_block_")}
    assert outside == {
        "decoder_embedding/kernel",
        "decoder_embedding/bias",
        "decoder_tokens/mask_token",
        "decoder_norm/gamma",
        "decoder_norm/beta",
        "prediction/kernel",
        "prediction/bias",
    }
    assert "decoder_block_1/attention/qkv/kernel" in own


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decoder_dim": 10, "decoder_heads": 3}, r"by 3 \(decoder_heads\)"),
        ({"decoder_dim": 10, "decoder_heads": 2}, r"decoder_dim=10 .* by 4"),
        ({"decoder_layers": 0}, "decoder_layers must be a positive int; received 0"),
        ({"decoder_mlp_dim": 2.5}, "decoder_mlp_dim must be a positive int"),
    ],
)
def test_decoders_that_cannot_be(arguments, message):
    backbone = tiny_vit(patch_size=4, include_top=False)
    with pytest.raises(ValueError, match=message):
        MaskedAutoencoder(backbone, **arguments)


@pytest.mark.parametrize("positions", ["relative", "rope_axial", "relative_bias"])
def test_positions_of_the_attention_need_every_token(positions):
    with pytest.raises(ValueError, match=rf"positions='{positions}'.*'sincos_2d'"):
        model_of(positions=positions)


def test_a_backbone_without_a_norm():
    with pytest.raises(ValueError, match="final_norm=None"):
        model_of(final_norm=None)
