import pytest

from keras_vit.data.class_names import check_class_names
from keras_vit.labels import imagenet_1k

pytestmark = pytest.mark.any_backend


def check(names, expected):
    check_class_names("the set", names, "the run", expected, "Do something.")


def test_equal_names():
    check(("cat", "dog"), ["cat", "dog"])
    check([0, 1], ["0", "1"])
    check(["caf\u00e9", "dog"], ["cafe\u0301", "dog"])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["dog", "zebra"], "only the set has 'zebra'; only the run has 'cat'"),
        (["dog", "cat"], "label 0 is 'dog' in the set and 'cat' in the run"),
        (["cat"], "the set has 1 classes, the run 2; only the run has 'dog'"),
        (["cat", "Dog"], "only the set has 'Dog'; only the run has 'dog'"),
        (["cat", "dog "], "only the set has 'dog '; only the run has 'dog'"),
        (["cat\u200b", "dog"], r"only the set has 'cat\u200b'; only the run has 'cat'"),
        (["cat", "cat"], "only the run has 'dog'"),
        ([f"c{i}" for i in range(9)], "'c0', 'c1', 'c2', 'c3', 'c4' and 4 more;"),
    ],
)
def test_other_names(names, message):
    with pytest.raises(ValueError, match=r"Do something\.$") as error:
        check(names, ["cat", "dog"])
    assert message in str(error.value)


def test_imagenet_by_synset_and_by_name():
    synsets, words = zip(*imagenet_1k(), strict=True)
    described = [f"{word.replace('_', ' ')}, another word" for word in words]
    check(synsets, words)
    check(synsets, described)
    check(described, words)
    swapped = [synsets[1], synsets[0], *synsets[2:]]
    with pytest.raises(ValueError, match="not those of"):
        check(swapped, words)
