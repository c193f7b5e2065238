import functools
import io
import struct
import zlib

import numpy as np
import pytest

from keras_vit.layers import Preprocessor

Image = pytest.importorskip("PIL.Image", reason="makes the pictures")
ImageOps = pytest.importorskip("PIL.ImageOps", reason="turns them upright")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

SIZE = (12, 16)
MAX_PIXELS = 5000
FINE, UNREADABLE, TOO_LARGE, WRONG_SIZE = range(4)


@pytest.fixture(scope="module")
def photograph():
    datasets = pytest.importorskip("sklearn.datasets", reason="has photographs")
    image = Image.fromarray(datasets.load_sample_image("flower.jpg"))
    return image.resize((60, 40))


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@functools.cache
def reader(channels, resizes, **crop):
    """Return a compiled function that reads files; tracing it takes a second."""
    import tensorflow as tf

    from keras_vit.export.image_bytes import read_images

    preprocessor = Preprocessor(
        mean=10.0,
        std=4.0,
        image_size=SIZE if resizes else None,
        **crop,
    )

    @tf.function(input_signature=[tf.TensorSpec([None], "string")])
    def run(contents):
        return read_images(contents, preprocessor, (*SIZE, channels), MAX_PIXELS)

    return run


def read(files, channels=3, resizes=True, **crop):
    import tensorflow as tf

    images, errors, _ = reader(channels, resizes, **crop)(tf.constant(files, tf.string))
    assert images.shape == (len(files), *SIZE, channels)
    return images.numpy(), errors.numpy().tolist()


def expected(file, mode, part=np.s_[:]):
    """Return the image as Pillow and NumPy decode and preprocess it."""
    import tensorflow as tf

    image = ImageOps.exif_transpose(Image.open(io.BytesIO(file)))
    pixels = np.asarray(image.convert(mode), "float32")
    pixels = pixels.reshape(*pixels.shape[:2], len(mode))
    return (tf.image.resize(pixels[part], SIZE).numpy() - 10) / 4


def orientation(number):
    exif = Image.Exif()
    exif[0x0112] = number
    return exif


def files_of_all_kinds(image):
    grey = image.convert("L")
    deep = Image.fromarray(np.asarray(grey).astype("uint16") * 257)
    clear = image.convert("RGBA")
    clear.putalpha(grey)
    return {
        "jpeg": encoded(image, "JPEG", quality=80),
        "jpeg_progressive": encoded(image, "JPEG", progressive=True, quality=95),
        "jpeg_grey": encoded(grey, "JPEG"),
        "jpeg_cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "jpeg_rotated": encoded(image, "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01"
                                b"\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
        "png_rotated": encoded(image, "PNG", exif=orientation(8)),
        "webp_mirrored": encoded(image, "WEBP", exif=orientation(5)),
        "png": encoded(image, "PNG"),
        "png_grey": encoded(grey, "PNG"),
        "png_16_bits": encoded(deep, "PNG"),
        "png_palette": encoded(image.convert("P"), "PNG"),
        "png_black_and_white": encoded(image.convert("1"), "PNG"),
        "png_alpha": encoded(clear, "PNG"),
        "png_grey_alpha": encoded(clear.convert("LA"), "PNG"),
        "gif": encoded(image, "GIF"),
        "gif_moving": encoded(image, "GIF", save_all=True, append_images=[grey]),
        "bmp": encoded(image, "BMP"),
        "bmp_32_bits": encoded(clear, "BMP"),
        "webp": encoded(image, "WEBP"),
        "webp_lossless": encoded(image, "WEBP", lossless=True),
    }  # fmt: skip


def gif_on_screen(image, size, corner=(0, 0), *frames):
    """Return a GIF with a given screen size whose first frame is at `corner`."""
    file = bytearray(encoded(image, "GIF", save_all=True, append_images=frames))
    file[6:10] = struct.pack("<HH", *size)
    frame = file.index(b"\x2c" + bytes(4) + struct.pack("<HH", *image.size))
    file[frame + 1 : frame + 5] = struct.pack("<HH", *corner)
    return bytes(file)


