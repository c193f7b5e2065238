"""What decoding an image file costs, read from its headers before it is decoded.

A small file can make a decoder work for minutes or allocate gigabytes: thousands of scans
in a JPEG, frames in a GIF, compressed text in a PNG. `bounded` estimates the work of a
file in pixels and removes the parts that an export decodes for nothing.

Reference: ITU-T T.81 (JPEG), RFC 2083 (PNG), the GIF89a specification, RFC 9649 (WebP).
"""

import dataclasses
import re
import struct
import zlib

import numpy as np

# The decoder needs about as long for this many scans of a JPEG as for its pixels.
_FREE_SCANS = 16
_MAX_SCANS = 100
# Segments, chunks and blocks that are walked over; a real image has far fewer.
_MAX_PARTS = 20_000
# Chunks that a decoder inflates or stores, although they change no pixel.
_TEXT_CHUNKS = {b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"sPLT"}
# Pixels above which every export refuses a PNG by its header.
_MAX_INFLATED = 2**27
_STEP = 2**18  # Bytes.
# Blocks of a GIF that count as one part; they have 255 bytes at most.
_BLOCKS = 50
# A GIF is decoded up to its first frame, but an endless animation is no image.
_FRAMES_SHARE = 8

# Every marker of a JPEG except padding and those inside entropy-coded data.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]", re.DOTALL)
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9

# A header that every export refuses as too large without decoding it.
_TOO_LARGE = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + 2 * struct.pack(">I", 2**31 - 1) + b"\x08\2"
)
_UNREADABLE = b""


class UnboundedError(ValueError):
    """An image file is built so that decoding it costs more than its pixels."""


@dataclasses.dataclass(frozen=True)
class Files:
    """The inputs of a request, with image files that are safe to decode.

    Args:
        inputs: arrays by name.
        work: for each instance, see `bounded`.
        reasons: why a file was replaced by one that every export refuses, by instance.
    """

    inputs: dict[str, np.ndarray]
    work: list[int]
    reasons: dict[int, str]


def read_files(inputs: dict[str, np.ndarray], max_work: int) -> Files:
    """Bound the work of all image files among the inputs of a request.

    Args:
        inputs: arrays by name; image files are strings of shape `(b,)`.
        max_work: int, the most work of one file.
    """
    work, reasons = [0] * len(next(iter(inputs.values()))), {}
    inputs = dict(inputs)
    for name, array in inputs.items():
        if array.dtype != object or array.ndim != 1:
            continue
        inputs[name] = files = array.copy()
        for i, content in enumerate(array):
            try:
                content, pixels = bounded(content)
            except UnboundedError as error:
                content, pixels, reasons[i] = _UNREADABLE, 0, str(error)
            if pixels > max_work:
                content, pixels = _TOO_LARGE, 0
            files[i] = content
            work[i] += pixels
    return Files(inputs, work, reasons)


def bounded(content: bytes) -> tuple[bytes, int]:
    """Return a file with the same pixels and the work of decoding it.

    Args:
        content: bytes, a JPEG, PNG, GIF, WebP or BMP file; any other is left as it is.

    Returns:
        `(content, work)`: the file without parts that do not change its first image, and
        the number of pixels whose decoding takes about as long; 0 for what is no image.

    Raises:
        UnboundedError: it has more scans or parts than an image needs.
    """
    for start, read in _FORMATS.items():
        if content.startswith(start):
            try:
                return read(content)
            except (IndexError, struct.error):  # Ends too soon: for the decoder to say.
                return content, 0
    return content, 0


def _jpeg(content):
    area = scans = position = parts = 0
    while match := _MARKER.search(content, position):
        marker, position = content[match.start() + 1], match.end()
        if marker == _END_OF_IMAGE:
            break
        if marker in _START_OF_FRAME:
            height, width, components = struct.unpack_from(">HHB", content, position + 3)
            area = max(area, height * width)
            if components > 4:
                raise UnboundedError(f"has {components} color components; 4 at most")
        scans += marker == _START_OF_SCAN
        parts += 1
        if scans > _MAX_SCANS:
            raise UnboundedError(f"has more than {_MAX_SCANS} scans; save it with fewer")
        _check_parts(parts)
        if position + 2 > len(content):
            break
        position += max(2, struct.unpack_from(">H", content, position)[0])
    return content, area * max(_FREE_SCANS, scans) // _FREE_SCANS


