"""Segmentation set of handwritten digits pasted on photographs.

python -m recipes.digits_on_photographs DIRECTORY [--size PIXELS] [--photos FOLDER]

Writes the set as folders of PNG files: `DIRECTORY/train` and `DIRECTORY/test`, each with
`images/`, `masks/` and `classes.txt`.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from keras_vit import data
from keras_vit.data import sources
from keras_vit.data.host import tensorflow
from recipes.segmentation_data import MaskedImages


def digits(photos, count, size, part, seed=0):
    """Return random digits of scikit-learn, pasted on crops of photographs.

    Training and test images have different digits and different photographs.

    Args:
        photos: folder of two photographs or more, or None for those of scikit-learn.
        count: int, number of images.
        size: int, side of the images in pixels.
        part: `"train"` or `"test"`.
        seed: int; the same arguments return the same images.
    """
    if photos is None:
        from sklearn.datasets import load_sample_images

        pictures = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    else:
        pictures = [Image.open(f).convert("RGB") for f in data.image_files(photos)[0]]
    if len(pictures) < 2:
        raise ValueError(
            f"{photos} has {len(pictures)} photographs; the set needs two or more, since "
            "each fifth one is kept for testing."
        )
    pictures = [p for i, p in enumerate(pictures) if (i % 5 == 0) == (part == "test")]
    images, labels, _ = sources.digits()[part]
    generator = np.random.default_rng((seed, int(part == "test")))
    pairs = [_pasted(pictures, images, labels, size, generator) for _ in range(count)]
    arrays = (np.stack(arrays) for arrays in zip(*pairs, strict=True))
    return MaskedImages(
        ("background", *map(str, range(10))),
        count,
        tensorflow().data.Dataset.from_tensor_slices(
            dict(zip(("image", "mask"), arrays, strict=True))
        ),
        lambda example: (example["image"], example["mask"]),
        flip=False,
    )


def _pasted(pictures, digit_images, labels, size, generator):
    """Return a crop of a photograph with two to four digits on it, and its mask."""
    picture = pictures[generator.integers(len(pictures))]
    side = int(min(picture.size) * generator.uniform(0.5, 1.0))
    left, top = (int(generator.integers(0, s - side + 1)) for s in picture.size)
    box = (left, top, left + side, top + side)
    image = np.array(picture.resize((size, size), Image.Resampling.BICUBIC, box))
    mask = np.zeros((size, size), "uint8")
    for _ in range(generator.integers(2, 5)):
        index = generator.integers(len(labels))
        side = int(size * generator.uniform(0.35, 0.6))
        ink = Image.fromarray(digit_images[index, ..., 0].astype("uint8"))
        ink = np.asarray(ink.resize((side, side), Image.Resampling.BICUBIC)) / 255
        row, column = generator.integers(0, size - side + 1, 2)
        window = slice(row, row + side), slice(column, column + side)
        mixed = image[window] + ink[..., None] * (
            generator.uniform(0, 255, 3) - image[window]
        )
        image[window] = mixed.astype("uint8")
        mask[window][ink > 0.4] = labels[index] + 1
    return image, mask


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--images", type=int, default=400, help="for training")
    parser.add_argument("--photos", type=pathlib.Path)
    arguments = parser.parse_args()
    for part, count in (("train", arguments.images), ("test", arguments.images // 4)):
        examples = digits(arguments.photos, count, arguments.size, part)
        write(examples, arguments.directory / part)
        print(f"{count} images and masks: {arguments.directory / part}")


def write(examples, path):
    """Write images and masks as PNG files that `segmentation_data.folder` opens."""
    for number, example in enumerate(examples.references.as_numpy_iterator()):
        for part, pixels in example.items():
            (path / f"{part}s").mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path / f"{part}s" / f"{number:05}.png")
    (path / "classes.txt").write_text("\n".join(examples.class_names) + "\n")


if __name__ == "__main__":
    main()
