"""A model from pixels to its outputs, in operations that ONNX and LiteRT have too."""

import sys

import tensorflow as tf
from keras import ops

from keras_vit.layers import dot_product_attention
from keras_vit.layers.preprocessor import RESIZES


def plain_graph(model, head):
    """The graph of the signature `serving_default`.

    The process must do nothing else with models: attention stays in one piece in it.

    Args:
        model: a `keras_vit.ViT` that gives logits.
        head: its `Head`.

    Returns:
        `tf.function` from `images` to the dict of outputs that `head` names.
    """
    # By blocks it is a loop: LiteRT has none over a batch of any size, and onnxruntime
    # cannot quantize a graph with one.
    dot_product_attention.BLOCKS_FROM = sys.maxsize
    height, width, channels = model.input_shape[1:]
    if model.preprocessor.image_size is not None:
        height = width = None  # It resizes.
    images = tf.TensorSpec((None, height, width, channels), tf.float32, "images")

    @tf.function(input_signature=[images])
    def predict(images):
        count = tf.shape(images)[0]
        images = _preprocessed(model.preprocessor, images)
        logits = model(images, training=False)
        # An error where there are not as many as images: LiteRT runs any size, and the
        # first reshape would mix the images.
        logits = tf.reshape(logits, (count, logits.shape[-1]))
        return head.outputs(logits)

    return predict


def _preprocessed(preprocessor, images):
    """`preprocessor(images)`, where h and w may be unknown.

    With antialiasing TensorFlow resizes by `ScaleAndTranslate`, which no other format
    has. Keras's `scale_and_translate` is the same as two products with matrices.
    """
    interpolation, antialias = RESIZES[preprocessor.resize]
    if preprocessor.image_size is None or not antialias:
        return preprocessor(images)
    _, height, width, _ = tf.unstack(tf.shape(images))
    size, start = preprocessor.resize_and_crop(height, width)
    resized = tf.cast(tf.stack(size), "float32")
    images = ops.image.scale_and_translate(
        images,
        (None, *preprocessor.image_size, None),
        resized / tf.cast(tf.stack([height, width]), "float32"),
        -tf.cast(tf.stack(start), "float32"),
        spatial_dims=(1, 2),
        method=interpolation,
    )
    if interpolation == "bicubic":
        images = tf.clip_by_value(images, 0.0, 255.0)
    return preprocessor.with_image_size(None)(images)
