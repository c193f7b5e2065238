"""Evaluate a ViT on 10,007 images, in this process or in one of several, as JSON.

python -m tests.training.on_many_images ADDRESS PROCESSES PROCESS; an empty ADDRESS is for
a single process. It uses all devices, of which
XLA_FLAGS=--xla_force_host_platform_device_count=8 makes eight.
"""

import json
import sys

import jax
import keras
import numpy as np

from keras_vit import processes
from keras_vit.data import evaluation_batches
from keras_vit.data.in_memory import dataset_source
from keras_vit.training import distributed
from tests.cases import tiny_vit

IMAGES, CLASSES = 10_007, 20


def built():
    """Return a small ViT that is compiled with top-1 and top-5 accuracy."""
    keras.utils.set_random_seed(0)
    model = tiny_vit(
        input_shape=(8, 8, 1),
        patch_size=4,
        classes=CLASSES,
        classifier_activation=None,
    )
    random = np.random.default_rng(0)
    model.set_weights([random.normal(size=w.shape) for w in model.weights])
    model.compile(
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        weighted_metrics=[
            keras.metrics.SparseCategoricalAccuracy(name="top1"),
            keras.metrics.SparseTopKCategoricalAccuracy(5, name="top5"),
        ],
    )
    return model


def evaluated(model, source):
    """Return what `model.evaluate` returns for batches of 64."""
    data = evaluation_batches(source, model.preprocessor, 64)
    return model.evaluate(data, verbose=0, return_dict=True)


def main(address, count, process):
    """Print the results on all devices, and those on one, without padding."""
    random = np.random.default_rng(1)
    images = random.integers(0, 256, (IMAGES, 8, 8, 1), dtype="uint8")
    source = dataset_source("noise", (images, random.integers(CLASSES, size=IMAGES)))
    with processes.joined(address or None, int(count), int(process)):
        with distributed({"data": len(jax.devices())}):
            found = evaluated(built(), source)
        if processes.is_first():
            print(json.dumps({"all": found, "one": evaluated(built(), source)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
