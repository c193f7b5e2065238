"""Feature maps of one photograph after early, middle and late blocks of some models.

python -m recipes.feature_maps MODEL [MODEL ...] [--image PHOTO] [--output PNG]

MODEL is anything that `keras_vit.load_checkpoint` reads, or the name of a constructor of
keras_vit, such as ViTS16, for random weights. The default image is scikit-learn's
photograph of a flower.

Reference: T2T-ViT (arXiv:2101.11986) figure 2.
"""

import argparse
import pathlib
import sys

import keras
import numpy as np

import keras_vit
from keras_vit.data.decoding import decode_pixels, reason
from keras_vit.data.host import tensorflow
from keras_vit.training import pictures


def main():
    arguments = parse_arguments()
    image = photograph(arguments.image)
    columns = {}
    for name in arguments.models:
        print(f"{name}: loading ...", flush=True)
        model = open_model(name)
        maps = feature_maps(model, image, arguments.channels)
        for layer, values in maps.items():
            rows, channels = values.shape[0], values.shape[-1]
            print(
                f"  {layer}: {rows}x{values.shape[1]} tokens, {channels} channels shown"
            )
        columns[name] = maps
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    pictures.feature_maps(image, columns, arguments.output)
    print(f"picture: {arguments.output}")


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument("--image", type=pathlib.Path, help="JPEG, PNG, BMP, GIF or WebP")
    parser.add_argument("--channels", type=int, default=16, help="default: %(default)s")
    parser.add_argument(
        "--output", type=pathlib.Path, default=pathlib.Path("runs", "feature_maps.png")
    )
    arguments = parser.parse_args()
    if arguments.channels < 1:
        parser.error(f"--channels must be 1 or more; received {arguments.channels}.")
    if arguments.image is not None and not arguments.image.is_file():
        parser.error(f"no image at {arguments.image}")
    return arguments


def photograph(path):
    """Return the pixels of an image file, or of the default image, `(h, w, 3)` uint8."""
    if path is None:
        from sklearn.datasets import load_sample_image

        return load_sample_image("flower.jpg")
    tf = tensorflow()
    try:
        return decode_pixels(tf.constant(path.read_bytes()), 3).numpy()
    except tf.errors.InvalidArgumentError as error:
        sys.exit(f"{path} cannot be read: {reason(error)}")


def open_model(name):
    if hasattr(keras_vit, name):
        keras.utils.set_random_seed(0)
        return getattr(keras_vit, name)()
    try:
        return keras_vit.load_checkpoint(name)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"{name}: {error}")


def feature_maps(
    model: keras.Model, image: np.ndarray, channels: int
) -> dict[str, np.ndarray]:
    """Compute the feature maps with the largest variance after three blocks of a model.

    Args:
        model: a `keras_vit` model.
        image: `(h, w, 3)`, pixel values 0 to 255.
        channels: int, number of channels; all channels if a block has fewer.

    Returns:
        Dict from the names of the first, the middle and the last block to arrays `(gh,
        gw, channels)`, in which each channel is scaled to the range 0 to 1.
    """
    names = [layer.name for layer in model.layers if layer.name.startswith("block_")]
    pixels = image if model.input_shape[-1] == 3 else image.mean(-1, keepdims=True)
    inputs = model.preprocessor(pixels[None].astype("float32"))
    maps = {}
    for block in dict.fromkeys([0, len(names) // 2, len(names) - 1]):
        (shown,) = keras_vit.visualize.feature_channels(model, inputs, block, channels)
        maps[names[block]] = np.moveaxis(shown, 0, -1)
    return maps


if __name__ == "__main__":
    main()