def _png(content):
    width, height = struct.unpack_from(">II", content, 16)
    kept, pixels = [content[:8]], []
    position, parts = 8, 0
    while position + 8 <= len(content):
        (length,) = struct.unpack_from(">I", content, position)
        kind, end = content[position + 4 : position + 8], position + 12 + length
        if kind not in _TEXT_CHUNKS:
            kept.append(content[position:end])
        if kind == b"IDAT":
            pixels.append(content[position + 8 : end - 4])
        position = end
        if kind == b"IEND":
            break
        parts += 1
        _check_parts(parts)
    if width * height <= _MAX_INFLATED:
        # 8 bytes a pixel at most, and a byte a row.
        _check_inflated(b"".join(pixels), 8 * width * height + 8 * height)
    return b"".join(kept), width * height


def _check_inflated(compressed, most):
    """Refuse compressed pixels that inflate to more than `most` bytes.

    The decoder would inflate all of them after the last row, 1000 times their size.
    """
    inflate = zlib.decompressobj()
    size = 0
    try:
        while compressed and not inflate.eof:
            size += len(inflate.decompress(compressed, _STEP))
            compressed = inflate.unconsumed_tail
            if size > most + _STEP:
                raise UnboundedError("has more pixels than its header says")
    except zlib.error:
        pass  # Damage is for the decoder to report.


def _gif(content):
    parts = 0

    def after_blocks(position):
        nonlocal parts
        while size := content[position]:
            position += size + 1
            parts += 1
            _check_parts(parts // _BLOCKS)
        return position + 1

    def after_colors(flags, position):
        return position + (3 << (flags % 8 + 1) if flags & 0x80 else 0)

    width, height, flags = struct.unpack_from("<HHB", content, 6)
    position, first = after_colors(flags, 13), None
    work = total = 0
    larger = False
    try:
        while content[position] != 0x3B:
            if content[position] == 0x21:
                position = after_blocks(position + 2)
                continue
            if content[position] != 0x2C:
                break
            w, h, flags = struct.unpack_from("<HHB", content, position + 5)
            position = after_blocks(after_colors(flags, position + 10) + 1)
            if first is None:
                # The decoder makes room for the frame, whatever the header says.
                width, height = max(w, width), max(h, height)
                work = width * height
                size = struct.pack("<HH", width, height)
                first = content[:6] + size + content[10:position] + b"\x3b"
            elif w > width or h > height:
                larger = True  # The decoder pads the first frame to the largest.
            total += w * h
    except (IndexError, struct.error):
        pass  # Damage after the first frame does not matter.
    if first is None or larger:
        return content, max(width * height, total)
    return first, max(work, total // _FRAMES_SHARE)


def _webp(content):
    kind = content[12:16]
    if content[8:12] != b"WEBP":
        return content, 0
    if kind == b"VP8X":
        width, height = (
            int.from_bytes(content[i : i + 3], "little") + 1 for i in (24, 27)
        )
    elif kind == b"VP8L":
        bits = int.from_bytes(content[21:25], "little")
        width, height = bits % 2**14 + 1, (bits >> 14) % 2**14 + 1
    else:
        width, height = (side % 2**14 for side in struct.unpack_from("<HH", content, 26))
    return content, width * height


def _bmp(content):
    width, height = struct.unpack_from("<ii", content, 18)
    # A BMP that can be decoded is as large as its pixels.
    return content, min(abs(width) * abs(height), len(content))


def _check_parts(parts):
    if parts > _MAX_PARTS:
        raise UnboundedError(f"has more than {_MAX_PARTS} parts; save it again")


_FORMATS = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG": _png,
    b"GIF8": _gif,
    b"RIFF": _webp,
    b"BM": _bmp,
}
