"""Tiny image files in many layouts of each format."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

COARSE = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype("uint8")
PICTURE = Image.fromarray(COARSE).resize((32, 48), Image.Resampling.BICUBIC)
GRAY = PICTURE.convert("L")
CLEAR = PICTURE.copy()
CLEAR.putalpha(GRAY)


def save(kind, image=PICTURE, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def tiff(orientation, order="<", code="H"):
    """Return EXIF data with an orientation of type SHORT (`H`) or LONG (`I`)."""
    kind, value = {"H": 3, "I": 4}[code], struct.pack(order + code, orientation)
    entry = struct.pack(order + "HHI", 0x112, kind, 1) + value.ljust(4, b"\0")
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HIH", 42, 8, 1) + entry + bytes(4)


def segment(marker, data):
    return struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data


def jpegs():
    plain, cmyk = save("JPEG", subsampling=0), save("JPEG", PICTURE.convert("CMYK"))

    def exif(data, *before):
        other = b"".join(segment(marker, text) for marker, text in before)
        return b"\xff\xd8" + other + segment(0xE1, b"Exif\0\0" + data) + plain[2:]

    def sampled(subsampling, factors, height, width):
        # Pillow cannot write this sampling, but reinterpreting the same blocks gives it.
        file = bytearray(save("JPEG", subsampling=subsampling))
        frame = file.index(b"\xff\xc0")
        file[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
        file[frame + 11] = factors
        return bytes(file)

    adobe = cmyk.index(b"Adobe")
    others = [(0xE0, b"JFIF\0\1\1" + bytes(7)), (0xE2, b"ICC_PROFILE\0\1\1"), (0xED, b"")]
    return {
        "jpeg 4:4:4": plain,
        "jpeg 4:2:2": save("JPEG", subsampling=1),
        "jpeg 4:2:0": save("JPEG", PICTURE.resize((31, 47)), subsampling=2),
        "jpeg 4:4:0": sampled(1, 0x12, 96, 16),
        "jpeg 4:1:1": sampled(2, 0x41, 24, 64),
        "jpeg 4:1:0": sampled(2, 0x14, 96, 16),
        "jpeg gray": save("JPEG", GRAY),
        "jpeg rgb": save("JPEG", keep_rgb=True),
        "jpeg progressive": save("JPEG", progressive=True),
        "jpeg cmyk": cmyk,
        "jpeg ycck": cmyk[: adobe + 11] + b"\2" + cmyk[adobe + 12 :],
        "jpeg cmyk without a marker": cmyk[: adobe - 4] + cmyk[adobe + 12 :],
        "jpeg exif": exif(tiff(6)),
        "jpeg exif of big endian": exif(tiff(6, ">")),
        "jpeg exif with LONG": exif(tiff(6, ">", "I")),
        "jpeg exif after others": exif(tiff(5), *others),
        "mpo": save("MPO", save_all=True, append_images=[PICTURE.rotate(180)]),
        "mpo exif": save("MPO", save_all=True, append_images=[GRAY], exif=tiff(6)),
    }


def chunk(kind, data):
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)


def png(bits, kind, rows, *chunks, interlaced=0):
    """Return a PNG with a width of 8 pixels, given the bytes of its rows."""
    size = interlaced or (8, len(rows))
    header = struct.pack(">IIBBBBB", *size, bits, kind, 0, 0, bool(interlaced))
    data = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def interlaced(image):
    pixels = np.atleast_3d(np.asarray(image))
    steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2))
    steps += ((0, 1, 2, 2), (1, 0, 2, 1))
    passes = [pixels[y::down, x::right] for y, x, down, right in steps]
    rows = [row.tobytes() for part in passes for row in part if part.size]
    return png(8, {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]], rows, interlaced=image.size)


def packed(values, bits):
    if bits == 16:
        return values.astype(">u2").tobytes()
    places = np.arange(bits - 1, -1, -1)
    return np.packbits((values[:, None] >> places & 1).astype("uint8")).tobytes()


def pngs():
    draw = np.random.default_rng(1)
    plain = save("PNG")
    start = plain.index(b"IDAT") - 4
    moving = {"save_all": True, "append_images": [PICTURE.rotate(180)]}
    files = {
        "png exif first": plain[:start] + chunk(b"eXIf", tiff(6)) + plain[start:],
        "png exif last": plain[:-12] + chunk(b"eXIf", tiff(8)) + plain[-12:],
        "png animated": save("PNG", **moving),
        "png animated with another image": save("PNG", **moving, default_image=True),
        "png gray alpha": save("PNG", CLEAR.convert("LA")),
        "png interlaced": interlaced(PICTURE),
        "png interlaced gray": interlaced(GRAY),
        "png interlaced gray alpha": interlaced(CLEAR.convert("LA")),
        "png interlaced alpha": interlaced(CLEAR),
        "png interlaced 3x3": interlaced(PICTURE.resize((3, 3))),
        "png one transparent color": png(
            8, 2, [bytes(range(24))] * 6, (b"tRNS", b"\0\0\0\1\0\2")
        ),
    }  # fmt: skip
    for bits in (1, 2, 4, 8, 16):
        values = draw.integers(0, 2**bits, (6, 8))
        rows = [packed(row, bits) for row in values]
        clear = (b"tRNS", struct.pack(">H", values[0, 0]))
        files[f"png gray of {bits} bits"] = png(bits, 0, rows)
        files[f"png transparent gray of {bits} bits"] = png(bits, 0, rows, clear)
        if bits < 16:
            colors = (b"PLTE", draw.bytes(3 * 2**bits))
            clear = (b"tRNS", draw.bytes(2**bits))
            files[f"png palette of {bits} bits"] = png(bits, 3, rows, colors)
            files[f"png transparent palette of {bits} bits"] = png(
                bits, 3, rows, colors, clear
            )
    for kind, channels in ((2, 3), (4, 2), (6, 4)):
        values = draw.integers(0, 2**16, (6, 8 * channels))
        rows = [packed(row, 16) for row in values]
        files[f"png of 16 bits, {channels} channels"] = png(16, kind, rows)
    return files


def webps():
    moving = {"save_all": True, "append_images": [PICTURE.rotate(180)]}
    return {
        "webp": save("WEBP"),
        "webp alpha": save("WEBP", CLEAR),
        "webp lossless exif": save("WEBP", lossless=True, exif=tiff(6)),
        "webp lossless alpha exif": save(
            "WEBP", CLEAR, lossless=True, exact=True, exif=tiff(8, ">")
        ),
        "webp animated": save("WEBP", **moving),
    }


def bmp(bits, compression, data, height=6, header=40, masks=(), palette=b""):
    """Return a BMP with a width of 8 pixels."""
    fields = (header, 8, height, 1, bits, compression, len(data), 0, 0, 0, 0)
    head = struct.pack("<IiiHHIIiiII", *fields) + struct.pack(f"<{len(masks)}I", *masks)
    head = head.ljust(header, b"\0") + palette
    start = 14 + len(head)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + head + data


def bmps():
    draw = np.random.default_rng(2)
    colors, masks = draw.bytes(1024), (0xFF0000, 0xFF00, 0xFF)
    old = struct.pack("<IHHHH", 12, 8, 6, 1, 24) + draw.bytes(144)
    lines = [b"\x08" + draw.bytes(1) + b"\0\0" for _ in range(6)]
    return {
        "bmp of 24 bits": bmp(24, 0, draw.bytes(144)),
        "bmp from the top": bmp(24, 0, draw.bytes(144), height=-6),
        "bmp of version 5": bmp(24, 0, draw.bytes(144), header=124),
        "bmp of 32 bits": bmp(32, 0, draw.bytes(192)),
        "bmp of 32 bits from the top": bmp(32, 0, draw.bytes(192), height=-6),
        "bmp with masks": bmp(32, 3, draw.bytes(192), masks=masks),
        "bmp with alpha": bmp(
            32, 3, draw.bytes(192), header=124, masks=(*masks, 0xFF000000)
        ),
        "bmp of red, green, blue": bmp(32, 3, draw.bytes(192), masks=masks[::-1]),
        "bmp of 15 bits": bmp(16, 0, draw.bytes(96)),
        "bmp of 16 bits": bmp(16, 3, draw.bytes(96), masks=(0xF800, 0x7E0, 0x1F)),
        "bmp of 8 bits": bmp(8, 0, draw.bytes(48), palette=colors),
        "bmp of 1 bit": bmp(1, 0, draw.bytes(24), palette=colors[:8]),
        "bmp RLE8": bmp(8, 1, b"".join(lines) + b"\0\1", palette=colors),
        "bmp RLE4": bmp(4, 2, b"".join(lines) + b"\0\1", palette=colors[:64]),
        "bmp of OS/2": b"BM" + struct.pack("<IHHI", 170, 0, 0, 26) + old,
    }


def all_files():
    others = {
        "gif": save("GIF"),
        "gif interlaced": save("GIF", PICTURE.quantize(8), interlace=1),
        "tiff": save("TIFF"),
        "jpeg after a byte": b"\0" + save("JPEG"),
    }
    return jpegs() | pngs() | webps() | bmps() | others
