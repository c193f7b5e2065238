"""Checkpoints of timm and transformers, converted for the same library again.

The library loads the written directory and must give the outputs that are stored in
`../shared/goldens_modern`, which is outside of the repository. Models that are
fine-tuned here must give the same predictions in the library.
"""

import json

import keras
import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

import keras_vit
from keras_vit.convert import convert
from recipes.benchmark import torchvision_stub
from tests.cases import array, random_array
from tests.weights.test_modern_goldens import (
    DIRECTORY,
    HUGGING_FACE,
    TIMM,
    read_reference,
)

torchvision_stub.install()
torch = pytest.importorskip("torch", reason="round trips are NOT TESTED")
timm = pytest.importorskip("timm", reason="round trips are NOT TESTED")
transformers = pytest.importorskip("transformers", reason="round trips are NOT TESTED")

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.skipif(
        not DIRECTORY.is_dir(), reason=f"no {DIRECTORY}: round trips are NOT TESTED"
    ),
]
PHOTOS = DIRECTORY.parent / "real" / "photos"
CLASS_NAMES = ["ant", "bee", "cat", "dog"]
# One golden of each kind runs with the other tests, the rest with the slow ones.
FAST = ("timm_eva02_base", "timm_pe_core", "hf_siglip", "hf_dinov3_gated")
# The model adds the positions of registers to the registers. Mask tokens are not loaded.
OTHER = {"timm_so150m2": {"pos_embed", "reg_token"}}
MASK_TOKENS = {f"{x}embeddings.mask_token" for x in ("", "beit.", "dinov2.")}
# Attributes under which only the class that is written holds the network.
PREFIXES = ("vit.", "ijepa.", "vision_model.")


def cases(names):
    marks = {False: [pytest.mark.slow], True: []}
    return [pytest.param(name, marks=marks[name in FAST]) for name in names]


def channels_first(images):
    return torch.from_numpy(array(images).transpose(0, 3, 1, 2).copy())


def create_with_timm(directory):
    """Return timm's network with the weights of a written directory."""
    config = json.loads((directory / "config.json").read_text())
    return timm.create_model(
        config["architecture"],
        checkpoint_path=directory / "model.safetensors",
        **config["model_args"],
    ).eval()


def create_with_transformers(directory):
    """Return the network of transformers with the weights of a written directory."""
    config = json.loads((directory / "config.json").read_text())
    network_class = getattr(transformers, config["architectures"][0])
    network, info = network_class.from_pretrained(directory, output_loading_info=True)
    assert not any(info.values()), info
    return network.eval()


def check_tensors(name, directory):
    """Check that a directory has the tensors of the golden, bit for bit."""

    def read(path):
        tensors = {}
        for tensor, values in load_file(path / "model.safetensors").items():
            for prefix in PREFIXES:
                tensor = tensor.removeprefix(prefix)
            tensors[tensor] = values
        return tensors

    original, written = read(DIRECTORY / name), read(directory)
    unequal = OTHER.get(name, set())
    differing = {
        tensor
        for tensor in (set(original) | set(written)) - MASK_TOKENS
        if tensor not in original
        or tensor not in written
        or not np.array_equal(original[tensor], written[tensor])
    }
    assert differing == unequal


