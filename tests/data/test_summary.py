"""Summaries of data sets."""

import pytest
from PIL import Image

from keras_vit.data import open_source
from keras_vit.data.summary import summary

pytestmark = pytest.mark.any_backend


def write(path, counts, size=(6, 4)):
    for name, count in counts.items():
        (path / name).mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (size[0] + i, size[1])).save(path / name / f"{i}.png")
    return path


def test_sizes_imbalance_and_what_is_left_out(tmp_path):
    write(tmp_path, {"cat": 6, "dog": 2})
    (tmp_path / "dog" / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "dog" / "scan.svg").write_bytes(b"")
    (tmp_path / "stray.png").write_bytes(b"")
    text = summary({"train": open_source(f"folder:{tmp_path}")})
    assert "6x4 to 11x4 pixels, median 8x4 (9 images were looked at)" in text
    assert "cat (6) has 2.0 times as many images as dog (3)" in text
    assert "data.sampling=balanced" in text
    assert "unreadable   1 of 9 (dog/bad.jpg)" in text
    assert "left out     1 .svg file" in text
    assert f"1 .png file ({tmp_path / 'stray.png'}) in no class folder" in text


def test_many_classes_are_shortened(tmp_path):
    write(tmp_path, {f"class_{i:02}": 1 for i in range(40)})
    lines = summary({"train": open_source(f"folder:{tmp_path}")}).splitlines()
    assert sum("class_" in line for line in lines) == 23
    shortened = lines.index("               ... 17 more")
    assert "class_19" in lines[shortened - 1]
    assert "class_37" in lines[shortened + 1]


def test_sets_of_pixels():
    text = summary({"train": open_source("digits"), "test": open_source("digits:test")})
    assert "8x8 pixels, 1 channels" in text
    assert "train        1,257 images, digits" in text