def transparent_files(image):
    palette, clear = image.quantize(16), image.convert("RGBA")
    clear.putalpha(image.convert("L"))
    return {
        "gif_transparent": encoded(palette, "GIF", transparency=3),
        "gif_comment": encoded(palette, "GIF", transparency=3, comment=b"abcd"),
        # A delay of 44 hundredths of a second is stored as a comma, the byte that also
        # starts a frame.
        "gif_moving_slowly": encoded(
            image, "GIF", save_all=True, append_images=[palette], duration=440, loop=0
        ),
        "gif_of_small_screen": gif_on_screen(image, (3, 3)),
        "png_transparent": encoded(palette, "PNG", transparency=bytes(range(256))),
        "webp_alpha": encoded(clear, "WEBP"),
        "webp_lossless_alpha": encoded(clear, "WEBP", lossless=True, exact=True),
    }


@pytest.mark.parametrize(
    ("mode", "tolerance"), [("RGB", 1e-4), pytest.param("L", 0.4, marks=pytest.mark.slow)]
)
def test_files_are_read_as_pillow_reads_them(photograph, mode, tolerance):
    files = files_of_all_kinds(photograph) | transparent_files(photograph)
    images, errors = read(list(files.values()), len(mode))
    assert dict(zip(files, errors, strict=True)) == dict.fromkeys(files, FINE)
    for name, image in zip(files, images, strict=True):
        file = "png_grey" if name == "png_16_bits" else name  # Pillow clips 16 bits.
        difference = np.abs(image - expected(files[file], mode)).max()
        assert difference <= tolerance, name


def chunk(kind, data):
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def hollow_png(height, width):
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99)))
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


