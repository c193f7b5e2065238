import numpy as np
import pytest

from keras_vit.data.folders import image_files
from keras_vit.data.sources import digits, open_source

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


def examples(source):
    return list(source.examples().as_numpy_iterator())


def test_digits():
    pytest.importorskip("sklearn", reason="has the digits")
    source = open_source("digits:validation")
    found = examples(source)
    images, labels, index = digits()["validation"]
    assert source.num_examples == len(found) == 180
    assert source.num_classes == len(source.class_names) == 10
    assert source.image_shape == (8, 8, 1)
    np.testing.assert_array_equal([e["image"] for e in found], images)
    np.testing.assert_array_equal([e["label"] for e in found], labels)
    assert source.class_counts == tuple((labels == n).sum() for n in range(10))
    assert [e["id"].decode() for e in found] == [f"digits-{i}" for i in index]
    assert open_source("digits").num_examples == open_source("digits:train").num_examples


def test_digits_without_such_a_split():
    pytest.importorskip("sklearn", reason="has the digits")
    with pytest.raises(ValueError, match=r"digits is called 'tset'.*'test'"):
        open_source("digits:tset")


@pytest.mark.parametrize("name", ["imagenet", "tfds:", "folder:", "", "tdfs:cifar10"])
def test_unknown_kinds(name):
    with pytest.raises(ValueError, match="'folder:PATH'"):
        open_source(name)


def test_tfds(tfds_dir):
    source = open_source("tfds:tiny:train[:90%]", tfds_dir)
    found = examples(source)
    assert source.num_examples == len(found) == 18
    assert source.class_names == ("ant", "bee", "cat")
    assert source.num_classes == source.channels == 3
    assert source.image_shape == (8, 8, 3)
    assert [e["label"] for e in found] == [n % 3 for n in range(18)]
    assert len({e["id"] for e in found}) == 18
    assert found[0]["image"].startswith(b"\x89PNG")
    assert open_source("tfds:tiny", tfds_dir).num_examples == 20
    assert open_source("tfds:tiny:1.0.0:test", tfds_dir).num_examples == 7
    last = examples(open_source("tfds:tiny:train[18:]", tfds_dir))
    everything = examples(open_source("tfds:tiny:1.0.0", tfds_dir))
    assert [e["id"] for e in found + last] == [e["id"] for e in everything]


def test_tfds_warnings_about_itself_are_not_shown(tfds_dir, caplog):
    # Without the filter, TFDS warns ten times of a process that its own code reads a
    # deprecated attribute. Two other warnings show that only this one is hidden.
    from absl import logging

    logging.warning("before")
    examples(open_source("tfds:tiny:train[:1]", tfds_dir))
    logging.warning("`FeatureConnector.dtype` is deprecated.")
    logging.warning("after")
    messages = [record.getMessage() for record in caplog.records]
    assert messages == ["before", "after"]


def test_tfds_without_such_a_set_split_or_labels(tfds_dir):
    with pytest.raises(FileNotFoundError, match=r"'tony'.*'tiny'.*Prepared in .*tiny/1"):
        open_source("tfds:tony", tfds_dir)
    with pytest.raises(FileNotFoundError, match=r"cifar10.*not prepared.*tfds build"):
        open_source("tfds:cifar10", tfds_dir)
    with pytest.raises(FileNotFoundError, match=r"9\.9\.9.*tiny/1\.0\.0"):
        open_source("tfds:tiny:9.9.9", tfds_dir)
    with pytest.raises(ValueError, match=r"'tset'.*'test'"):
        open_source("tfds:tiny:tset", tfds_dir)
    with pytest.raises(ValueError, match="'label'"):
        open_source("tfds:unlabelled", tfds_dir)
    with pytest.raises(ValueError, match="no examples"):
        open_source("tfds:tiny:train[20:]", tfds_dir)


