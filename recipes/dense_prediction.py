"""Parts that the recipes of segmentation and of detection share."""

import dataclasses
import sys
import time
from collections.abc import Callable
from typing import Any

import keras

import keras_vit
from keras_vit.data.host import tensorflow

# Random crops in training, as parts of the area and as width / height.
CROP_AREA, CROP_ASPECT = (0.5, 1.0), (0.8, 1.25)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Images with a mask or boxes each.

    Args:
        class_names: name of each class.
        num_examples: int, number of images.
        references: `tf.data.Dataset` of dicts.
        read: function for `tf.data.Dataset.map` from such a dict to an image `(h, w, 3)`,
            integers, and what belongs to it.
        flip: bool, whether a mirrored image keeps its classes; digits do not.
    """

    class_names: tuple[str, ...]
    num_examples: int
    references: Any
    read: Callable
    flip: bool = True


def mapped(examples, prepare, seed=None):
    """Return a data set of prepared examples, which are not in batches yet.

    Args:
        examples: the `Examples`.
        prepare: function of a reference and, in training, of the seed of its crop.
        seed: int, for training in random order; None for the order of the examples.
    """
    tf = tensorflow()
    references = examples.references
    if seed is not None:
        seeds = tf.data.Dataset.random(seed=seed, rerandomize_each_iteration=True)
        references = references.shuffle(min(examples.num_examples, 10_000), seed=seed)
        references = tf.data.Dataset.zip(references, seeds.batch(2))
    prepared = references.map(prepare, tf.data.AUTOTUNE)
    return prepared.apply(tf.data.experimental.assert_cardinality(examples.num_examples))


def check_class_names(arguments, train, test):
    """Raise a `ValueError` unless two sets have the same classes."""
    if test.class_names != train.class_names:
        raise ValueError(
            f"{arguments.data} has the classes {', '.join(train.class_names)}, and "
            f"{arguments.test_data} {', '.join(test.class_names)}: they must be the same."
        )


def load_backbone(arguments):
    """Return the model of `--checkpoint` without its head, for images of `--size`."""
    backbone = keras_vit.load_checkpoint(
        arguments.checkpoint,
        input_shape=(arguments.size, arguments.size, 3),
        include_top=False,
    )
    backbone.trainable = not arguments.freeze
    return backbone


def optimizer(train, batch_size, epochs, rate, **options):
    """Return AdamW with a warm-up and a cosine schedule.

    Args:
        train: the training set.
        batch_size: int.
        epochs: int.
        rate: float, the learning rate after the warm-up.
        **options: further arguments of AdamW.
    """
    steps = epochs * -(-train.num_examples // batch_size)
    warmup = max(1, steps // 20)
    schedule = keras.optimizers.schedules.CosineDecay(
        rate / 100, max(1, steps - warmup), warmup_target=rate, warmup_steps=warmup
    )
    return keras.optimizers.AdamW(schedule, weight_decay=1e-4, **options)


def trained(name, arguments, open_data, make_model, fit):
    """Train a model with the functions of a recipe, and save it in `--workdir`.

    Args:
        name: name of the recipe, for errors.
        arguments: the parsed arguments.
        open_data: function of them that returns the training and the test set.
        make_model: function of them and of the number of classes.
        fit: function of the model, the training set and the arguments that trains.

    Returns:
        The model as it was saved, and the test set.
    """
    keras.utils.set_random_seed(arguments.seed)
    try:
        train, test = open_data(arguments)
        model = make_model(arguments, len(train.class_names))
        arguments.workdir.mkdir(parents=True)
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"recipes.{name}: {error}")
    print(
        f"Backend: {keras.backend.backend()}. {train.num_examples} images for training, "
        f"{test.num_examples} for testing, {len(train.class_names)} classes."
    )
    start = time.monotonic()
    fit(model, train, arguments)
    print(f"Training took {time.monotonic() - start:.0f} s.")
    model.save(arguments.workdir / "model.keras")
    return keras.models.load_model(arguments.workdir / "model.keras"), test
