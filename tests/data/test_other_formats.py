"""Formats that TensorFlow does not read."""

import functools
import io

import numpy as np
import pytest
from PIL import Image

import keras_vit
from keras_vit.data import (
    dark_images,
    decode_pixels,
    evaluation_batches,
    open_source,
    other_formats,
)
from keras_vit.data.folders import image_files
from keras_vit.data.summary import summary

pytestmark = pytest.mark.any_backend

GENERATOR = np.random.default_rng(0)
COLOR = GENERATOR.integers(0, 256, (6, 9, 3), "uint8")
CLEAR = GENERATOR.integers(0, 256, (6, 9, 4), "uint8")
DEEP = GENERATOR.integers(0, 2**16, (6, 9), "uint16")
BANDS = GENERATOR.integers(0, 2**16, (6, 9, 7), "uint16")


def encoded(pixels, kind, **options):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def array(pixels):
    file = io.BytesIO()
    np.save(file, pixels)
    return file.getvalue()


def decoded(content, channels=3, **options):
    tf = pytest.importorskip("tensorflow")
    return decode_pixels(tf.constant(content), channels, **options).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("pixels", [COLOR, CLEAR, COLOR[..., 0], DEEP])
def test_a_tiff_gives_the_pixels_of_a_png(pixels, channels):
    expected = decoded(encoded(pixels, "PNG"), channels)
    for options in ({}, {"compression": "tiff_lzw"}, {"big_tiff": True}):
        tiff = encoded(pixels, "TIFF", **options)
        np.testing.assert_array_equal(decoded(tiff, channels), expected)


def test_a_tiff_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6
    tiff = encoded(COLOR, "TIFF", exif=exif)
    np.testing.assert_array_equal(decoded(tiff), np.rot90(COLOR, -1))


def test_a_window_of_a_tiff():
    window = decoded(encoded(COLOR, "TIFF"), window=lambda shape: (1, 2, 3, 4))
    np.testing.assert_array_equal(window, COLOR[1:4, 2:6])


def test_avif():
    content = encoded(COLOR, "AVIF", quality=100)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(decoded(content), np.asarray(image.convert("RGB")))


def test_heic():
    pytest.importorskip("pillow_heif", reason="HEIC is NOT TESTED")
    other_formats._register_heif()
    content = encoded(COLOR, "HEIF", quality=-1)
    with Image.open(io.BytesIO(content)) as image:
        np.testing.assert_array_equal(decoded(content), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_two_channels(kind):
    file = io.BytesIO()
    Image.fromarray(CLEAR).convert("LA").save(file, kind)
    pixels = np.asarray(Image.open(file))
    np.testing.assert_array_equal(decoded(file.getvalue(), 2), pixels)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_four_channels(kind):
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    np.testing.assert_array_equal(decoded(encoded(CLEAR, kind, **options), 4), CLEAR)


def test_arrays_have_any_number_of_channels():
    np.testing.assert_array_equal(decoded(array(COLOR)), COLOR)
    np.testing.assert_array_equal(decoded(array(BANDS), 7), BANDS // 256)
    gray = np.repeat(COLOR[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(decoded(array(COLOR[..., 0])), gray)


@pytest.mark.parametrize("stored", [BANDS, np.moveaxis(BANDS, -1, 0)])
def test_a_tiff_of_many_bands(stored):
    tifffile = pytest.importorskip("tifffile", reason="TIFFs of bands are NOT TESTED")
    file = io.BytesIO()
    tifffile.imwrite(file, stored, photometric="minisblack")
    np.testing.assert_array_equal(decoded(file.getvalue(), 7), BANDS // 256)


@pytest.mark.parametrize(
    ("content", "channels", "message"),
    [
        (b"", 3, "empty"),
        (encoded(COLOR, "TIFF")[:60], 3, "."),
        (b"\0\0\0\x1cftypavif" + bytes(20), 3, "cannot identify image"),
        (array(BANDS), 3, r"shape \(6, 9, 7\); the model takes images of 3 channels"),
        (array(COLOR / 255), 3, "type float64: scale them to 0 to 255"),
        # These may have values up to 255, or up to 65535.
        (array(COLOR.astype("int64")), 3, "type int64: scale them to 0 to 255"),
        (encoded(COLOR[..., 0].astype("int32"), "TIFF"), 3, "0 to 65535 and save"),
        (array(np.array([{}])), 3, "allow_pickle=False"),
        (encoded(COLOR, "PNG"), 4, "of 3 channels; the model takes 4"),
        (encoded(COLOR, "JPEG"), 4, "of 3 channels; the model takes 4"),
    ],
)
def test_what_cannot_be_read_is_named(content, channels, message):
    tf = pytest.importorskip("tensorflow")
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decoded(content, channels)


@pytest.mark.parametrize("kind", ["TIFF", "array", "bands"])
def test_files_of_16_bits_that_are_almost_black(kind):
    pixels = BANDS // 16 if kind == "bands" else DEEP // 16  # As of 12-bit cameras.
    write = array
    if kind == "TIFF":
        write = functools.partial(encoded, kind="TIFF")
    elif kind == "bands":
        tifffile = pytest.importorskip("tifffile", reason="TIFFs of bands NOT TESTED")

        def write(pixels):
            file = io.BytesIO()
            tifffile.imwrite(file, pixels, photometric="minisblack")
            return file.getvalue()

    assert "a.tif has 16 bits, but no value" in dark_images.warning(
        "a.tif", write(pixels)
    )
    assert dark_images.warning("a.tif", write(pixels * 16)) is None
    assert dark_images.warning("a.tif", write((pixels // 256).astype("uint8"))) is None


@pytest.fixture
def folder(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.tif").write_bytes(encoded(CLEAR, "TIFF"))
        (tmp_path / name / "b.PNG").write_bytes(encoded(CLEAR, "PNG"))
        (tmp_path / name / "c.npy").write_bytes(array(CLEAR))
    return tmp_path


@pytest.mark.parametrize("channels", [3, 4])
def test_a_folder_is_read_with_the_channels_of_the_model(folder, channels):
    source = open_source(f"folder:{folder}").with_channels(channels)
    if channels == 3:
        (folder / "cat" / "c.npy").write_bytes(array(CLEAR[..., :3]))
        (folder / "dog" / "c.npy").write_bytes(array(CLEAR[..., :3]))
    preprocessor = keras_vit.layers.Preprocessor(0.0, 1.0, image_size=(6, 9))
    images, labels, _ = next(iter(evaluation_batches(source, preprocessor, 6)))
    np.testing.assert_array_equal(images, [CLEAR[..., :channels]] * 6)
    assert labels.numpy().tolist() == [0, 0, 0, 1, 1, 1]


def test_the_summary_has_their_sizes(folder):
    text = summary({"train": open_source(f"folder:{folder}")})
    assert "9x6 pixels (6 images were looked at)" in text
    assert "unreadable" not in text
    (folder / "cat" / "c.npy").write_bytes(b"")
    text = summary({"train": open_source(f"folder:{folder}")})
    assert "unreadable   1 of 6 (cat/c.npy)" in text


def test_formats_without_a_reader_are_counted_with_the_package(folder, monkeypatch):
    (folder / "cat" / "d.heic").write_bytes(b"")
    monkeypatch.setattr(other_formats, "suffixes", lambda: (".npy", ".tif"))
    images, _ = image_files(folder / "cat")
    assert [name[-5:] for name in images] == ["a.tif", "b.PNG", "c.npy"]
    assert open_source(f"folder:{folder}").left_out.endswith(
        "d.heic; pip install 'keras-vit[images]' reads them)"
    )