@pytest.mark.parametrize("name", cases(TIMM))
def test_timm(name, tmp_path):
    inputs, reference = read_reference(name)
    assert convert(DIRECTORY / name, tmp_path / "new", to="timm") <= 1e-5
    check_tensors(name, tmp_path / "new")
    network = create_with_timm(tmp_path / "new")
    with torch.no_grad():
        logits = network(channels_first(inputs)).numpy()
    np.testing.assert_allclose(logits, reference["logits"], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", cases(HUGGING_FACE))
def test_transformers(name, tmp_path):
    inputs, reference = read_reference(name)
    assert convert(DIRECTORY / name, tmp_path / "new", to="transformers") <= 1e-5
    assert not (tmp_path / "new" / "preprocessor_config.json").exists()
    check_tensors(name, tmp_path / "new")
    network = create_with_transformers(tmp_path / "new")
    with torch.no_grad():
        found = network(channels_first(inputs))
        if "tokens" in reference and "logits" in found:
            found = network.base_model(channels_first(inputs))
    outputs = {"tokens": "last_hidden_state", "pooled": "pooler_output"}
    for key, expected in reference.items():
        computed = found[outputs.get(key, key)].numpy()
        np.testing.assert_allclose(computed, expected, rtol=0, atol=1e-5, err_msg=key)


def fine_tune(name, preprocessor, path):
    """Save a golden that is trained for other classes at another image size."""
    keras.utils.set_random_seed(0)
    model = keras_vit.load_checkpoint(
        DIRECTORY / name,
        input_shape=(96, 96, 3),
        head="new",
        classes=len(CLASS_NAMES),
        class_names=CLASS_NAMES,
        preprocessor=preprocessor,
    )
    before = [array(weight) for weight in model.trainable_weights]
    model.compile(keras.optimizers.Adam(1e-2), "sparse_categorical_crossentropy")
    labels = np.arange(8) % len(CLASS_NAMES)
    model.fit(random_array(8, 96, 96, 3), labels, batch_size=4, epochs=2, verbose=0)
    for old, weight in zip(before, model.trainable_weights, strict=True):
        assert np.any(old != array(weight)), weight.path
    model.save(path)
    return model


def check_predictions(model, images, logits):
    """Compare a model's probabilities with another network's logits."""
    expected = torch.softmax(logits, -1).detach().numpy()
    np.testing.assert_allclose(array(model(images)), expected, rtol=0, atol=1e-5)
    assert np.ptp(expected, axis=-1).max() > 0.05


def photographs():
    paths = sorted(PHOTOS.glob("*.JPEG"))[:3]
    assert paths
    return [np.array(Image.open(path).convert("RGB")) for path in paths]


def check_photographs(model, process, predict):
    """Compare predictions for photographs that each side preprocesses by itself.

    Pillow rounds the pixels after each axis of a resize, and `Preprocessor` does not.
    """
    for image in photographs():
        own, other = array(model.preprocessor(image)), process(image)
        levels = np.abs(own - other) * model.preprocessor.std
        assert levels.mean() < 0.4
        with torch.no_grad():
            expected = torch.softmax(predict(channels_first(other[None])), -1).numpy()
        np.testing.assert_allclose(array(model(own[None])), expected, rtol=0, atol=0.01)


def test_timm_evaluates_our_fine_tuned_model(tmp_path):
    preprocessor = keras_vit.layers.Preprocessor.imagenet(
        (96, 96), 0.9, resize="bicubic_antialias"
    )
    model = fine_tune("timm_beit", preprocessor, tmp_path / "model.keras")
    convert(tmp_path / "model.keras", tmp_path / "new", to="timm")
    network = timm.create_model(f"local-dir:{tmp_path / 'new'}", pretrained=True).eval()
    images = random_array(2, 96, 96, 3, seed=1)
    check_predictions(model, images, network(channels_first(images)))
    assert network.pretrained_cfg["label_names"] == CLASS_NAMES
    data = timm.data.resolve_data_config({}, model=network)
    assert (data["interpolation"], data["crop_mode"]) == ("bicubic", "center")

    def process(image):
        """Resize, crop and scale as timm's transforms, which need torchvision."""
        side = int(data["input_size"][1] / data["crop_pct"])
        height, width, _ = image.shape
        size = [side * s // min(height, width) for s in (width, height)]
        resized = Image.fromarray(image).resize(size, Image.Resampling.BICUBIC)
        left, top = (round((s - 96) / 2) for s in size)
        pixels = np.array(resized.crop((left, top, left + 96, top + 96))) / 255
        return ((pixels - data["mean"]) / data["std"]).astype("float32")

    check_photographs(model, process, network)


def test_transformers_evaluates_our_fine_tuned_model(tmp_path):
    preprocessor = keras_vit.layers.Preprocessor(
        image_size=(96, 96),
        resize="bicubic_antialias",
        crop_fraction=0.875,
        crop_rounding="floor",
    )
    model = fine_tune("hf_beit", preprocessor, tmp_path / "model.keras")
    convert(tmp_path / "model.keras", tmp_path / "new", to="transformers")
    network = create_with_transformers(tmp_path / "new")
    images = random_array(2, 96, 96, 3, seed=1)
    check_predictions(model, images, network(channels_first(images)).logits)
    assert list(network.config.id2label.values()) == CLASS_NAMES
    processor = transformers.AutoImageProcessor.from_pretrained(
        tmp_path / "new", backend="pil"
    )

    def process(image):
        pixels = processor(image, return_tensors="np", input_data_format="channels_last")
        return pixels["pixel_values"][0].transpose(1, 2, 0)

    check_photographs(model, process, lambda x: network(x).logits)
