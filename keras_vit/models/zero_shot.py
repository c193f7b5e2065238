"""Zero-shot classification with text embeddings."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_vit.layers import SimilarityClassifier
from keras_vit.models.adapt import adapted
from keras_vit.models.lora import merged


class ZeroShotMethods:
    """Method of a `ViT` that builds a zero-shot classifier."""

    def zero_shot(
        self: Any,
        text_embeddings: Any,
        logit_scale: float,
        logit_bias: float | None = None,
        class_names: Sequence[str] | None = None,
        classifier_activation: str | None = None,
    ) -> Any:
        """Return a classifier whose classes are given by embeddings of texts.

        Its logits are `logit_scale * image @ text + logit_bias`, with image and text
        embeddings normalized to length 1. The image embeddings are the pooled features
        (SigLIP), or the outputs of this model's classifier if the text embeddings have
        its width: keras_vit loads CLIP's projection as the classifier.

        Args:
            text_embeddings: `(classes, d)`, the outputs of the text model that was
                trained with this image model, such as those of `get_text_features` in
                transformers. They need not be normalized. For several texts per class,
                pass the mean of their normalized embeddings.
            logit_scale: positive float, the factor itself. transformers and open_clip
                store its logarithm: pass `exp(model.logit_scale)`, about 100 for CLIP.
            logit_bias: None, or the bias of the logits (SigLIP).
            class_names: None, or a list of str, one name for each class.
            classifier_activation: None for logits, `"softmax"` (CLIP) or `"sigmoid"`
                (SigLIP) for probabilities.

        Returns:
            A new, uncompiled model of the same class, which can be evaluated, fine-tuned,
            saved and exported like every classifier. This one is not changed.

        Raises:
            ValueError: the text embeddings have another width than the image embeddings,
                or are not finite vectors; or the scale is not a positive number.

        Example:

        >>> import numpy as np
        >>> import keras_vit
        >>> model = keras_vit.SigLIPViTB16(
        ...     input_shape=(32, 32, 3), include_top=False, num_layers=1
        ... )
        >>> texts = np.random.default_rng(0).normal(size=(2, 768))
        >>> classifier = model.zero_shot(
        ...     texts, 117.3, -12.9, ["a cat", "a dog"], classifier_activation="sigmoid"
        ... )
        >>> tuple(classifier(np.zeros((1, 32, 32, 3), "float32")).shape)
        (1, 2)

        Reference: CLIP (arXiv:2103.00020) section 3.1; SigLIP (arXiv:2303.15343).
        """
        texts = _normalized(text_embeddings)
        scale = _number("logit_scale", logit_scale)
        if scale <= 0:
            raise ValueError(
                f"logit_scale must be positive; received {scale:g}. If it is the "
                "logarithm of the scale, pass exp(logit_scale)."
            )
        bias = 0.0 if logit_bias is None else _number("logit_bias", logit_bias)
        model = merged(self)
        projected = _is_projected(model, texts.shape[1])
        overrides = {
            "include_top": True,
            "classes": len(texts),
            "class_names": class_names,
            "classifier_activation": classifier_activation,
            "classifier_bias": 0.0,
            "classifier": SimilarityClassifier(
                projection_dim=texts.shape[1] if projected else None
            ),
        }
        new = adapted(model, overrides, head="new")
        head = new.get_layer("classifier")
        head.kernel.assign(scale * texts.T)
        head.bias.assign(np.full(len(texts), bias, "float32"))
        if projected:
            # As NumPy arrays: two models must not share a JAX buffer, since the trainer
            # of either donates it to its next step.
            old = model.get_layer("classifier")
            head.projection.kernel.assign(keras.ops.convert_to_numpy(old.kernel))
            head.projection.bias.assign(keras.ops.convert_to_numpy(old.bias))
        return new


def _number(name, value):
    """Return a finite number as float."""
    number = float(keras.ops.convert_to_numpy(value))
    if not math.isfinite(number):
        raise ValueError(f"{name} must be a finite number; received {number}.")
    return number


def _normalized(text_embeddings):
    """Return text embeddings of length 1 in float32."""
    texts = np.asarray(keras.ops.convert_to_numpy(text_embeddings), "float64")
    if texts.ndim != 2 or 0 in texts.shape:
        raise ValueError(
            "text_embeddings must have the shape (classes, width), one vector for each "
            f"class; received {texts.shape}."
        )
    lengths = np.linalg.norm(texts, axis=1, keepdims=True)
    if not np.isfinite(lengths).all() or not lengths.all():
        row = int(np.argmin(np.isfinite(lengths) & (lengths > 0)))
        raise ValueError(
            f"text_embeddings[{row}] has the length {lengths[row, 0]}: every vector must "
            "be finite and not zero, since it is divided by its length."
        )
    return (texts / lengths).astype("float32")


def _is_projected(model, width):
    """Return True if image embeddings are the classifier's outputs, not its inputs."""
    config = model.resolved_config()
    if config["pooling"] is None or config["distillation_token"]:
        raise ValueError(
            "zero_shot needs one vector of features for each image; received a model "
            f"with pooling={config['pooling']!r} and distillation_token="
            f"{config['distillation_token']}."
        )
    pooled = model.output_shape[-1]
    linear = config["include_top"] and config["classifier"] is None
    if config["include_top"]:
        pooled = model.get_layer("classifier").input.shape[-1]
        if linear and config["classes"] == width and not config["representation_size"]:
            return True
    if config["representation_size"] or pooled != width:
        outputs = f" and {config['classes']} outputs" if linear else ""
        raise ValueError(
            f"The text embeddings have width {width}, the model has features of width "
            f"{pooled}{outputs}. Pass the embeddings of the text model that belongs to "
            "this image model. CLIP's projection is loaded from checkpoints of the whole "
            "model (CLIPModel), with include_top=True."
        )
    return False
