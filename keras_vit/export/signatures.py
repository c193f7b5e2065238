"""Signatures of a SavedModel, built on a model that was rebuilt under TensorFlow."""

import keras
import tensorflow as tf

from keras_vit.export.attention import attention_rollout
from keras_vit.export.features import network_outputs
from keras_vit.export.head import features
from keras_vit.export.image_bytes import FINE, largest_size, read_images
from keras_vit.export.stored_weights import restored, stored
from keras_vit.exported_model import CLASS_NAMES
from keras_vit.models.features import blocks_of
from keras_vit.models.token_reduction import keeps_tokens


def write(model, head, options, path):
    """Write the model as a SavedModel; `options` are the options of `Server`."""
    Server(model, head, **options).save(path)


def load(path):
    """Return a dict with a function from arrays to arrays for each signature."""
    loaded = tf.saved_model.load(str(path))

    def caller(name):
        def predict(**inputs):
            inputs = {key: tf.constant(value) for key, value in inputs.items()}
            outputs = loaded.signatures[name](**inputs)
            return {key: value.numpy() for key, value in outputs.items()}

        return predict

    return {name: caller(name) for name in loaded.signatures}


class Server:
    """Weights of a served model, each stored once, and one method per signature.

    Args:
        model: a `keras_vit.ViT` that returns logits or features.
        head: `Head` of the model.
        labels: list of str, the names of the classes; empty without a classifier.
        top_k: int, number of classes that `predict_bytes` returns.
        max_pixels: int, number of pixels above which an image is refused.
        weights_dtype: `"float32"`, or the dtype to store matrices in, see `stored`.
        exif: bool, whether to apply the EXIF orientation of image files.
    """

    def __init__(self, model, head, labels, top_k, max_pixels, weights_dtype, exif):
        self._preprocessor = model.preprocessor
        self._head = head
        self._labels = labels
        self._top_k = top_k
        self._max_pixels = max_pixels
        self._exif = exif
        self._input_shape = model.input_shape[1:]
        self._network = network_outputs(model)
        # A BiT has no attention, and merged tokens have no place in a map.
        has_maps = blocks_of(model) and keeps_tokens(model)
        self._rollout = attention_rollout(model) if has_maps else None
        # Pairs of a weight and the variables that store it in another dtype.
        self._stored = [
            (weight, list(map(tf.Variable, stored(weight.numpy(), weights_dtype))))
            for weight in self._network.weights
            if weights_dtype != "float32" and len(weight.shape) > 1
        ]

    def save(self, path):
        # keras.export.ExportArchive stores every weight twice as of Keras 3.15.
        module = tf.Module()
        parts = {id(weight): parts for weight, parts in self._stored}
        module.model_variables = [
            parts.get(id(weight), weight.value) for weight in self._network.weights
        ]
        # A server needs no gradients, and the hand-written ones would require XLA.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        signatures = self._signatures()
        tf.saved_model.save(module, str(path), signatures=signatures, options=options)

    def _signatures(self):
        height, width, channels = self._input_shape
        if self._preprocessor.image_size is not None:
            height = width = None  # The preprocessor resizes images of any size.
        shape = (None, height, width, channels)
        images = tf.TensorSpec(shape, tf.float32, "images")
        signatures = {
            "serving_default": (self.predict, images),
            "predict_uint8": (self.predict, tf.TensorSpec(shape, tf.uint8, "images")),
            "features": (self.features, images),
        }
        if channels in (1, 3):  # Image files are decoded to 1 or 3 channels only.
            contents = tf.TensorSpec((None,), tf.string, "image_bytes")
            for function in self._of_files():
                signatures[function.__name__] = (function, contents)
        return {
            name: tf.function(function, input_signature=[spec], autograph=False)
            for name, (function, spec) in signatures.items()
        }

    def _of_files(self):
        """Return the methods that are the signatures for image files."""
        maps = [] if self._rollout is None else [self.attention]
        if self._head.classifies:
            return [self.predict_bytes, *maps]
        if self._head.output == "tokens":
            return [self.features_bytes, *maps]
        return [self.embed, self.features_bytes, *maps]

    def predict(self, images):
        return self._head.outputs(self._run(self._preprocessed(images)))

    def features(self, images):
        return features(self._run(self._preprocessed(images)))

    def predict_bytes(self, image_bytes):
        images, error, _ = self._read(image_bytes)
        name = self._head.output
        values = self._head.outputs(self._run(images))[name]
        scores, classes = tf.math.top_k(values, self._top_k)
        labels = tf.gather(tf.constant(self._labels, name=CLASS_NAMES), classes)
        fine = (error == FINE)[:, None]
        # Refused images get zeros, because JSON has no NaN.
        return {
            name: tf.where(fine, values, 0.0),
            "classes": tf.where(fine, classes, -1),
            "labels": tf.where(fine, labels, ""),
            "scores": tf.where(fine, scores, 0.0),
            "error": error,
        }

    def embed(self, image_bytes):
        images, error, _ = self._read(image_bytes)
        return _of_fine_images({"pooled": self._run(images)["pooled"]}, error)

    def features_bytes(self, image_bytes):
        images, error, _ = self._read(image_bytes)
        return _of_fine_images(features(self._run(images)), error)

    def attention(self, image_bytes):
        images, error, orientation = self._read(image_bytes)
        fine = (error == FINE)[:, None, None]
        crop_fraction = self._preprocessor.central_fraction
        return {
            "attention": tf.where(fine, self._attend(images), 0.0),
            "crop_fraction": tf.fill(tf.shape(error), crop_fraction),
            "orientation": orientation,
            "error": error,
        }

    # All signatures for files call one graph, which takes seconds to trace and load.
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
    def _read(self, image_bytes):
        return read_images(
            image_bytes,
            self._preprocessor,
            self._input_shape,
            self._max_pixels,
            self._exif,
        )

    def _preprocessed(self, images):
        # Signatures do not check shapes, and the first reshape would mix the images.
        images = tf.ensure_shape(images, (None, None, None, self._input_shape[2]))
        if self._preprocessor.image_size is None:
            images = tf.ensure_shape(images, (None, *self._input_shape))
        else:
            _, height, width, _ = tf.unstack(tf.shape(images))
            size = largest_size(self._preprocessor, height, width)
            limit = f"Images must have 1 to {self._max_pixels} pixels, resized too:"
            tf.debugging.Assert(size <= self._max_pixels, [limit, height, width])
        return self._preprocessor(images)

    @tf.function(autograph=False)
    def _run(self, images):
        return self._computed(self._network, images)

    @tf.function(autograph=False)
    def _attend(self, images):
        return self._computed(self._rollout, images)

    def _computed(self, function, images):
        images = tf.ensure_shape(images, (None, *self._input_shape))
        mapping = [
            (weight, restored([tf.cast(part, "float32") for part in parts]))
            for weight, parts in self._stored
        ]
        with keras.StatelessScope(state_mapping=mapping):
            return function(images)


def _of_fine_images(outputs, error):
    """Return the outputs and the error codes; refused images get zeros."""
    masked = {}
    for name, values in outputs.items():
        fine = tf.reshape(error == FINE, (-1, *[1] * (len(values.shape) - 1)))
        masked[name] = tf.where(fine, values, 0.0)
    return {**masked, "error": error}
