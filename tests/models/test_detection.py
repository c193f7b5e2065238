import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers.detection_head import locations
from keras_vit.models.detection import pairwise_iou, suppress
from keras_vit.models.detection_loss import centerness, focal_loss, giou
from tests.cases import array, perturb, random_array, random_images, tiny_vit


@pytest.fixture(scope="module")
def detector():
    # Maps of 4x6, 2x3 and 1x2 cells.
    return keras_vit.DetectionModel(tiny_vit(), 3, filters=16, num_convolutions=1)


BOXES = np.array(
    [
        [[1, 2, 9, 12, 1], [0, 0, 16, 24, 2], [-1, -1, -1, -1, -1]],
        [[4, 4, 12, 10, 0], [-1, -1, -1, -1, -1], [-1, -1, -1, -1, -1]],
    ],
    "float32",
)


@pytest.mark.slow_elsewhere
def test_outputs_are_boxes_around_their_locations(detector):
    outputs = array(detector(random_images(detector)))
    assert detector.strides == (4, 8, 16)
    assert outputs.shape == (2, 24 + 6 + 2, 5 + 3) == (2, *detector.output_shape[1:])
    assert outputs.dtype == "float32"
    places = locations((16, 24), detector.strides)
    assert places[1].tolist() == [2, 6, 4]
    assert places[24:26].tolist() == [[4, 4, 8], [4, 12, 8]]
    assert places[-1].tolist() == [8, 24, 16]
    # Exponents are near 0 at first, and distances near four strides.
    offsets = np.abs(outputs[..., :4] - np.tile(places[:, :2], 2))
    np.testing.assert_allclose(offsets / places[:, 2:], 4, rtol=0.5)
    assert np.abs(outputs[..., 5:] - np.log(0.01 / 0.99)).max() < 1


@pytest.mark.any_backend
def test_a_detector_as_the_backbone_is():
    model = keras_vit.DetectionModel(
        tiny_vit(dtype="mixed_bfloat16"),
        3,
        strides=np.array([8, 16]),
        filters=16,
        blocks=np.array([0, 1]),
    )
    policies = {model.get_layer(name).dtype_policy.name for name in ("pyramid", "head")}
    assert policies == {"mixed_bfloat16"}
    again = keras_vit.DetectionModel.from_config(model.get_config())
    assert again.get_config()["blocks"] == [0, 1]
    assert again.strides == (8, 16)
    stem = keras_vit.layers.ResNetStem((1, 1, 1), width=32)
    uneven = tiny_vit(input_shape=(34, 34, 3), patch_size=1, stem=stem)
    with pytest.raises(ValueError, match=r"3x3 patches do not divide .* 34x34"):
        keras_vit.DetectionModel(uneven, 3)


def expected_loss(boxes, outputs, strides):
    """Return the loss, location by location."""
    places = locations((16, 24), strides)
    total, count = 0.0, 0
    for image, output in zip(boxes, outputs.astype("float64"), strict=True):
        for (y, x, stride), numbers in zip(places, output, strict=True):
            box, center, logits = numbers[:4], numbers[4], numbers[5:]
            level = strides.index(stride)
            fitting = []
            for top, left, bottom, right, label in image:
                sides = np.array([y - top, x - left, bottom - y, right - x])
                offset = max(abs(y - (top + bottom) / 2), abs(x - (left + right) / 2))
                smallest = 8 * strides[level - 1] if level else 0
                largest = 8 * stride if level + 1 < len(strides) else np.inf
                if (
                    label >= 0
                    and sides.min() > 0
                    and offset < 1.5 * stride
                    and smallest < sides.max() <= largest
                ):
                    area = (bottom - top) * (right - left)
                    fitting.append((area, label, (top, left, bottom, right), sides))
            target = np.zeros(len(logits))
            if fitting:
                _, label, true, sides = min(fitting, key=lambda entry: entry[0])
                target[int(label)] = 1
                count += 1
                (v, h), (v2, h2) = sides[:2], sides[2:]
                wanted = np.sqrt(min(v, v2) / max(v, v2) * min(h, h2) / max(h, h2))
                p = 1 / (1 + np.exp(-center))
                total -= wanted * np.log(p) + (1 - wanted) * np.log(1 - p)
                iou = pairwise_iou([true], [box])[0, 0]
                hull = np.prod(
                    np.maximum(true[2:], box[2:]) - np.minimum(true[:2], box[:2])
                )
                areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (true, box)]
                union = sum(areas) / (1 + iou)
                total += 1 - (iou - (hull - union) / hull)
            p = 1 / (1 + np.exp(-np.array(logits)))
            total -= np.sum(0.25 * target * (1 - p) ** 2 * np.log(p))
            total -= np.sum(0.75 * (1 - target) * p**2 * np.log(1 - p))
    return total / count, count


@pytest.mark.slow_elsewhere
def test_the_loss_is_that_of_the_formula(detector):
    outputs = array(detector(random_images(detector))) + random_array(2, 32, 8, seed=1)
    loss = keras_vit.DetectionLoss.of(detector)
    found = array(loss(BOXES, outputs))
    expected, count = expected_loss(BOXES, outputs, detector.strides)
    assert count > 5
    np.testing.assert_allclose(found, expected, rtol=1e-4)


