"""Warnings about images of 16 bits that use a small part of their range."""

import numpy as np

from keras_vit.training.host import tensorflow
from keras_vit.training.sources import Source

# Images of a source that are looked at.
_SAMPLE = 8
# Cameras of 12 bits reach a sixteenth of the range of 16 bits.
_DARK = 2**16 // 8


def warning(name: str, content: bytes) -> str | None:
    """Return a warning if a file is a PNG of 16 bits and almost black, else None.

    Args:
        name: how the warning names the file.
        content: the file.
    """
    tf = tensorflow()
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[24:25] != b"\x10":
        return None
    try:
        brightest = int(np.max(tf.io.decode_png(content, dtype=tf.uint16)))
    except tf.errors.OpError:  # Whoever decodes it says why.
        return None
    if brightest >= _DARK:
        return None
    return (
        f"warning: {name} has 16 bits, but no value above {brightest:,} of 65,535: the "
        "model sees it almost black. If its values have fewer bits (12 for many "
        "cameras), multiply those of all images by the same factor (16 for 12 bits) and "
        "save them again."
    )


def warn(source: Source) -> None:
    """Print a warning if one of the first images of a source is almost black.

    Args:
        source: images; only the files among them are looked at.
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
        pass  # The pipeline names what is damaged or gone.
