import io
import struct
import warnings
import zlib

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image", reason="makes the pictures")
ImageOps = pytest.importorskip("PIL.ImageOps", reason="turns them upright")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

PICTURE = np.random.default_rng(0).integers(0, 256, (5, 7, 3)).astype("uint8")


def encoded(kind, exif=b"", **options):
    # With chroma subsampling, colors would differ at the borders of a window.
    options = {"subsampling": 0} if kind == "JPEG" else options
    file = io.BytesIO()
    Image.fromarray(PICTURE).save(file, kind, exif=exif, **options)
    return file.getvalue()


def tiff(orientation, order="<", kind=3, count=1, before=(), magic=42, thumbnail=0):
    """Return EXIF data with an orientation, other entries, and possibly a thumbnail."""
    header = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", magic, 8)
    value = struct.pack(
        order + ("HH" if kind in (3, 8) else "I"),
        orientation,
        *([0] if kind in (3, 8) else []),
    )
    own = struct.pack(order + "HHI", 0x0112, kind, count) + value
    first = struct.pack(order + "H", len(before) + 1) + b"".join(before) + own
    second = struct.pack(order + "HHHIHHI", 1, 0x0112, 3, 1, thumbnail, 0, 0)
    following = struct.pack(order + "I", 8 + len(first) + 4)
    return header + first + following + second


def segment(marker, data):
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data


def jpeg(*segments):
    return b"\xff\xd8" + b"".join(segments) + encoded("JPEG")[2:]


def exif(data):
    return segment(0xE1, b"Exif\0\0" + data)


def png(data, at_the_end=False):
    chunk = b"eXIf" + data
    chunk = struct.pack(">I", len(data)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    file = encoded("PNG")
    where = -12 if at_the_end else 33
    return file[:where] + chunk + file[where:]


def webp(data):
    return encoded("WEBP", data, lossless=True)


def turned(file):
    """Return the orientation (1 if the EXIF is unreadable) and the pixels by Pillow."""
    image = Image.open(io.BytesIO(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            orientation = image.getexif().get(0x0112, 1)
            image = ImageOps.exif_transpose(image)
        except (SyntaxError, struct.error):
            orientation = 1
    return orientation if orientation in range(1, 9) else 1, np.asarray(image)


def entry(tag, order="<"):
    return struct.pack(order + "HHII", tag, 4, 1, 9)


@pytest.fixture(scope="module")
def files():
    made = {}
    for name, write in {
        "jpeg": lambda t: jpeg(exif(t)),
        "png": png,
        "webp": webp,
    }.items():
        for number in range(1, 9):
            made[f"{name} {number}"] = write(tiff(number, "<" if number % 2 else ">"))
    later = [
        segment(0xE0, b"JFIF\0" + bytes(9)),
        segment(0xFE, b"Exif\0\0II*\0 comment"),
        segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0 Exif"),
    ]
    many = [segment(0xED, bytes(60000))] * 20
    others = [entry(tag, ">") for tag in range(0x100, 0x112)]
    return made | {
        "after others": jpeg(*later, exif(tiff(6))),
        "after many": jpeg(*many, exif(tiff(6))),
        "after fill bytes": jpeg(b"\xff\xff\xff", exif(tiff(6))),
        "first of two": jpeg(exif(tiff(6)), exif(tiff(3))),
        "at the end": png(tiff(6), at_the_end=True),
        "png with a prefix": png(b"Exif\0\0" + tiff(6)),
        "webp with alpha": encoded("WEBP", tiff(6)),
        "long": jpeg(exif(tiff(6, kind=4))),
        "long, big endian": jpeg(exif(tiff(6, ">", kind=4))),
        "signed": jpeg(exif(tiff(6, kind=8))),
        "two values": jpeg(exif(tiff(6, count=2))),
        "after other entries": jpeg(exif(tiff(6, ">", before=others))),
        "twice": jpeg(exif(tiff(6, before=[tiff(3)[10:22]]))),
        "thumbnail's": jpeg(exif(tiff(1, thumbnail=6))),
        "none but the thumbnail's": jpeg(
            exif(tiff(6, thumbnail=3).replace(b"\x12\1", b"\x13\1", 1))
        ),
        "0": jpeg(exif(tiff(0))),
        "9": jpeg(exif(tiff(9))),
        "large": jpeg(exif(tiff(6 + 2**16, kind=4))),
        "no value": jpeg(exif(tiff(6, count=0))),
        "text": jpeg(exif(tiff(6, kind=2))),
        "no magic": jpeg(exif(tiff(6, magic=41))),
        "no order": jpeg(exif(b"XX" + tiff(6)[2:])),
        "empty": jpeg(exif(b"")),
        "far away": jpeg(exif(tiff(6)[:4] + b"\xff\xff\xff\xff" + tiff(6)[8:])),
        "beyond the segment": jpeg(exif(tiff(6)[:4] + b"\x20\0\0\0"), exif(tiff(6))),
        "cut": jpeg(exif(tiff(6)[:20])),
        "webp without the flag": webp(tiff(6)).replace(
            b"VP8X\x0a\0\0\0\x08", b"VP8X\x0a\0\0\0\0"
        ),
        "after the pixels": encoded("JPEG") + exif(tiff(6)),
    }


def test_orientations_are_those_of_pillow(files):
    import tensorflow as tf

    from keras_vit.data.exif import orientations

    run = tf.function(orientations, input_signature=[tf.TensorSpec((None,), tf.string)])
    found = run(tf.constant(list(files.values()))).numpy()
    found = dict(zip(files, found.tolist(), strict=True))
    expected = {name: turned(file)[0] for name, file in files.items()}
    assert found == expected
    assert {found[f"{kind} 6"] for kind in ("jpeg", "png", "webp")} == {6}
    assert found["after many"] == found["at the end"] == 6
    assert run(tf.constant([], tf.string)).shape == (0,)
    # Damaged files give an orientation, not an error.
    generator = np.random.default_rng(0)
    damaged = [b"", b"\xff\xd8\xff", b"\x89PNG", b"RIFF\0\0\0\0WEBPVP8X" + bytes(9)]
    for file in files.values():
        for length in generator.integers(0, 80, 4):
            changed = np.frombuffer(file, "uint8").copy()
            changed[generator.integers(0, min(len(file), 80), 4)] = 255
            damaged += [file[:length], changed.tobytes()]
    found = run(tf.constant(damaged)).numpy()
    assert ((found >= 1) & (found <= 8)).all()


def test_pixels_and_windows_are_those_of_pillow(files):
    import tensorflow as tf

    from keras_vit.data.decoding import decode_pixels

    window = np.array([1, 2, 3, 2], "int32")

    @tf.function(input_signature=[tf.TensorSpec((), tf.string)], autograph=False)
    def run(content):
        whole = decode_pixels(content, 3)

        def box(shape):  # Windows refer to the upright image.
            return tf.where(tf.reduce_all(shape == tf.shape(whole)), window, 0)

        part = decode_pixels(content, 3, box)
        return whole, part, decode_pixels(content, 3, exif=False)

    for name, file in files.items():
        expected = turned(file)[1]
        whole, part, stored = (pixels.numpy() for pixels in run(tf.constant(file)))
        np.testing.assert_array_equal(whole, expected, name)
        np.testing.assert_array_equal(stored, Image.open(io.BytesIO(file)), name)
        np.testing.assert_array_equal(part, expected[1:4, 2:4], name)
