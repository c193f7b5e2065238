"""Maps of what a class rests on: attention weighted by the gradient of the class."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit.kernels.attention import merge_heads
from keras_vit.layers import SelfAttention, TokenAndAveragePooling, TokenPooling
from keras_vit.layers.attention import attention_weights as plain_weights
from keras_vit.models.adapt import copied
from keras_vit.models.features import blocks_of
from keras_vit.visualize.attention import attention_weights
from keras_vit.visualize.batches import check_vit, in_batches


def gradient_attention(
    model: keras.Model,
    images: Any,
    classes: Sequence[int] | None = None,
    batch_size: int = 4,
) -> np.ndarray:
    """Compute the relevance of each patch for a class.

    In each block, the attention weights are multiplied by the gradient of the logit of
    the class with respect to them. Positive products are averaged over the heads and
    accumulated over the blocks: `R = R + A R`, starting from the identity. In contrast to
    rollout, the map depends on the class.

    The map is the row of the pooled token in `R`, without the identity. If the patches
    are pooled, it is the mean of their rows. With `pooling="token_gap"`, it is the mean
    of both maps, and with a distillation token, the mean of the rows of both tokens.

    Args:
        model: a `keras_vit` model with its classifier.
        images: `(b, h, w, c)`, floats as `model.preprocessor` returns them.
        classes: None for the predicted class of each image, or `b` class numbers.
        batch_size: int, number of images that are computed together. Each needs memory
            for all attention weights and their gradients.

    Returns:
        `(b, gh, gw)`, float32, values of 0 or more.

    Raises:
        ValueError: the model has no classifier, or there is no such class.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2)
    >>> images = model.preprocessor(keras.random.uniform((2, 32, 48, 3), maxval=255))
    >>> keras_vit.visualize.gradient_attention(model, images, classes=[3, 7]).shape
    (2, 2, 3)

    Reference: Chefer et al. (arXiv:2103.15679) section 3.2. Deviation: residual branches
    are not normalized, as in the authors' code for ViT.
    """
    check_vit(model)
    config = model.get_config()
    if not config["include_top"]:
        raise ValueError(
            "gradient_attention needs a model with a classifier; this one has "
            "include_top=False. attention_rollout does not need one."
        )
    images = ops.convert_to_numpy(images)
    chosen = None if classes is None else _checked(classes, len(images), model)
    # The gradient of a softmax vanishes where the model is certain.
    logits = copied(model, {**config, "classifier_activation": None})

    done = 0

    def maps(batch):
        nonlocal done
        own = None if chosen is None else chosen[done : done + len(batch)]
        done += len(batch)
        return _relevance(logits, batch, own)

    return in_batches(maps, model, images, batch_size)


def _checked(classes, count, model):
    """Return class numbers as an array, checked."""
    numbers, available = np.asarray(classes), model.output_shape[-1]
    if numbers.shape != (count,) or numbers.dtype.kind not in "iu":
        raise ValueError(
            f"classes must be {count} integers, one for each image; received {classes!r}."
        )
    if numbers.min() < 0 or numbers.max() >= available:
        raise ValueError(
            f"classes={numbers.tolist()}: the model has the classes 0 to {available - 1}."
        )
    return numbers


def _relevance(model, images, classes):
    """Return the maps of one batch."""
    weights = attention_weights(model, images, batch_size=len(images))
    if classes is None:
        scores = ops.convert_to_numpy(model(images, training=False))
        classes = scores.argmax(axis=-1)
    one_hot = np.eye(model.output_shape[-1], dtype="float32")[classes]
    chosen = ops.convert_to_tensor(one_hot)
    layers = [block.attention for block in blocks_of(model)]

    def logit(*offsets):
        with _added(offsets, layers):
            return ops.sum(model(images, training=False) * chosen)

    zeros = [np.zeros_like(weights[:, 0]) for _ in layers]
    identity = np.eye(weights.shape[-1], dtype="float32")
    relevance = identity[None]
    for index, gradient in enumerate(_gradients(logit, zeros)):
        positive = np.maximum(weights[:, index] * ops.convert_to_numpy(gradient), 0)
        relevance = relevance + positive.mean(axis=1) @ relevance
    prefix = model.num_prefix_tokens
    relevance = relevance - identity
    rows = _pooled_rows(model.get_layer("pooling"), relevance, prefix)
    config = model.get_config()
    if config.get("distillation_token"):  # Its logits are averaged with the others.
        rows = (rows + relevance[:, 1]) / 2
    return rows[:, prefix:].reshape(-1, *model.grid_shape)


def _pooled_rows(pooling, relevance, prefix):
    """Return the rows of the tokens that are pooled, as their mean: `(b, n)`."""
    if isinstance(pooling, TokenPooling):
        return relevance[:, pooling.index]
    mean = relevance[:, prefix:].mean(axis=1)
    if isinstance(pooling, TokenAndAveragePooling):
        return (relevance[:, 0] + mean) / 2
    return mean


@contextlib.contextmanager
def _added(offsets: Sequence[Any], layers: Sequence[SelfAttention]) -> Iterator[None]:
    """Add offsets to the attention weights of layers while the context is open."""
    for layer, offset in zip(layers, offsets, strict=True):
        setattr(layer, "_mix", functools.partial(_mix, layer, offset))  # noqa: B010
    try:
        yield
    finally:
        for layer in layers:
            del layer._mix  # The method of the class is in force again.


def _mix(layer, offset, qkv, training):
    query, key, value, bias = layer._query_key_value_bias(qkv)
    weights = plain_weights(query, key, bias, layer.causal) + offset
    return merge_heads(ops.matmul(ops.cast(weights, value.dtype), value))


def _gradients(function: Callable[..., Any], arrays: Sequence[np.ndarray]) -> Any:
    """Return the gradient of a scalar function with respect to each of its arguments."""
    backend = keras.backend.backend()
    if backend == "jax":
        import jax

        return jax.grad(lambda arguments: function(*arguments))(list(arrays))
    tensors = [ops.convert_to_tensor(array) for array in arrays]
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            tape.watch(tensors)
            value = function(*tensors)
        return tape.gradient(value, tensors)
    import torch

    tensors = [tensor.requires_grad_() for tensor in tensors]
    return torch.autograd.grad(function(*tensors), tensors)
