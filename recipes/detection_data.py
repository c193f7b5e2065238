"""Images with boxes for `recipes.detection`: sets of TFDS, and batches."""

from keras_vit.data import augment
from keras_vit.data.host import tensorflow
from recipes.dense_prediction import CROP_AREA, CROP_ASPECT, Examples, mapped

# Smallest part of an object's area that a crop must show to keep the object.
VISIBLE = 0.5
# Rows of the boxes of a batch; a fixed number, for which programs are compiled once.
MAX_BOXES = 100


class BoxedImages(Examples):
    """Images with a list of boxes each.

    `read` returns boxes `(n, 5)`, float32: `y_min, x_min, y_max, x_max` as parts of the
    image's sides, and the class.
    """


def batches(examples, model, batch_size, seed=None):
    """Return batches of images and boxes `(b, 100, 5)`, in pixels, of the model's size.

    With a `seed`, the batches are for training: the order is random, and images are
    cropped and flipped. Images are resized without regard to their aspect ratio. Rows of
    -1 follow the boxes of an image, of which no more than 100 are used.
    """
    tf = tensorflow()
    height, width = model.input_shape[1:3]

    def prepare(example, crop_seed=None):
        image, boxes = examples.read(example)
        if crop_seed is not None:
            image, boxes = cropped(image, boxes, crop_seed)
        image = model.preprocessor(image)
        if crop_seed is not None and examples.flip:
            mirrored = tf.random.stateless_uniform((), crop_seed + 1) < 0.5
            image = tf.where(mirrored, image[:, ::-1], image)
            flipped = tf.gather(boxes, [0, 3, 2, 1, 4], axis=1) * [1, -1, 1, -1, 1]
            boxes = tf.where(mirrored, flipped + tf.constant([0.0, 1, 0, 1, 0]), boxes)
        return image, boxes[:MAX_BOXES] * [height, width, height, width, 1]

    shapes = ((height, width, 3), (MAX_BOXES, 5))
    prepared = mapped(examples, prepare, seed)
    prepared = prepared.padded_batch(batch_size, shapes, (0.0, -1.0))
    return prepared.prefetch(tf.data.AUTOTUNE)


def cropped(image, boxes, seed):
    """Crop an image and its boxes at random; objects that are mostly outside are lost."""
    tf = tensorflow()
    window = augment.crop_window(tf.shape(image), CROP_AREA, CROP_ASPECT, seed)
    sides = tf.cast(tf.shape(image)[:2], "float32")
    image = tf.image.crop_to_bounding_box(image, *tf.unstack(window))
    window = tf.cast(window, "float32")
    low, size = window[:2] / sides, window[2:] / sides
    corners = (tf.reshape(boxes[:, :4], (-1, 2, 2)) - low) / size
    inside = tf.clip_by_value(corners, 0.0, 1.0)
    area, visible = (
        tf.reduce_prod(c[:, 1] - c[:, 0], axis=-1) for c in (corners, inside)
    )
    boxes = tf.concat([tf.reshape(inside, (-1, 4)), boxes[:, 4:]], axis=-1)
    return image, tf.boolean_mask(boxes, visible > VISIBLE * area)


def tfds(name, data_dir=None):
    """Open a set of TensorFlow Datasets with `image` and `objects/bbox`, such as `voc`.

    Args:
        name: `NAME[:SPLIT]`; the default split is `train`.
        data_dir: directory of TFDS, where the set is prepared; None for its default.

    Raises:
        ValueError: the set has no such features.
    """
    tf = tensorflow()
    import tensorflow_datasets

    dataset, _, split = name.partition(":")
    builder = tensorflow_datasets.builder(dataset, data_dir=data_dir)
    features, split = builder.info.features, split or "train"
    objects = features["objects"].feature if "objects" in features else {}
    if "image" not in features or not {"bbox", "label"} <= set(objects):
        raise ValueError(
            f"tfds:{dataset} is not a detection set: it needs the features 'image', "
            "'objects/bbox' and 'objects/label'; it has "
            f"{', '.join(map(repr, [*features, *(f'objects/{o}' for o in objects)]))}."
        )

    def read(example):
        boxes, labels = (example["objects"][part] for part in ("bbox", "label"))
        labels = tf.cast(labels, "float32")[:, None]
        return example["image"], tf.concat([boxes, labels], axis=-1)

    return BoxedImages(
        tuple(objects["label"].names),
        builder.info.splits[split].num_examples,
        builder.as_dataset(split=split),
        read,
    )
