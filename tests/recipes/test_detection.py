"""Detection recipe: average precision, data, errors and results."""

import json
import types

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.layers import Preprocessor
from tests.cases import array, tiny_vit

pytest.importorskip("PIL.Image", reason="makes the images")
pytest.importorskip("sklearn", reason="has the digits")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


@pytest.fixture(scope="module")
def recipe():
    pytest.importorskip("tensorflow", reason="reads images")
    from recipes import (
        average_precision,
        detection,
        detection_data,
        digits_on_photographs,
    )

    return types.SimpleNamespace(
        average_precision=average_precision.average_precision,
        command=detection,
        data=detection_data,
        digits=digits_on_photographs,
    )


def found(*rows):
    """Return detections from rows `(y_min, x_min, y_max, x_max, label, score)`."""
    table = np.array(rows, "float64").reshape(-1, 6)
    return {
        "boxes": table[:, :4],
        "labels": table[:, 4].astype(int),
        "scores": table[:, 5],
    }


TRUE = [
    np.array([[0, 0, 10, 10, 0], [0, 20, 10, 30, 0]]),
    np.array([[0, 0, 10, 10, 0], [0, 0, 10, 10, 1]]),
]


def test_average_precision_by_hand(recipe):
    detections = [
        # IoU 1 with the first box; then a repetition of it, which is wrong.
        found([0, 0, 10, 10, 0, 0.9], [0, 0, 10, 9, 0, 0.8], [0, 0, 10, 10, 2, 0.9]),
        # IoU 0.6 with the box of class 0; nothing of class 1.
        found([0, 0, 10, 6, 0, 0.7]),
    ]
    values = recipe.average_precision(detections, TRUE, 4, [0.5, 0.6, 0.75])
    # Three boxes of class 0. Ranked: right, wrong, right at 0.5. The precision is 1 at
    # the 34 recalls up to 1/3, 2/3 at the 33 recalls up to 2/3, and 0 at the others.
    expected = (34 + 33 * 2 / 3) / 101
    np.testing.assert_allclose(values[0], [expected, expected, 34 / 101])
    assert values[1].tolist() == [0, 0, 0]
    assert np.isnan(values[2:]).all()


def test_average_precision_of_perfect_and_of_no_detections(recipe):
    perfect = [
        found(*np.column_stack([boxes, np.linspace(0.5, 0.9, len(boxes))]))
        for boxes in TRUE
    ]
    np.testing.assert_array_equal(recipe.average_precision(perfect, TRUE, 2), 1)
    nothing = [found(), found()]
    np.testing.assert_array_equal(recipe.average_precision(nothing, TRUE, 2), 0)


def test_a_box_is_matched_once_and_to_its_own_image(recipe):
    twice = [found([0, 0, 10, 10, 1, 0.9]), found([0, 0, 10, 10, 1, 0.5])]
    (_, (value,)) = recipe.average_precision(twice, TRUE, 2, [0.5])
    assert value == pytest.approx(0.5)  # The first one is on the wrong image.


def test_boxes_of_digits_enclose_their_masks(recipe):
    examples = recipe.digits.paste(None, 6, 40, "train")
    boxed = recipe.digits.boxed_digits(None, 6, 40, "train")
    read = list(boxed.references.map(boxed.read).as_numpy_iterator())
    covered = np.zeros(6, bool)
    for number, (image, boxes) in enumerate(read):
        np.testing.assert_array_equal(image, examples["image"][number])
        mask = examples["mask"][number]
        for *box, label in boxes:
            top, left, bottom, right = np.rint(np.multiply(box, 40)).astype(int)
            inside = mask[top:bottom, left:right] == label + 1
            if len(boxes) == 1:
                assert (mask == label + 1).sum() == inside.sum() > 0
                assert inside.any(0).all()
                assert inside.any(1).all()
                covered[number] = True
    assert covered.any()
    assert {len(boxes) for _, boxes in read} == {1, 2}