def test_folder(folder, tmp_path, encoded):
    (folder / "ant" / "notes.txt").write_text("no image")
    (folder / ".hidden").mkdir()
    (folder / "bee" / "more").mkdir()
    (folder / "bee" / "more" / "Ünï.JPEG").write_bytes(encoded())
    elsewhere = tmp_path / "elsewhere.png"
    elsewhere.write_bytes(encoded(file_format="PNG"))
    (folder / "çat" / "link.png").symlink_to(elsewhere)
    (folder / "çat" / "loop").symlink_to(folder / "çat")
    source = open_source(f"folder:{folder}")
    found = examples(source)
    assert source.class_names == ("ant", "bee", "çat")
    assert source.num_examples == len(found) == 20
    assert source.image_shape is None
    labels = {e["id"].decode(): e["label"] for e in found}
    assert labels["bee/more/Ünï.JPEG"] == 1
    assert labels["çat/link.png"] == 2
    assert labels["ant/5.jpg"] == 0
    assert found[0]["image"] == (folder / "ant" / "0.jpg").read_bytes()
    assert [e["id"] for e in found] == [e["id"] for e in examples(source)]


def test_bad_folders(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(f"folder:{tmp_path / 'nowhere'}")
    with pytest.raises(ValueError, match="no folders"):
        open_source(f"folder:{folder / 'ant'}")
    (folder / "empty").mkdir()
    with pytest.raises(ValueError, match=r"empty has no images.*\.png"):
        open_source(f"folder:{folder}")


@pytest.mark.parametrize("names", [("train", "val"), ("Training", "test"), ("valid",)])
def test_the_parts_of_a_set_are_not_its_classes(names, tmp_path, encoded):
    for part in names:
        for name in ("ant", "bee"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "0.jpg").write_bytes(encoded())
    with pytest.raises(ValueError, match="parts of a set") as error:
        open_source(f"folder:{tmp_path}")
    assert f"folder:{tmp_path / names[0]}" in str(error.value)
    assert open_source(f"folder:{tmp_path / names[0]}").class_names == ("ant", "bee")
    (tmp_path / "images").mkdir()  # Other directories are ignored.
    if len(names) > 1:
        with pytest.raises(ValueError, match="parts of a set"):
            open_source(f"folder:{tmp_path}")


@pytest.mark.parametrize("other", ["ANT", "ant ", "c\u0327at"])
def test_classes_that_look_the_same(other, folder, encoded):
    (folder / other).mkdir()
    (folder / other / "0.jpg").write_bytes(encoded())
    with pytest.raises(ValueError, match="differ only by case, by spaces") as error:
        open_source(f"folder:{folder}")
    assert repr(other) in str(error.value)


def test_files_that_are_left_out_are_counted_and_named(folder, caplog):
    (folder / "ant" / ".DS_Store").write_bytes(b"")
    open_source(f"folder:{folder}")
    assert not caplog.records
    for name in ("a.svg", "b.SVG", "README"):
        (folder / "ant" / name).write_bytes(b"")
    open_source(f"folder:{folder}")
    (record,) = caplog.records
    message = record.getMessage()
    assert f"left out 2 .svg files ({folder / 'ant' / 'a.svg'}, ...)" in message
    assert f"1 file without an ending ({folder / 'ant' / 'README'})" in message
    (folder / "empty").mkdir()
    (folder / "empty" / "c.svg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"no images .*; it holds 1 \.svg file \("):
        open_source(f"folder:{folder}")


def test_images_are_decoded_to_the_channels_of_a_model(folder, tfds_dir):
    for source in (
        open_source(f"folder:{folder}"),
        open_source("tfds:tiny:test", tfds_dir),
    ):
        grey = source.with_channels(1)
        assert grey.channels == 1
        assert source.with_channels(4).channels == 4
        assert source.with_channels(None) == source
    assert grey.image_shape == (8, 8, 1)


def test_hidden_files_and_links_of_any_folder(folder, tmp_path, encoded):
    (folder / "ant" / "._0.jpg").write_bytes(b"mac")
    (folder / "ant" / ".checkpoints").mkdir()
    (folder / "ant" / ".checkpoints" / "0.jpg").write_bytes(encoded())
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "6.jpg").write_bytes(encoded())
    (folder / "ant" / "linked").symlink_to(tmp_path / "far")
    images, others = image_files(folder / "ant")
    names = [f"{n}.jpg" for n in range(6)]
    assert images == [str(folder / "ant" / n) for n in (*names, "linked/6.jpg")]
    assert not others
