"""Decoding of many layouts of image formats, compared with Pillow."""

import io

import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="makes the pictures")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

REFUSED = {
    "jpeg cmyk without a marker": "CMYK JPEG without an Adobe marker: save it as RGB.",
    "webp animated": "Animated WebP: save one of its frames.",
    "bmp of red, green, blue": "colors in another order: save it as PNG.",
    "bmp of 15 bits": "of 16 bits",
    "bmp of 16 bits": "of 16 bits",
    "bmp of 8 bits": "with a palette",
    "bmp of 1 bit": "with a palette",
    "bmp RLE8": "compressed",
    "bmp RLE4": "compressed",
    "bmp of OS/2": "of OS/2",
    "jpeg after a byte": "Unknown image file format",
}


@pytest.fixture(scope="module")
def files():
    from tests.data.containers import all_files

    return all_files()


def pillow(file, mode):
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    if image.mode == "I;16":  # `convert` would clip the values to 255.
        image = Image.fromarray((np.asarray(image) // 256).astype("uint8"))
    pixels = np.asarray(image.convert(mode), int)
    return pixels.reshape(*pixels.shape[:2], len(mode))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_decoding(files, mode):
    import tensorflow as tf

    from keras_vit.data.decoding import decode_pixels, reason

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    def run(content):
        return decode_pixels(content, len(mode))

    refused = {}
    for name, file in files.items():
        try:
            pixels = run(tf.constant(file)).numpy()
        except tf.errors.OpError:
            with pytest.raises(tf.errors.OpError) as error:  # Commands report this error.
                decode_pixels(tf.constant(file), len(mode))
            refused[name] = reason(error.value)
            continue
        expected = pillow(file, mode)
        assert pixels.shape == expected.shape, name
        assert np.abs(pixels - expected).max() <= (mode == "L"), name
    assert refused.keys() == REFUSED.keys()
    for name, message in refused.items():
        assert REFUSED[name] in message
        assert "assertion" not in message


@pytest.mark.slow
def test_exports_and_the_server(files):
    """Check the function that decodes image files in exports and in the server."""
    import tensorflow as tf

    from keras_vit.data.decoding import decode_pixels
    from keras_vit.export.image_bytes import FINE, UNREADABLE, read_images
    from keras_vit.layers import Preprocessor
    from keras_vit.serve.images import read_files

    preprocessor = Preprocessor(0.0, 1.0, image_size=(8, 8))
    inputs = {"image_bytes": np.array(list(files.values()), object)}
    checked = read_files(inputs, 10**6)
    assert checked.reasons == {}
    contents = checked.inputs["image_bytes"].tolist()

    @tf.function
    def served(contents):
        return read_images(contents, preprocessor, (8, 8, 3), 10**6)

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    def expected(content):
        return preprocessor(decode_pixels(content, 3))

    images, errors, _ = served(tf.constant(contents))
    for name, image, error in zip(files, images, errors.numpy(), strict=True):
        refused = name in REFUSED or name == "tiff"  # Only Pillow reads TIFF.
        assert error == (UNREADABLE if refused else FINE), name
        if error == FINE:
            pixels = expected(tf.constant(files[name]))
            np.testing.assert_allclose(image, pixels, atol=1e-3, err_msg=name)
