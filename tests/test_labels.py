import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.labels import imagenet_1k

pytestmark = pytest.mark.any_backend


def test_the_classes_of_imagenet():
    classes = imagenet_1k()
    synsets, names = zip(*classes, strict=True)
    assert len(set(synsets)) == 1000
    # ILSVRC2012 sorts the classes by synset.
    assert list(synsets) == sorted(synsets)
    # In all published lists, two words each name two classes.
    assert {name for name in names if names.count(name) > 1} == {"crane", "maillot"}
    known = {
        0: ["n01440764", "tench"],
        207: ["n02099601", "golden_retriever"],
        281: ["n02123045", "tabby"],
        517: ["n03126707", "crane"],
        999: ["n15075141", "toilet_tissue"],
    }
    assert {column: classes[column] for column in known} == known


def test_as_keras_does(monkeypatch):
    utils = keras.applications.imagenet_utils
    index = {str(i): entry for i, entry in enumerate(imagenet_1k())}
    # Keras caches its downloaded list of classes here.
    module = utils.decode_predictions.__globals__
    monkeypatch.setitem(module, "CLASS_INDEX", index)
    predictions = np.random.default_rng(0).random((3, 1000), "float32")
    expected = utils.decode_predictions(predictions, top=7)
    assert keras_vit.decode_predictions(predictions, top=7) == expected


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tensors_of_any_float(dtype):
    predictions = keras.ops.cast([[0.25, 0.5, 0.125]], dtype)
    decoded = keras_vit.decode_predictions(predictions, top=2, labels=["a", "b", "c"])
    assert decoded == [[(1, "b", 0.5), (0, "a", 0.25)]]
    assert type(decoded[0][0][2]) is float


def test_logits_come_in_the_order_of_their_probabilities():
    logits = np.random.default_rng(0).normal(size=(2, 1000)) * 20
    probabilities = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    names = [
        [[entry[:2] for entry in row] for row in keras_vit.decode_predictions(scores)]
        for scores in (logits, probabilities)
    ]
    assert names[0] == names[1]


def test_fewer_classes_than_asked_for_and_ties():
    decoded = keras_vit.decode_predictions(np.ones((1, 3)), labels=("a", "b", "c"))
    assert [name for _, name, _ in decoded[0]] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("shape", "arguments", "message"),
    [
        ((2, 21843), {}, r"\(b, 1000\); received \(2, 21843\).*labels=\[...\]"),
        ((1000,), {}, r"predictions\[None\]"),
        ((1, 2, 1000), {}, r"received \(1, 2, 1000\)"),
        ((2, 1000), {"labels": ["a", "b"]}, r"\(b, 2\).*one name for each column"),
        ((2, 1000), {"top": 0}, "top must be a positive int; received 0"),
    ],
)
def test_what_cannot_be_decoded(shape, arguments, message):
    with pytest.raises(ValueError, match=message):
        keras_vit.decode_predictions(np.zeros(shape), **arguments)
