"""Images with masks for `recipes.segmentation`: folders, TFDS, and batches of both."""

import pathlib

import numpy as np
from PIL import Image

from keras_vit import data
from keras_vit.data import augment
from keras_vit.data.host import tensorflow
from recipes.dense_prediction import CROP_AREA, CROP_ASPECT, Examples, mapped

# Value of the pixels of a mask that count neither in training nor in evaluation.
IGNORED = 255


class MaskedImages(Examples):
    """Images with a mask each.

    Masks hold indices into `class_names`, or 255. `read` returns a mask `(h, w)` or
    `(h, w, 1)`, integers.
    """


def batches(examples, model, batch_size, seed=None):
    """Return batches of images and masks `(b, h, w)`, int32, of the model's size.

    With a `seed`, the batches are for training: the order is random, and image and mask
    are cropped and flipped alike. Images are resized without regard to their aspect
    ratio, and masks with the nearest pixel.
    """
    tf = tensorflow()
    size, classes = model.input_shape[1:3], len(examples.class_names)

    def prepare(example, crop_seed=None):
        image, mask = examples.read(example)
        mask = tf.cast(tf.reshape(mask, tf.shape(image)[:2]), "int32")
        good = tf.reduce_all((mask >= 0) & (mask < classes) | (mask == IGNORED))
        text = f"Masks must hold classes from 0 to {classes - 1}, or {IGNORED}; has"
        with tf.control_dependencies([tf.debugging.Assert(good, [text, mask])]):
            mask = mask[..., None]
        if crop_seed is not None:
            window = tf.unstack(
                augment.crop_window(tf.shape(image), CROP_AREA, CROP_ASPECT, crop_seed)
            )
            image = tf.image.crop_to_bounding_box(image, *window)
            mask = tf.image.crop_to_bounding_box(mask, *window)
        image = model.preprocessor(image)
        mask = tf.image.resize(mask, size, "nearest")
        if crop_seed is not None and examples.flip:
            mirrored = tf.random.stateless_uniform((), crop_seed + 1) < 0.5
            image = tf.where(mirrored, image[:, ::-1], image)
            mask = tf.where(mirrored, mask[:, ::-1], mask)
        return image, mask[..., 0]

    prepared = mapped(examples, prepare, seed)
    return prepared.batch(batch_size).prefetch(tf.data.AUTOTUNE)


def folder(path):
    """Open a folder with `images/`, `masks/` and `classes.txt`, and check every mask.

    An image and its mask have the same name except for the suffix. Masks are PNG files
    whose gray values or palette indices are classes; `classes.txt` names them in order.

    Raises:
        FileNotFoundError: a folder or `classes.txt` is missing.
        ValueError: an image has no mask or a mask no image, two files have the same
            name except for the suffix, or a mask has another size than its image, more
            than one channel, or values outside the classes.
    """
    path = pathlib.Path(path)
    names = path / "classes.txt"
    if not names.is_file():
        raise FileNotFoundError(
            f"{names} does not exist. Write a file with the name of each class on a line "
            "of its own, in the order of the values in the masks."
        )
    class_names = tuple(names.read_text().splitlines())
    images, masks = (_files_by_stem(path / part) for part in ("images", "masks"))
    for kind, other, these, those in (
        ("image", "masks", images, masks),
        ("mask", "images", masks, images),
    ):
        if alone := sorted(these.keys() - those.keys()):
            raise ValueError(
                f"{len(alone)} of {len(these)} {kind}s have no counterpart in "
                f"{path / other}, the first one is {these[alone[0]]}. Add a file called "
                f"{alone[0]} there, or remove the {kind}."
            )
    stems = sorted(images)
    for stem in stems:
        _check_mask(images[stem], masks[stem], class_names)
    tf = tensorflow()

    def read(files):
        pixels = data.decode_pixels(tf.io.read_file(files["image"]), 3)
        return pixels, tf.numpy_function(_mask_of, [files["mask"]], "uint8")

    files = {
        "image": [images[stem] for stem in stems],
        "mask": [masks[stem] for stem in stems],
    }
    references = tf.data.Dataset.from_tensor_slices(files)
    return MaskedImages(class_names, len(stems), references, read)


def _files_by_stem(folder):
    files, _ = data.image_files(folder)
    if not files:
        raise FileNotFoundError(f"{folder} does not exist or has no image files.")
    found: dict[str, str] = {}
    for file in files:
        stem = str(pathlib.Path(file).relative_to(folder).with_suffix(""))
        if stem in found:
            raise ValueError(
                f"{found[stem]} and {file} have the same name except for the suffix, "
                "which pairs images with masks: rename or remove one of them."
            )
        found[stem] = file
    return found


def _check_mask(image, mask, class_names):
    with Image.open(image) as picture:
        size = picture.size
        if picture.getexif().get(0x0112, 1) >= 5:  # Displayed upright, on its side.
            size = size[::-1]
    values = _mask_of(mask)
    if values.shape != size[::-1]:
        raise ValueError(
            f"{mask} has {values.shape[1]}x{values.shape[0]} pixels, and its image "
            f"{image} has {size[0]}x{size[1]}: make a mask of the size of the image."
        )
    wrong = np.setdiff1d(values, [*range(len(class_names)), IGNORED])
    if wrong.size:
        raise ValueError(
            f"{mask} has the value {wrong[0]}, and classes.txt names {len(class_names)} "
            f"classes: values must be 0 to {len(class_names) - 1}, or {IGNORED} for "
            "pixels to ignore. Correct the mask, or add the class."
        )


def _mask_of(file):
    """Return the gray values or palette indices of a mask, `(h, w)` uint8."""
    file = file.decode() if isinstance(file, bytes) else file
    with Image.open(file) as picture:
        if picture.mode not in ("L", "P"):
            raise ValueError(
                f"{file} has Pillow's mode {picture.mode!r}; a mask must have 8-bit gray "
                "values ('L') or a palette ('P'). Save class numbers, not colors."
            )
        return np.asarray(picture)


def tfds(name, data_dir=None, classes=None):
    """Open a set of TensorFlow Datasets with `image` and `segmentation_mask`.

    Args:
        name: `NAME[:SPLIT]`; the default split is `train`.
        data_dir: directory of TFDS, where the set is prepared; None for its default.
        classes: int, number of classes, for sets whose features do not state it.

    Raises:
        ValueError: the set has no such features, or `classes` is missing.
    """
    tensorflow()
    import tensorflow_datasets

    dataset, _, split = name.partition(":")
    builder = tensorflow_datasets.builder(dataset, data_dir=data_dir)
    features = builder.info.features
    if not {"image", "segmentation_mask"} <= set(features):
        raise ValueError(
            f"tfds:{dataset} is not a segmentation set: it needs the features 'image' "
            f"and 'segmentation_mask'; it has {', '.join(map(repr, features))}."
        )
    names = getattr(features["segmentation_mask"], "names", None)
    if not names and classes is None:
        raise ValueError(
            f"tfds:{dataset} does not state its classes: pass --classes, their number."
        )
    names = names or [f"class {index}" for index in range(classes)]
    split = split or "train"
    references = builder.as_dataset(split=split)
    return MaskedImages(
        tuple(names),
        builder.info.splits[split].num_examples,
        references,
        lambda example: (example["image"], example["segmentation_mask"]),
    )