@pytest.mark.slow_elsewhere
def test_the_loss_of_images_without_objects(detector):
    outputs = array(detector(random_images(detector)))
    empty = np.full((2, 3, 5), -1, "float32")
    found = array(keras_vit.DetectionLoss.of(detector)(empty, outputs))
    p = 1 / (1 + np.exp(-outputs[..., 5:].astype("float64")))
    np.testing.assert_allclose(found, -np.sum(0.75 * p**2 * np.log(1 - p)), rtol=1e-4)


@pytest.mark.any_backend
def test_parts_of_the_loss_at_simple_values():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 2, 2], [0, 0, 4, 4]], "float32")
    others = np.array([[0, 0, 4, 4], [2, 2, 4, 4], [0, 2, 4, 6]], "float32")
    expected = [1, -0.5, 1 / 3]
    np.testing.assert_allclose(array(giou(boxes, others)), expected, atol=1e-6)
    places = np.array([[2, 2], [1, 1], [1, 2]], "float32")
    found = array(centerness(np.tile(boxes[:1], (3, 1)), places))
    np.testing.assert_allclose(found, [1, 1 / 3, 3**-0.5], atol=1e-6)
    logits = np.array([0.0, 0.0, 100.0, -100.0], "float32")
    found = array(focal_loss(np.array([1, 0, 1, 1], "float32"), logits))
    expected = [np.log(2) / 16, 3 * np.log(2) / 16, 0, 25]
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.slow
def test_one_step_trains_what_is_trainable():
    backbone = tiny_vit()
    backbone.trainable = False
    model = keras_vit.DetectionModel(backbone, 3, filters=16, num_convolutions=1)
    before = [array(weight) for weight in model.weights]
    model.compile(keras.optimizers.SGD(0.1), keras_vit.DetectionLoss.of(model))
    model.fit(random_images(model), BOXES, verbose=0)
    changed = {
        weight.path
        for old, weight in zip(before, model.weights, strict=True)
        if not np.array_equal(old, array(weight))
    }
    assert changed <= {weight.path for weight in model.trainable_weights}
    for part in ("head/class_output", "head/box_output", "pyramid/stride_4_output"):
        assert any(path.startswith(part) for path in changed), part


@pytest.mark.any_backend
def test_a_saved_model_detects_the_same(detector, tmp_path):
    model = perturb(keras_vit.DetectionModel(tiny_vit(), 3, (8, 16), 16, blocks=[0, -1]))
    model.compile("sgd", keras_vit.DetectionLoss.of(model))
    model.save(tmp_path / "model.keras")
    restored = keras.models.load_model(tmp_path / "model.keras")
    assert restored.strides == (8, 16)
    assert restored.loss.get_config() == model.loss.get_config()
    images = random_images(model)
    for one, other in zip(model.detect(images), restored.detect(images), strict=True):
        assert len(one["boxes"]) > 0
        for name in ("boxes", "labels", "scores"):
            np.testing.assert_array_equal(one[name], other[name])


@pytest.mark.any_backend
def test_detections_are_ranked_clipped_and_not_repeated(detector, monkeypatch):
    outputs = np.full((1, 4, 8), -20.0, "float32")
    outputs[0, :, :4] = [[2, 3, 9, 30], [2, 3, 9, 29], [-5, 3, 9, 9], [2, 3, 9, 20]]
    outputs[0, :, 4] = 20
    outputs[0, [0, 1, 2, 3], [5, 5, 6, 7]] = [0, 1, 2, -3]
    monkeypatch.setattr(detector, "predict", lambda *_, **__: outputs)
    (found,) = detector.detect(None, threshold=0.3)
    assert found["labels"].tolist() == [1, 0]
    assert found["boxes"].tolist() == [[0, 3, 9, 9], [2, 3, 9, 24]]
    expected = (1 / (1 + np.exp([-2, -1]))) ** 0.5
    np.testing.assert_allclose(found["scores"], expected, rtol=1e-6)
    (found,) = detector.detect(None, threshold=0.1, limit=1)
    assert found["labels"].tolist() == [1]


@pytest.mark.any_backend
def test_suppression():
    boxes = np.array([[0, 0, 4, 4], [0, 0, 4, 3], [0, 1, 4, 5], [9, 9, 9, 9]])
    iou = pairwise_iou(boxes, boxes[:1])[:, 0]
    np.testing.assert_allclose(iou, [1, 0.75, 0.6, 0])
    assert suppress(boxes, np.zeros(4), 0.7) == [0, 2, 3]
    assert suppress(boxes, np.zeros(4), 0.6) == [0, 3]
    assert suppress(boxes, np.array([0, 1, 0, 0]), 0.6) == [0, 1, 3]


@pytest.mark.any_backend
def test_maps_and_strides_that_do_not_fit():
    with pytest.raises(ValueError, match=r"stride of 6 pixels.*patch_size=8"):
        keras_vit.DetectionModel(tiny_vit(), 3, strides=(6,))
    head = keras_vit.layers.DetectionHead(3, strides=(8, 16))
    with pytest.raises(ValueError, match=r"strides \(8, 16\) and received 1 maps"):
        head([random_array(1, 2, 3, 8)])
