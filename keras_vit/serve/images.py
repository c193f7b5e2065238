"""Cost of decoding an image file, estimated from its headers.

A small file can make a decoder work for minutes or allocate gigabytes: thousands of scans
in a JPEG, frames in a GIF, compressed text in a PNG. `bounded` estimates the cost of a
file in pixels and removes the parts that are decoded but do not change the image.

Reference: ITU-T T.81 (JPEG), RFC 2083 (PNG), the GIF89a specification, RFC 9649 (WebP).
"""

import dataclasses
import re
import struct
import zlib
from collections.abc import Callable

import numpy as np

# Decoding this many scans of a JPEG takes about as long as decoding its pixels.
_FREE_SCANS = 16
_MAX_SCANS = 100
# Limit on the segments, chunks or blocks of a file; real images have far fewer.
_MAX_PARTS = 20_000
# PNG chunks that a decoder inflates or stores although they do not affect the pixels.
_TEXT_CHUNKS = {b"zTXt", b"iTXt", b"tEXt", b"iCCP", b"sPLT"}
# Exported models reject a PNG with more pixels than this from its header alone.
_MAX_INFLATED = 2**27
_STEP = 2**18  # Bytes that are inflated at a time.
# Number of GIF blocks that count as one part; a block has at most 255 bytes.
_BLOCKS = 50
# Only the first frame of a GIF is decoded. The other frames count with this fraction of
# their pixels, so that a very long animation is still rejected.
_FRAMES_SHARE = 8

# Matches every JPEG marker except padding and the markers in entropy-coded data.
_MARKER = re.compile(rb"\xff[^\x00\x01\xff\xd0-\xd8]", re.DOTALL)
_START_OF_FRAME = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9

# A PNG header with such large dimensions that every exported model rejects it unread.
_TOO_LARGE = (
    b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + 2 * struct.pack(">I", 2**31 - 1) + b"\x08\2"
)
_UNREADABLE = b""


class UnboundedError(ValueError):
    """Error for an image file whose structure makes it unreasonably costly to decode."""


@dataclasses.dataclass(frozen=True)
class Files:
    """The inputs of a request, with image files that are safe to decode.

    Args:
        inputs: dict of arrays.
        work: cost of decoding each instance, in pixels; see `bounded`.
        reasons: dict from the index of an instance to the reason why its file was
            replaced by one that every exported model rejects.
    """

    inputs: dict[str, np.ndarray]
    work: list[int]
    reasons: dict[int, str]


def read_files(inputs: dict[str, np.ndarray], max_work: int) -> Files:
    """Limit the cost of decoding each image file among the inputs of a request.

    Args:
        inputs: dict of arrays; image files are strings of shape `(b,)`.
        max_work: int, largest cost of one file, in pixels. Files that exceed it are
            replaced by one that exported models reject as too large.

    Returns:
        A `Files`.
    """
    work, reasons = [0] * len(next(iter(inputs.values()))), {}
    inputs = dict(inputs)
    for name, array in inputs.items():
        if array.dtype != object or array.ndim != 1:
            continue
        inputs[name] = files = array.copy()
        for i, content in enumerate(array):
            try:
                content, pixels = bounded(content, max_work - sum(work))
            except UnboundedError as error:
                content, pixels, reasons[i] = _UNREADABLE, 0, str(error)
            if pixels > max_work:
                content, pixels = _TOO_LARGE, 0
            files[i] = content
            work[i] += pixels
    return Files(inputs, work, reasons)


def png_pixels(inputs: dict[str, np.ndarray]) -> int:
    """Return the number of pixels of all PNGs among inputs, by their headers.

    Args:
        inputs: as for `read_files`.
    """
    files = (x for array in inputs.values() if array.dtype == object for x in array.flat)
    sizes = (struct.unpack_from(">II", x, 16) for x in files if _is_png(x))
    return sum(width * height for width, height in sizes)


def _is_png(content):
    return isinstance(content, bytes) and content[:4] == b"\x89PNG" and len(content) > 24


def bounded(content: bytes, max_inflated: int = _MAX_INFLATED) -> tuple[bytes, int]:
    """Return a file with the same pixels, and the cost of decoding it.

    Args:
        content: bytes, a JPEG, PNG, GIF, WebP or BMP file. Other content is returned
            unchanged.
        max_inflated: int, largest number of pixels of a PNG whose data are inflated to
            verify their size. A PNG with more pixels must not be decoded.

    Returns:
        `(content, work)`: the file without the parts that do not change its first image,
        and the number of pixels that take about as long to decode. `work` is 0 if the
        content is not an image.

    Raises:
        UnboundedError: the file has more scans or parts than an image needs, or more
            pixel data than its header states.
    """
    for start, read in _FORMATS.items():
        if content.startswith(start):
            try:
                return read(content, max_inflated) if read is _png else read(content)
            except (IndexError, struct.error):  # The decoder reports truncated files.
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
                raise UnboundedError(f"has {components} color components; at most 4 work")
        scans += marker == _START_OF_SCAN
        parts += 1
        if scans > _MAX_SCANS:
            raise UnboundedError(f"has more than {_MAX_SCANS} scans; save it with fewer")
        _check_parts(parts)
        if position + 2 > len(content):
            break
        position += max(2, struct.unpack_from(">H", content, position)[0])
    return content, area * max(_FREE_SCANS, scans) // _FREE_SCANS


def _png(content, max_inflated):
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
    if width * height <= max_inflated:
        # A pixel has at most 8 bytes, and each row one filter byte. 8 bytes per row
        # allow for the additional rows of interlaced images.
        _check_inflated(b"".join(pixels), 8 * width * height + 8 * height)
    return b"".join(kept), width * height


def _check_inflated(compressed, most):
    """Raise UnboundedError if the pixel data inflate to more than `most` bytes.

    Otherwise the decoder would inflate everything that follows the last row, up to 1000
    times its compressed size.
    """
    inflate = zlib.decompressobj()
    size = 0
    try:
        while compressed and not inflate.eof:
            size += len(inflate.decompress(compressed, _STEP))
            compressed = inflate.unconsumed_tail
            if size > most + _STEP:
                raise UnboundedError("has more pixels than its header states")
    except zlib.error:
        pass  # The decoder reports damaged data.


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
                # The decoder allocates the whole frame even if it exceeds the header.
                width, height = max(w, width), max(h, height)
                work = width * height
                size = struct.pack("<HH", width, height)
                first = content[:6] + size + content[10:position] + b"\x3b"
            elif w > width or h > height:
                larger = True  # The decoder pads the first frame to the largest one.
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
    # A valid BMP has at least one byte per pixel, whatever its header states.
    return content, min(abs(width) * abs(height), len(content))


def _check_parts(parts):
    if parts > _MAX_PARTS:
        raise UnboundedError(f"has more than {_MAX_PARTS} parts; save it again")


_FORMATS: dict[bytes, Callable[..., tuple[bytes, int]]] = {
    b"\xff\xd8\xff": _jpeg,
    b"\x89PNG": _png,
    b"GIF8": _gif,
    b"RIFF": _webp,
    b"BM": _bmp,
}
