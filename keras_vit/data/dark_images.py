"""Warnings about 16-bit images that use only a small part of their range."""

import numpy as np

from keras_vit.data import other_formats
from keras_vit.data.host import tensorflow
from keras_vit.data.source import Source

# Number of images of a source that are checked.
_SAMPLE = 8
# Images are dark below this value. 12-bit cameras reach 1/16 of the 16-bit range.
_DARK = 2**16 // 8


def warning(name: str, content: bytes) -> str | None:
    """Return a warning if a file has 16 bits and is almost black, otherwise None.

    Args:
        name: name of the file in the warning.
        content: contents of the file.
    """
    brightest = _brightest(content)
    if brightest is None or brightest >= _DARK:
        return None
    return (
        f"warning: {name} has 16 bits, but no value above {brightest:,} of 65,535: the "
        "model sees it almost black. If its values have fewer bits (12 for many "
        "cameras), multiply those of all images by the same factor (16 for 12 bits) and "
        "save them again."
    )


def _brightest(content):
    """Return the largest value of a file of 16 bits, or None for all others."""
    tf = tensorflow()
    if content.startswith(other_formats.STARTS):
        return other_formats.brightest_of_16_bits(content)
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[24:25] != b"\x10":
        return None
    try:
        return int(np.max(tf.io.decode_png(content, dtype=tf.uint16)))
    except tf.errors.OpError:  # The pipeline reports unreadable images.
        return None


def warn(source: Source) -> None:
    """Print a warning if one of the first images of a source is almost black.

    Args:
        source: the images; sources of decoded pixels are not checked.
    """
    if not source.encoded:
        return
    try:
        for example in source.examples().take(_SAMPLE):
            name = f"{source.name}: {example['id'].numpy().decode(errors='replace')}"
            if text := warning(name, example["image"].numpy()):
                print(text, flush=True)
                return
    except tensorflow().errors.OpError:
        pass  # The pipeline reports damaged and missing files.