def test_boxes_follow_crops_and_flips(recipe):
    import tensorflow as tf

    image = np.zeros((40, 60, 3), "uint8")
    image[10:30, 20:50] = 255
    box = np.array([[0.25, 1 / 3, 0.75, 5 / 6, 1], [0, 0, 0.01, 0.01, 0]], "float32")
    references = tf.data.Dataset.from_tensors({"image": image, "boxes": box}).repeat(16)
    examples = recipe.data.BoxedImages(
        ("a", "b"), 16, references, lambda e: (e["image"], e["boxes"])
    )
    model = types.SimpleNamespace(
        input_shape=(None, 32, 48, 3), preprocessor=Preprocessor(0.0, 255.0, (32, 48))
    )
    ((images, boxes),) = recipe.data.batches(examples, model, 16, seed=0)
    assert boxes.shape == (16, recipe.data.MAX_BOXES, 5)
    seen = set()
    for pixels, rows in zip(array(images), array(boxes), strict=True):
        kept = rows[rows[:, 4] == 1]
        if not len(kept):  # The crop shows less than half of it.
            continue
        (row,) = kept
        y, x = (np.nonzero((pixels[..., 0] > 0.5).any(axis))[0] for axis in (1, 0))
        shown = y[0], x[0], y[-1] + 1, x[-1] + 1
        np.testing.assert_allclose(row[:4], shown, atol=1)
        seen.add(tuple(shown))
        assert (rows[2:] == -1).all()
    assert len(seen) > 6
    assert (array(boxes)[..., 4] == 0).sum() < 16  # The corner is often cut off.
    ((_, whole),) = recipe.data.batches(examples, model, 16)
    np.testing.assert_allclose(array(whole)[3, 0], [8, 16, 24, 40, 1], rtol=1e-5)


def test_tfds(recipe, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="makes the set")
    objects = tfds.features.Sequence(
        {
            "bbox": tfds.features.BBoxFeature(),
            "label": tfds.features.ClassLabel(names=["cat", "dog"]),
        }
    )
    image = tfds.features.Image(shape=(None, None, 3))
    box = tfds.features.BBox(ymin=0.25, xmin=0.0, ymax=1.0, xmax=0.5)
    example = {"image": np.full((6, 8, 3), 9, "uint8")}
    for name, feature in (("boxed", objects), ("plain", None)):
        features = {"image": image}
        if feature:
            features["objects"] = feature
            example["objects"] = [{"bbox": box, "label": 1}]
        else:
            del example["objects"]
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=tmp_path,
            features=tfds.features.FeaturesDict(features),
            split_datasets={"train": [(n, example) for n in range(3)]},
            disable_shuffling=True,
        )
    opened = recipe.data.tfds("boxed:train[1:]", tmp_path)
    assert opened.class_names == ("cat", "dog")
    assert opened.num_examples == 2
    (pixels, boxes), _ = opened.references.map(opened.read).as_numpy_iterator()
    assert (pixels == 9).all()
    assert boxes.tolist() == [[0.25, 0, 1, 0.5, 1]]
    with pytest.raises(ValueError, match=r"'objects/bbox'.*; it has 'image'"):
        recipe.data.tfds("plain", tmp_path)


def run(recipe, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["detection", *map(str, words)])
    recipe.command.main()


def test_the_command_refuses_data_before_it_makes_anything(recipe, tmp_path, monkeypatch):
    words = ["--checkpoint", "none.keras", "--workdir", tmp_path / "run"]
    with pytest.raises(SystemExit, match="each must be 'tfds:NAME"):
        run(recipe, monkeypatch, *words, "--data", "folder:pets")
    with pytest.raises(SystemExit, match=r"none\.keras"):
        run(recipe, monkeypatch, *words, "--images", 4, "--size", 16)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_command(recipe, tmp_path, monkeypatch, capsys):
    backbone = tiny_vit(input_shape=(32, 32, 3), include_top=False)
    backbone.save(tmp_path / "vit.keras")
    words = ["--checkpoint", tmp_path / "vit.keras", "--size", 32, "--images", 8]
    words += ["--epochs", 1, "--filters", 8, "--workdir", tmp_path / "run"]
    run(recipe, monkeypatch, *words)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert f"AP50 {100 * results['ap50']:.1f} %" in capsys.readouterr().out
    assert (tmp_path / "run" / "detections.png").read_bytes().startswith(b"\x89PNG")
    model = keras.models.load_model(tmp_path / "run" / "model.keras")
    assert isinstance(model, keras_vit.DetectionModel)


@pytest.mark.slow
def test_a_few_digits_are_learned_by_heart(recipe):
    """Overfit four images, which must be found again almost exactly."""
    backbone = tiny_vit(input_shape=(32, 32, 3), patch_size=4, include_top=False)
    model = keras_vit.DetectionModel(backbone, 10, strides=(4,), filters=32)
    examples = recipe.digits.boxed_digits(None, 4, 32, "train")
    batches = recipe.data.batches(examples, model, 4)
    ((images, boxes),) = batches.as_numpy_iterator()
    model.compile(keras.optimizers.Adam(5e-3), keras_vit.DetectionLoss.of(model))
    model.fit(images, boxes, epochs=150, verbose=0)
    results = recipe.command.evaluate(model, batches, examples.class_names)
    assert results["ap50"] > 0.9
