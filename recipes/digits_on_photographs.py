"""Handwritten digits pasted on photographs, with masks and boxes.

python -m recipes.digits_on_photographs DIRECTORY [--size PIXELS] [--photos FOLDER]

Writes the set as folders of PNG files: `DIRECTORY/train` and `DIRECTORY/test`, each with
`images/`, `masks/` and `classes.txt`. Both folders must be new.
"""

import argparse
import pathlib

import numpy as np
from PIL import Image

from keras_vit import data
from keras_vit.data import sources
from keras_vit.data.host import tensorflow
from recipes.detection_data import BoxedImages
from recipes.segmentation_data import MaskedImages

# Range of the side of a digit, as a part of the side of the image, and of the number of
# digits on an image. A stroke is then about as wide as a patch of 14 of 112 pixels.
SIDE, COUNT = (0.5, 0.8), (1, 2)
# Smallest difference of the mean pixel value of a digit and of what is behind it.
CONTRAST = 60
# Ink from which on a pixel belongs to the digit.
INK = 0.4


def digits(photos, count, size, part, seed=0):
    """Return digits on photographs with their masks.

    Args:
        photos: as for `paste`.
        count: as for `paste`.
        size: as for `paste`.
        part: as for `paste`.
        seed: as for `paste`.
    """
    arrays = paste(photos, count, size, part, seed)
    return MaskedImages(
        ("background", *map(str, range(10))),
        count,
        tensorflow().data.Dataset.from_tensor_slices(
            {name: arrays[name] for name in ("image", "mask")}
        ),
        lambda example: (example["image"], example["mask"]),
        flip=False,
    )


def boxed_digits(photos, count, size, part, seed=0):
    """Return digits on photographs with their boxes.

    Args:
        photos: as for `paste`.
        count: as for `paste`.
        size: as for `paste`.
        part: as for `paste`.
        seed: as for `paste`.
    """
    tf = tensorflow()
    arrays = paste(photos, count, size, part, seed)

    def read(example):
        boxes = example["boxes"]
        return example["image"], tf.boolean_mask(boxes, boxes[:, 4] >= 0)

    references = {name: arrays[name] for name in ("image", "boxes")}
    return BoxedImages(
        tuple(map(str, range(10))),
        count,
        tf.data.Dataset.from_tensor_slices(references),
        read,
        flip=False,
    )


def paste(photos, count, size, part, seed=0):
    """Paste random digits of scikit-learn on random crops of photographs.

    Training and test images have different digits and different photographs.

    Args:
        photos: folder of two photographs or more, or None for those of scikit-learn.
        count: int, number of images.
        size: int, side of the images in pixels.
        part: `"train"` or `"test"`.
        seed: int; the same arguments return the same images.

    Returns:
        Dict of `image` `(count, size, size, 3)` and `mask` `(count, size, size)`, uint8,
        where 0 is the background and `d + 1` the digit `d`; and `boxes` `(count, n, 5)`,
        float32: `y_min, x_min, y_max, x_max` as parts of the sides, and the digit. The
        box of a digit includes what another digit covers. Rows of -1 are padding.

    Raises:
        ValueError: there are fewer than two photographs.
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
    examples = [_pasted(pictures, images, labels, size, generator) for _ in range(count)]
    return {name: np.stack([e[name] for e in examples]) for name in examples[0]}


def _pasted(pictures, digit_images, labels, size, generator):
    """Return a crop of a photograph with digits on it, its mask and its boxes."""
    picture = pictures[generator.integers(len(pictures))]
    side = int(min(picture.size) * generator.uniform(0.5, 1.0))
    left, top = (int(generator.integers(0, s - side + 1)) for s in picture.size)
    box = (left, top, left + side, top + side)
    image = np.array(picture.resize((size, size), Image.Resampling.BICUBIC, box))
    mask = np.zeros((size, size), "uint8")
    boxes = np.full((COUNT[1], 5), -1, "float32")
    for number in range(generator.integers(COUNT[0], COUNT[1] + 1)):
        index = generator.integers(len(labels))
        side = int(size * generator.uniform(*SIDE))
        ink = Image.fromarray(digit_images[index, ..., 0].astype("uint8"))
        ink = np.asarray(ink.resize((side, side), Image.Resampling.BICUBIC)) / 255
        row, column = generator.integers(0, size - side + 1, 2)
        window = slice(row, row + side), slice(column, column + side)
        color = generator.uniform(0, 255, 3)
        while abs(color.mean() - image[window].mean()) < CONTRAST:
            color = generator.uniform(0, 255, 3)
        mixed = image[window] + ink[..., None] * (color - image[window])
        image[window] = mixed.astype("uint8")
        mask[window][ink > INK] = labels[index] + 1
        rows, columns = (np.nonzero((ink > INK).any(axis))[0] for axis in (1, 0))
        low, high = (rows[0], columns[0]), (rows[-1] + 1, columns[-1] + 1)
        corners = np.add([low, high], (row, column)) / size
        boxes[number] = [*corners.ravel(), labels[index]]
    return {"image": image, "mask": mask, "boxes": boxes}


def main(words=None):
    """Run the program.

    Args:
        words: command-line arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=pathlib.Path)
    parser.add_argument("--size", type=int, default=112)
    parser.add_argument("--images", type=int, default=400, help="for training")
    parser.add_argument("--photos", type=pathlib.Path)
    arguments = parser.parse_args(words)
    counts = {"train": arguments.images, "test": max(1, arguments.images // 4)}
    for part in counts:
        # Images of an earlier set would be mixed with the new ones.
        if (arguments.directory / part).exists():
            parser.error(
                f"{arguments.directory / part} exists; remove it, or choose another "
                "DIRECTORY."
            )
    for part, count in counts.items():
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