def hollow_jpeg(image, height, width):
    file = bytearray(encoded(image, "JPEG"))
    start = file.index(b"\xff\xc0") + 5
    file[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(file)


def bmp_of_other_colors(image):
    pixels = np.dstack([np.asarray(image)[::-1], np.full((40, 60), 255, "uint8")])
    header = struct.pack("<IiiHHIIiiII", 108, 60, 40, 1, 32, 3, pixels.nbytes, 0, 0, 0, 0)
    masks = struct.pack("<IIII", 0xFF, 0xFF00, 0xFF0000, 0xFF000000) + bytes(52)
    file = struct.pack("<IHHI", 122 + pixels.nbytes, 0, 0, 122) + header + masks
    return b"BM" + file + pixels.tobytes()


def rle_bmp(image):
    file = bytearray(encoded(image, "BMP"))
    file[30] = 1
    return bytes(file)


def part_before_whole_gif(image):
    part = gif_on_screen(image.resize((9, 8)), image.size, (20, 10))
    frame = gif_on_screen(image, image.size)
    return part[:-1] + frame[frame.index(b"\x2c" + bytes(4)) :]


def test_what_cannot_be_read_gets_its_code_and_spoils_nothing(photograph):
    good = encoded(photograph, "JPEG")
    large = photograph.resize((90, 70))
    bad = {
        b"": UNREADABLE,
        b"\xff": UNREADABLE,
        b"\xff\xd8\xff": UNREADABLE,
        b"BM": UNREADABLE,
        b"\x89PNG\r\n\x1a\n": UNREADABLE,
        b"GIF89a": UNREADABLE,
        b"RIFF\0\0\0\0WEBPVP8 ": UNREADABLE,
        b"no image at all, but text": UNREADABLE,
        good[: len(good) // 2]: UNREADABLE,
        good[:-2] + b"\0": UNREADABLE,
        encoded(photograph, "PNG")[:-40]: UNREADABLE,
        encoded(photograph, "WEBP")[:-40]: UNREADABLE,
        encoded(photograph, "TIFF"): UNREADABLE,
        encoded(photograph.convert("P"), "BMP"): UNREADABLE,
        bmp_of_other_colors(photograph): UNREADABLE,
        rle_bmp(photograph): UNREADABLE,
        gif_on_screen(photograph, (70, 45)): UNREADABLE,
        gif_on_screen(photograph, (70, 5)): UNREADABLE,
        gif_on_screen(photograph, (60, 40), (2, 1)): UNREADABLE,
        part_before_whole_gif(photograph): UNREADABLE,
        encoded(photograph, "BMP").replace(b"\x28\0\0\0", b"\x0c\0\0\0"): UNREADABLE,
        encoded(
            photograph, "WEBP", save_all=True, append_images=[photograph.rotate(9)]
        ): UNREADABLE,
        hollow_png(0, 0): UNREADABLE,
        hollow_png(10, 10): UNREADABLE,
        hollow_png(60000, 60000): TOO_LARGE,
        hollow_png(2**31 - 1, 2**31 - 1): TOO_LARGE,
        hollow_jpeg(photograph, 65500, 65500): TOO_LARGE,
        gif_on_screen(large, (1, 1)): TOO_LARGE,
        encoded(large, "BMP"): TOO_LARGE,
        encoded(large, "PNG"): TOO_LARGE,
        encoded(large, "JPEG"): TOO_LARGE,
        encoded(large, "WEBP"): TOO_LARGE,
        encoded(large, "WEBP", lossless=True): TOO_LARGE,
        encoded(large, "WEBP", exif=b"Exif\0\0"): TOO_LARGE,
    }
    files = [good, *bad, good]
    images, errors = read(files)
    assert errors == [FINE, *bad.values(), FINE]
    for image in (images[0], images[-1]):
        np.testing.assert_allclose(image, expected(good, "RGB"), atol=1e-4)
    assert read(list(bad))[1] == list(bad.values())
    assert read([])[1] == []


@pytest.mark.slow
def test_a_narrow_image_is_too_large_where_it_is_cropped():
    narrow = encoded(Image.new("L", (1, 400)), "PNG")
    assert read([narrow])[1] == [FINE]
    assert read([narrow], crop_fraction=0.9)[1] == [TOO_LARGE]
    assert read([narrow], crop_to_aspect_ratio=True)[1] == [FINE]


def test_a_crop_before_the_resize(photograph):
    files = [encoded(photograph, "PNG"), encoded(photograph.rotate(90, expand=1), "PNG")]
    images, errors = read(files, crop_to_aspect_ratio=True)
    assert errors == [FINE, FINE]
    for file, image, part in zip(
        files, images, [np.s_[:, 3:56], np.s_[15:45]], strict=True
    ):
        np.testing.assert_allclose(image, expected(file, "RGB", part), atol=1e-4)


@pytest.mark.slow
def test_other_sizes_where_nothing_resizes(photograph):
    right = encoded(photograph.resize(SIZE[::-1]), "PNG")
    files = [right, encoded(photograph, "PNG"), encoded(photograph.resize(SIZE), "PNG")]
    images, errors = read(files, resizes=False)
    assert errors == [FINE, WRONG_SIZE, WRONG_SIZE]
    np.testing.assert_allclose(images[0], expected(right, "RGB"), atol=1e-5)


def test_damaged_files_never_spoil_a_batch(photograph):
    generator = np.random.default_rng(0)
    good = encoded(photograph, "PNG")
    files = [good]
    for file in files_of_all_kinds(photograph).values():
        for _ in range(20):
            damaged = np.frombuffer(file, "uint8").copy()
            where = generator.integers(0, len(file), 3)
            damaged[where] = generator.integers(0, 256, 3)
            cut = len(file) if generator.random() < 0.5 else where[0]
            files.append(damaged[:cut].tobytes())
    images, errors = read([*files, good])
    for image in (images[0], images[-1]):
        np.testing.assert_allclose(image, expected(good, "RGB"), atol=1e-4)
    assert errors[0] == errors[-1] == FINE
    assert 100 < errors.count(UNREADABLE) < 300
    assert np.isfinite(images).all()
