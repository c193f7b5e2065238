import numpy as np
import pytest

from keras_vit.data.sources import open_source
from keras_vit.data.splits import split_off, tfds_slices

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


@pytest.fixture
def uneven(tmp_path):
    """Create a folder of three classes with 1, 2 and 20 files."""
    for name, count in (("a", 1), ("b", 2), ("c", 20)):
        (tmp_path / "set" / name).mkdir(parents=True)
        for number in range(count):
            (tmp_path / "set" / name / f"{number}.png").write_bytes(b"%d" % number)
    return open_source(f"folder:{tmp_path / 'set'}")


def ids(source):
    return [example["id"] for example in source.references().as_numpy_iterator()]


def test_parts_are_stratified_and_whole(uneven):
    rest, taken = split_off(uneven, "split:0.25")
    assert rest.class_counts == (1, 1, 15)
    assert taken.class_counts == (0, 1, 5)
    for part in (rest, taken):
        assert part.num_examples == len(ids(part)) == sum(part.class_counts)
        assert part.class_names == uneven.class_names
        labels = [e["label"] for e in part.examples().as_numpy_iterator()]
        assert tuple(np.bincount(labels, minlength=3)) == part.class_counts
        assert [name.encode() for name, *_ in part.listing()] == ids(part)
    assert sorted(ids(rest) + ids(taken)) == sorted(ids(uneven))
    assert taken.name == f"split:0.25 of {uneven.name}"


def test_the_seed_decides(uneven):
    first, again, other = (
        ids(split_off(uneven, f"split:0.2{seed}")[1]) for seed in ("", ":0", ":1")
    )
    assert first == again != other
    nearly_all = split_off(uneven, "split:0.99")[0]
    assert nearly_all.class_counts == (1, 1, 1)


@pytest.mark.parametrize(
    "name",
    ["split", "split:", "split:0", "split:1", "split:10%", "split:0.1:x"],
)
def test_shares_that_are_none(name, uneven):
    with pytest.raises(ValueError, match=r"form 'split:SHARE'.*'split:0\.1'"):
        split_off(uneven, name)


def test_sets_that_cannot_be_split(tmp_path, encoded, tfds_dir):
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(encoded())
    with pytest.raises(ValueError, match=r"every class of .* a single image"):
        split_off(open_source(f"folder:{tmp_path}"), "split:0.5")
    with pytest.raises(ValueError, match=r"only data\.validation can be one"):
        open_source("split:0.1")
    with pytest.raises(ValueError, match="splits folders and not") as error:
        split_off(open_source("tfds:tiny", tfds_dir), "split:0.2")
    settings = "'data.train=tfds:tiny:train[:80%]' and "
    assert settings + "'data.validation=tfds:tiny:train[80%:]'." in str(error.value)


def test_slices_of_tfds():
    assert tfds_slices("tfds:a/b:1.0.0", 0.1)[0] == "tfds:a/b:1.0.0:train[:90%]"
    assert tfds_slices("tfds:a:test", 0.1)[1] == "tfds:a:test[90%:]"
    assert tfds_slices("tfds:a:train[:50%]", 0.1) is None
    assert tfds_slices("folder:a", 0.1) is None
