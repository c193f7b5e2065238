"""Losses and metrics of `model.evaluate`, unaffected by the padding of batches."""

import os
import subprocess
import sys

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.data.pipeline import evaluation_batches
from keras_vit.data.sources import open_source
from keras_vit.layers import Preprocessor
from keras_vit.training import MaskedAutoencoder, MaskedPatchPrediction
from keras_vit.training.losses import SigmoidLoss
from keras_vit.training.objectives.classification import one_hot
from tests.cases import array, mostly_slow

pytestmark = pytest.mark.usefixtures("tensorflow")


@pytest.fixture(scope="module")
def source():
    return open_source("digits:test")


def softmax(logits, labels):
    """Return the cross-entropy of each row, with a label smoothing of 0.1."""
    targets = np.eye(10)[labels] * 0.9 + 0.01
    highest = logits.max(-1, keepdims=True)
    log_sum = np.log(np.exp(logits - highest).sum(-1, keepdims=True)) + highest
    return np.sum(targets * (log_sum - logits), -1)


def sigmoid(logits, labels):
    """Return the sum of binary cross-entropies, with a label smoothing of 0.1."""
    targets = np.eye(10)[labels] * 0.9 + 0.05
    return np.sum(np.logaddexp(0.0, logits) - targets * logits, -1)


# The last batch has 52 images, one image, or all images.
@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("batch_size", "steps_per_execution"),
    mostly_slow([(77, 1), (359, 3), (500, 3)], (77, 1)),
)
def test_classification(source, batch_size, steps_per_execution):
    if keras.backend.backend() == "torch":
        steps_per_execution = 1  # Keras supports no other value under torch.
    model = keras.Sequential(
        [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
    )
    batches = one_hot(evaluation_batches(source, Preprocessor(), batch_size), 10)
    images, labels, _ = map(
        np.concatenate, zip(*batches.as_numpy_iterator(), strict=True)
    )
    labels = labels.argmax(-1)
    logits = images.reshape(-1, 64).astype("float64") @ array(model.weights[0])
    for loss, expected in (
        (
            keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1),
            softmax,
        ),
        (
            keras.losses.CategoricalCrossentropy(
                from_logits=True,
                label_smoothing=0.1,
                reduction="mean_with_sample_weight",
            ),
            softmax,
        ),
        (SigmoidLoss(label_smoothing=0.1), sigmoid),
    ):
        model.compile(
            loss=loss,
            metrics=["accuracy"],
            weighted_metrics=[keras.metrics.TopKCategoricalAccuracy(3, name="top3")],
            steps_per_execution=steps_per_execution,
        )
        found = model.evaluate(batches, verbose=0, return_dict=True)
        own = logits[np.arange(360), labels]
        assert found == {
            "loss": pytest.approx(expected(logits, labels).mean(), rel=1e-5),
            "accuracy": pytest.approx(np.mean(logits.argmax(-1) == labels)),
            "top3": pytest.approx(np.mean(np.sum(logits > own[:, None], -1) < 3)),
        }


def backbone():
    return keras_vit.ViT(
        input_shape=(8, 8, 1),
        patch_size=2,
        hidden_dim=16,
        num_layers=1,
        num_heads=2,
        mlp_dim=16,
        include_top=False,
    )


def cross_entropy(targets, logits):
    rows = np.take_along_axis(logits, targets[..., None], -1)[..., 0]
    return np.log(np.exp(logits).sum(-1)) - rows


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("kind", "error"),
    [
        (MaskedAutoencoder, lambda targets, values: ((targets - values) ** 2).mean(-1)),
        pytest.param(MaskedPatchPrediction, cross_entropy, marks=pytest.mark.slow),
    ],
)
def test_hidden_patches(source, kind, error):
    more = {"decoder_dim": 8, "decoder_layers": 1, "decoder_heads": 2}
    model = kind(backbone(), **(more if kind is MaskedAutoencoder else {}))
    model.compile()
    batches = evaluation_batches(source, model.preprocessor, 200)
    found = model.evaluate(batches, verbose=0, return_dict=True)
    losses, right = [], []
    for images, _, _ in batches.as_numpy_iterator():
        outputs = model.predict_on_batch(images)
        targets = array(model.targets(images))
        places = outputs["patches"].reshape(
            *outputs["patches"].shape, *[1] * (targets.ndim - 2)
        )
        targets = np.take_along_axis(targets, places, 1)
        predictions = outputs["predictions"].astype("float64")
        losses.extend(error(targets, predictions).mean(-1))
        if targets.ndim == 2:
            right.extend((predictions.argmax(-1) == targets).mean(-1))
    assert len(losses) == 360
    assert found.pop("loss") == pytest.approx(np.mean(losses), rel=1e-5)
    assert found == ({"accuracy": pytest.approx(np.mean(right))} if right else {})


ON_DEVICES = """
import sys
import keras
import numpy as np
import tensorflow as tf
from keras_vit.layers import Preprocessor
from keras_vit.data.pipeline import evaluation_batches
from keras_vit.data.sources import open_source

def evaluated(scope=None):
    with scope or tf.device(None):
        model = keras.Sequential([
            keras.Input((8, 8, 1)),
            keras.layers.Flatten(),
            keras.layers.Dense(10, kernel_initializer=keras.initializers.GlorotNormal(0)),
        ])
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(loss=loss, weighted_metrics=["accuracy"])
        return model.evaluate(batches(), verbose=0)

def batches(**options):
    source = open_source(sys.argv[1])
    return evaluation_batches(source, Preprocessor(), int(sys.argv[2]), **options)

cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(
    cpu, [tf.config.LogicalDeviceConfiguration()] * 2
)
expected = evaluated()
if keras.backend.backend() == "jax":
    devices = [f"cpu:{n}" for n in range(7)]
    keras.distribution.set_distribution(keras.distribution.DataParallel(devices=devices))
    found = evaluated()
    try:
        batches(unreadable="skip")
    except ValueError as error:
        assert "7 devices" in str(error)
    else:
        raise AssertionError("skipped images on several devices are not an error")
else:
    found = evaluated(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope())
np.testing.assert_allclose(found, expected, rtol=1e-5)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    keras.backend.backend() == "torch", reason="Keras distributes under JAX, TensorFlow"
)
def test_several_devices():
    # Seven devices cannot share 50 images evenly, nor the last 10, nor two replicas the
    # last one.
    which = ("digits:train", "1256")
    if keras.backend.backend() == "jax":
        which = ("digits:test", "50")
    environment = {**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=7"}
    command = [sys.executable, "-c", ON_DEVICES, *which]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
