"""The signatures of a SavedModel, over a model rebuilt under TensorFlow."""

import keras
import tensorflow as tf

from keras_vit.export.attention import attention_rollout
from keras_vit.export.features import outputs_and_features
from keras_vit.export.image_bytes import FINE, largest_size, read_images
from keras_vit.export.stored_weights import restored, stored


def write(model, head, options, path):
    """Writes the model as a SavedModel; `options` as `Server` takes them."""
    Server(model, head, **options).save(path)


def load(path):
    """For each signature a function of arrays by name that returns such."""
    loaded = tf.saved_model.load(str(path))

    def caller(name):
        def predict(**inputs):
            inputs = {key: tf.constant(value) for key, value in inputs.items()}
            outputs = loaded.signatures[name](**inputs)
            return {key: value.numpy() for key, value in outputs.items()}

        return predict

    return {name: caller(name) for name in loaded.signatures}


class Server:
    """The weights, each once, and a function for every signature.

    Args:
        model: a `keras_vit.ViT` that gives logits.
        head: its `Head`.
        labels: list of str, a name for each class.
        top_k: int, how many classes `predict_bytes` names.
        max_pixels: int, size above which an image is refused.
        weights_dtype: `"float32"`, or what to store matrices in, see `stored`.
        exif: bool, whether to turn images upright as their EXIF orientation asks for.
    """

    def __init__(self, model, head, labels, top_k, max_pixels, weights_dtype, exif):
        self._preprocessor = model.preprocessor
        self._head = head
        self._labels = labels
        self._top_k = top_k
        self._max_pixels = max_pixels
        self._exif = exif
        self._input_shape = model.input_shape[1:]
        self._network = outputs_and_features(model)
        self._rollout = attention_rollout(model)
        # Pairs of a weight and what is stored for it in another dtype.
        self._stored = [
            (weight, list(map(tf.Variable, stored(weight.numpy(), weights_dtype))))
            for weight in self._network.weights
            if weights_dtype != "float32" and len(weight.shape) > 1
        ]

    def save(self, path):
        # Not keras.export.ExportArchive: Keras 3.15's stores every weight twice.
        module = tf.Module()
        parts = {id(weight): parts for weight, parts in self._stored}
        module.model_variables = [
            parts.get(id(weight), weight.value) for weight in self._network.weights
        ]
        # A server takes no gradients: the hand-written ones, which use XLA, stay out.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        signatures = self._signatures()
        tf.saved_model.save(module, str(path), signatures=signatures, options=options)

    def _signatures(self):
        height, width, channels = self._input_shape
        if self._preprocessor.image_size is not None:
            height = width = None  # It resizes.
        shape = (None, height, width, channels)
        images = tf.TensorSpec(shape, tf.float32, "images")
        signatures = {
            "serving_default": (self.predict, images),
            "predict_uint8": (self.predict, tf.TensorSpec(shape, tf.uint8, "images")),
            "features": (self.features, images),
        }
        if channels in (1, 3):  # Files have no others.
            contents = tf.TensorSpec((None,), tf.string, "image_bytes")
            signatures["predict_bytes"] = (self.predict_bytes, contents)
            signatures["attention"] = (self.attention, contents)
        return {
            name: tf.function(function, input_signature=[spec])
            for name, (function, spec) in signatures.items()
        }

    def predict(self, images):
        return self._head.outputs(self._run(self._preprocessed(images))["logits"])

    def features(self, images):
        outputs = self._run(self._preprocessed(images))
        return {name: outputs[name] for name in ("pooled", "tokens")}

    def predict_bytes(self, image_bytes):
        images, error, _ = self._read(image_bytes)
        name = self._head.output
        values = self._head.outputs(self._run(images)["logits"])[name]
        scores, classes = tf.math.top_k(values, self._top_k)
        labels = tf.gather(tf.constant(self._labels), classes)
        fine = (error == FINE)[:, None]
        # Zeros, because JSON has no NaN.
        return {
            name: tf.where(fine, values, 0.0),
            "classes": tf.where(fine, classes, -1),
            "labels": tf.where(fine, labels, ""),
            "scores": tf.where(fine, scores, 0.0),
            "error": error,
        }

    def attention(self, image_bytes):
        images, error, orientation = self._read(image_bytes)
        fine = (error == FINE)[:, None, None]
        crop_fraction = self._preprocessor.crop_fraction or 0.0
        return {
            "attention": tf.where(fine, self._attend(images), 0.0),
            "crop_fraction": tf.fill(tf.shape(error), crop_fraction),
            "orientation": orientation,
            "error": error,
        }

    def _read(self, image_bytes):
        return read_images(
            image_bytes,
            self._preprocessor,
            self._input_shape,
            self._max_pixels,
            self._exif,
        )

    def _preprocessed(self, images):
        # A signature does not check shapes; the first reshape would mix the images.
        images = tf.ensure_shape(images, (None, None, None, self._input_shape[2]))
        if self._preprocessor.image_size is None:
            images = tf.ensure_shape(images, (None, *self._input_shape))
        else:
            _, height, width, _ = tf.unstack(tf.shape(images))
            size = largest_size(self._preprocessor, height, width)
            limit = f"Images must have 1 to {self._max_pixels} pixels, resized too:"
            tf.debugging.Assert(size <= self._max_pixels, [limit, height, width])
        return self._preprocessor(images)

    @tf.function
    def _run(self, images):
        return self._computed(self._network, images)

    @tf.function
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
