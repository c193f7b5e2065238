"""Serving graph built only from operations that ONNX and LiteRT support."""

import sys

import keras
import tensorflow as tf
from keras import ops

from keras_vit.export.features import network_outputs
from keras_vit.kernels import attention, gelu
from keras_vit.layers.preprocessor import RESIZES


def plain_graph(model, head, batch_size=None, arguments=()):
    """Return the graph of the signature `serving_default`.

    Blockwise attention and products in GELU are disabled for the whole process, which
    must not use models for anything else.

    Args:
        model: a `keras_vit.ViT` that returns logits or features.
        head: `Head` of the model.
        batch_size: int, number of images of every call; None for any number.
        arguments: variables of the model whose values the function takes as further
            arguments, `argument_0`, `argument_1`, ...

    Returns:
        `tf.function` from `images` to a dict of outputs, named as `head` defines.
    """
    # Blockwise attention is a loop. LiteRT does not support loops with an unknown batch
    # size, and onnxruntime cannot quantize a graph that contains one.
    attention.BLOCKS_FROM = sys.maxsize
    gelu.POWERS = True
    height, width, channels = model.input_shape[1:]
    if model.preprocessor.image_size is not None:
        height = width = None  # The preprocessor resizes images of any size.
    network = network_outputs(model)
    images = tf.TensorSpec((batch_size, height, width, channels), tf.float32, "images")
    values = [
        tf.TensorSpec(variable.shape, variable.dtype, f"argument_{i}")
        for i, variable in enumerate(arguments)
    ]

    @tf.function(input_signature=[images, *values], autograph=False)
    def predict(images, *values):
        count = tf.shape(images)[0] if batch_size is None else batch_size
        images = _preprocessed(model.preprocessor, images)
        with keras.StatelessScope(zip(arguments, values, strict=True)):
            outputs = head.outputs(network(images, training=False))
        # Fail if the number of outputs is not the number of images: LiteRT accepts images
        # of any size, and the first reshape would mix them.
        return {
            name: tf.reshape(values, (count, *values.shape[1:]))
            for name, values in outputs.items()
        }

    return predict


def _preprocessed(preprocessor, images):
    """Return `preprocessor(images)` for images of unknown height and width.

    TensorFlow's antialiased resize is `ScaleAndTranslate`, an operation that no other
    format has. Keras's `scale_and_translate` computes the same as two matrix products.
    """
    interpolation, antialias = RESIZES[preprocessor.resize]
    if preprocessor.image_size is None or not antialias:
        return preprocessor(images)
    images = preprocessor.cropped(images)
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
