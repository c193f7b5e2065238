"""Whether an export gives what Keras gives."""

import keras
import numpy as np

from keras_vit.export.attention import attention_rollout
from keras_vit.export.features import outputs_and_features

# Largest difference of an output between the export and Keras, for outputs up to 1; for
# larger ones, as a part of the largest.
TOLERANCE = 1e-4


def difference(model, head, options, check, tolerance):
    """Largest difference between the export's outputs and Keras's; raises if too large.

    For batches of 1, 2 and 7; where an output has values beyond 1 or -1, as a part of
    the largest.

    Args:
        model: what the export must equal.
        head: its `Head`.
        options: `labels` and `top_k` of `predict_bytes`.
        check: arrays that the other process left: pixels, `images` and where there are
            files `decoded`; and outputs, `"signature output size"`.
        tolerance: float, the largest difference allowed.
    """
    inputs = {name: check[name] for name in ("images", "decoded") if name in check}
    served = {tuple(name.split()): check[name] for name in check if name not in inputs}
    count = len(inputs["images"])
    with keras.device("cpu"):
        # In one batch, so that it is computed once.
        images = model.preprocessor(np.concatenate(list(inputs.values())))
        outputs = outputs_and_features(model)(images, training=False)
        if any(output == "attention" for _, output, _ in served):
            # Of files only.
            outputs["attention"] = attention_rollout(model)(images[count:])
        outputs |= head.outputs(outputs["logits"])
    outputs = {k: keras.ops.convert_to_numpy(value) for k, value in outputs.items()}
    largest = 0.0
    for (signature, output, size), values in served.items():
        first = count if signature == "predict_bytes" else 0
        batch = slice(first, first + int(size))
        if output in outputs:
            expected = outputs[output][batch]
        elif signature == "attention":  # The same for all images.
            crop_fraction = model.preprocessor.crop_fraction or 0.0
            all_alike = {"crop_fraction": crop_fraction, "orientation": 1, "error": 0}
            expected = all_alike[output]
        else:
            classes = check[f"predict_bytes classes {size}"]
            values, expected = _of_files(
                output, values, classes, outputs[head.output][batch], options
            )
        scale = max(1.0, float(np.max(np.abs(expected))))
        distance = float(np.max(np.abs(values - expected))) / scale
        if not distance <= tolerance:
            raise RuntimeError(
                f"The exported model's {output} (signature {signature}, batch of {size}) "
                f"differ from Keras's by {distance:.1e} (limit {tolerance:.0e}; values "
                "beyond 1 as a part of the largest); nothing was written."
            )
        largest = max(largest, distance)
    return largest


def _of_files(output, served, classes, scores, options):
    """What only `predict_bytes` returns, and what it should, as numbers."""
    best = -np.sort(-scores, axis=1)[:, : options["top_k"]]
    if output == "classes":  # Two that are as likely may be in either order.
        return np.take_along_axis(scores, classes, axis=1), best
    if output == "labels":
        wrong = np.char.decode(served, "utf-8") != np.asarray(options["labels"])[classes]
        return wrong, np.zeros(served.shape)
    return served, {"scores": best, "error": np.zeros(served.shape)}[output]
