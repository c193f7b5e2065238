"""Numerical comparison of an export with the Keras model."""

import keras
import numpy as np

from keras_vit.export.attention import attention_rollout
from keras_vit.export.features import network_outputs
from keras_vit.export.head import FEATURES

# Largest allowed difference between an output of the export and that of Keras: absolute
# for outputs up to 1, relative to the largest value for larger outputs.
TOLERANCE = 1e-4

SIGNATURES_OF_FILES = {"predict_bytes", "embed", "features_bytes", "attention"}


# Outputs without a scale of their own, whose 8-bit error is relative to their size.
RELATIVE = {"logits", "outputs", *FEATURES}


def difference(model, head, options, check, tolerance):
    """Return the largest difference between the outputs of the export and of Keras.

    Outputs are compared for batches of 1, 2 and 7 images. Differences are absolute, or
    relative to the largest value where an output has values beyond 1 or -1, and for
    logits and features with a larger tolerance than `TOLERANCE`.

    Args:
        model: Keras model that the export must reproduce.
        head: `Head` of the model.
        options: dict with the `labels` and `top_k` of `predict_bytes`, if there is one.
        check: dict of arrays that the TensorFlow process saved: the pixels `images`, the
            pixels `decoded` if the export reads image files, and one entry
            `"signature output size"` for each output and batch size.
        tolerance: float, the largest difference allowed.

    Raises:
        RuntimeError: an output differs by more than `tolerance`.
    """
    inputs = {name: check[name] for name in ("images", "decoded") if name in check}
    served = {tuple(name.split()): check[name] for name in check if name not in inputs}
    count = len(inputs["images"])
    with keras.device("cpu"):
        # One batch for both kinds of input, so that the model runs only once.
        images = model.preprocessor(np.concatenate(list(inputs.values())))
        outputs = network_outputs(model)(images, training=False)
        if any(output == "attention" for _, output, _ in served):
            # The signature `attention` reads image files only.
            outputs["attention"] = attention_rollout(model)(images[count:])
        outputs |= head.outputs(outputs)
    outputs = {k: keras.ops.convert_to_numpy(value) for k, value in outputs.items()}
    # These outputs are the same for all images.
    crop_fraction = model.preprocessor.central_fraction
    all_alike = {"crop_fraction": crop_fraction, "orientation": 1, "error": 0}
    largest = 0.0
    for (signature, output, size), values in served.items():
        of_files = signature in SIGNATURES_OF_FILES - {"attention"}
        first = count if of_files else 0
        batch = slice(first, first + int(size))
        if output in outputs:
            expected = outputs[output][batch]
        elif output in all_alike:
            expected = all_alike[output]
        else:
            classes = check[f"predict_bytes classes {size}"]
            values, expected = _of_files(
                output, values, classes, outputs[head.output][batch], options
            )
        relative = tolerance > TOLERANCE and output in RELATIVE
        least = 1e-6 if relative else 1.0
        scale = max(least, float(np.max(np.abs(expected))))
        distance = float(np.max(np.abs(values - expected))) / scale
        if not distance <= tolerance:
            raise RuntimeError(
                f"The exported model's {output} (signature {signature}, batch of {size}) "
                f"differ from Keras's by {distance:.1e} (limit {tolerance:.0e}; values "
                "beyond 1 relative to the largest); nothing was written."
            )
        largest = max(largest, distance)
    return largest


def _of_files(output, served, classes, scores, options):
    """Return an output of `predict_bytes` and its expected value, both as numbers."""
    best = -np.sort(-scores, axis=1)[:, : options["top_k"]]
    if output == "classes":  # Equally likely classes may be in either order.
        return np.take_along_axis(scores, classes, axis=1), best
    if output == "labels":
        wrong = np.char.decode(served, "utf-8") != np.asarray(options["labels"])[classes]
        return wrong, np.zeros(served.shape)
    return served, {"scores": best}[output]
