"""Segmentation recipe: its data, its errors and its results."""

import types

import numpy as np
import pytest

from keras_vit.layers import Classifier, Preprocessor
from keras_vit.models.segmentation import SegmentationModel
from tests.cases import array, perturb, tiny_vit

image_module = pytest.importorskip("PIL.Image", reason="reads masks")
pytest.importorskip("sklearn", reason="has the digits")
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]


@pytest.fixture(scope="module")
def recipe():
    pytest.importorskip("tensorflow", reason="reads images")
    from recipes import digits_on_photographs, segmentation, segmentation_data

    return types.SimpleNamespace(
        command=segmentation, data=segmentation_data, digits=digits_on_photographs
    )


@pytest.fixture(scope="module")
def digits(recipe):
    return recipe.digits.digits(None, 6, 24, "train")


@pytest.fixture
def folder(recipe, digits, tmp_path):
    recipe.digits.write(digits, tmp_path / "set")
    return tmp_path / "set"


def pairs(examples):
    read = examples.references.map(examples.read).as_numpy_iterator()
    return [(image, np.squeeze(mask)) for image, mask in read]


def assert_same(one, other):
    for expected, found in zip(one, other, strict=True):
        for x, y in zip(expected, found, strict=True):
            np.testing.assert_array_equal(x, y)


def test_digits_are_reproducible_and_known_by_their_masks(recipe, digits):
    again = recipe.digits.digits(None, 6, 24, "train")
    assert_same(pairs(digits), pairs(again))
    assert digits.class_names[1:] == tuple("0123456789")
    masks = np.stack([mask for _, mask in pairs(digits)])
    assert masks.dtype == "uint8"
    assert 0.3 < (masks == 0).mean() < 0.95
    assert masks.max() <= 10
    test = recipe.digits.digits(None, 6, 24, "test")
    assert not np.array_equal(masks, [mask for _, mask in pairs(test)])


def test_a_folder_holds_what_was_written(recipe, digits, folder):
    opened = recipe.data.folder(folder)
    assert opened.class_names == digits.class_names
    assert opened.num_examples == 6
    assert_same(pairs(digits), pairs(opened))


def test_a_set_is_written_into_new_folders(recipe, tmp_path, capsys):
    words = [str(tmp_path), "--size", "24", "--images", "3"]
    recipe.digits.main(words)
    assert len(list((tmp_path / "train" / "images").iterdir())) == 3
    assert len(list((tmp_path / "test" / "images").iterdir())) == 1
    (tmp_path / "train").rename(tmp_path / "other")
    with pytest.raises(SystemExit, match="2"):
        recipe.digits.main(words)
    assert f"{tmp_path / 'test'} exists; remove it" in capsys.readouterr().err
    assert not (tmp_path / "train").exists()


def test_few_digits_have_a_test_image(recipe):
    arguments = types.SimpleNamespace(data="digits", photos=None, images=3, size=24)
    train, test = recipe.command.open_data(arguments)
    assert (train.num_examples, test.num_examples) == (3, 1)


def test_masks_with_a_palette(recipe, folder):
    file = folder / "masks" / "00002.png"
    mask = np.asarray(image_module.open(file))
    palette = image_module.fromarray(mask, "L").convert("P")
    palette.putdata(mask.ravel().tolist())
    palette.putpalette(list(range(255, -1, -1)) * 3)
    palette.save(file)
    np.testing.assert_array_equal(pairs(recipe.data.folder(folder))[2][1], mask)


def rewrite(pixels):
    def change(folder):
        image_module.fromarray(pixels).save(folder / "masks" / "00003.png")

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda f: (f / "masks" / "00003.png").unlink(),
            r"1 of 6 images .*masks, the first one is .*images/00003\.png",
        ),
        (
            lambda f: (f / "images" / "00003.png").unlink(),
            r"1 of 6 masks .*images, the first one is .*masks/00003\.png",
        ),
        (
            lambda f: (f / "images" / "00003.jpg").write_bytes(b""),
            r"00003\.jpg and .*images/00003\.png have the same name",
        ),
        (
            rewrite(np.zeros((24, 30), "uint8")),
            r"masks/00003\.png has 30x24 pixels, .*images/00003\.png has 24x24",
        ),
        (
            rewrite(np.full((24, 24), 11, "uint8")),
            r"00003\.png has the value 11.*0 to 10",
        ),
        (rewrite(np.zeros((24, 24, 3), "uint8")), "mode 'RGB'"),
        (lambda f: (f / "classes.txt").unlink(), "name of each class on a line"),
        (lambda f: (f / "masks").rename(f / "labels"), "masks does not exist"),
    ],
)
def test_bad_folders(recipe, folder, change, message):
    change(folder)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        recipe.data.folder(folder)


def test_a_mask_is_as_upright_as_its_image(recipe, folder):
    exif = image_module.Exif()
    exif[0x0112] = 6
    picture = image_module.fromarray(np.zeros((24, 30, 3), "uint8"))
    picture.save(folder / "images" / "00003.png", exif=exif)
    rewrite(np.zeros((30, 24), "uint8"))(folder)
    image, mask = pairs(recipe.data.folder(folder))[3]
    assert image.shape[:2] == mask.shape == (30, 24)


def test_image_and_mask_are_cropped_and_flipped_alike(recipe):
    import tensorflow as tf

    mask = np.zeros((40, 60), "uint8")
    mask[:20, :30], mask[20:, :30], mask[20:, 30:] = 1, 2, 3
    image = np.repeat(50 * mask[..., None], 3, axis=-1)
    references = tf.data.Dataset.from_tensors({"image": image, "mask": mask}).repeat(16)
    examples = recipe.data.MaskedImages(
        tuple("abcd"), 16, references, lambda e: (e["image"], e["mask"])
    )
    model = types.SimpleNamespace(
        input_shape=(None, 16, 24, 3), preprocessor=Preprocessor(0.0, 50.0, (16, 24))
    )
    ((images, masks),) = recipe.data.batches(examples, model, 16, seed=0)
    assert images.shape == (16, 16, 24, 3)
    assert masks.dtype == "int32"
    agree = np.abs(array(images)[..., 0] - array(masks)) < 0.3
    assert agree.mean() > 0.9
    corners = array(masks)[:, 0, 0]
    assert set(corners) == {0, 1}  # Some are mirrored.
    assert len({m.tobytes() for m in array(masks)}) > 8
    ((_, whole),) = recipe.data.batches(examples, model, 16)
    assert (array(whole) == array(whole)[0]).all()


def test_tfds(recipe, tmp_path):
    tfds = pytest.importorskip("tensorflow_datasets", reason="makes the set")
    image = tfds.features.Image(shape=(None, None, 3))
    named = tfds.features.LabeledImage(labels=["sky", "sea"], shape=(None, None, 1))
    plain = tfds.features.Image(shape=(None, None, 1))
    example = {"image": np.full((6, 8, 3), 9, "uint8")}
    for name, feature in (("named", named), ("plain", plain), ("empty", None)):
        features = {"image": image}
        if feature is not None:
            features["segmentation_mask"] = feature
            example["segmentation_mask"] = np.ones((6, 8, 1), "uint8")
        else:
            del example["segmentation_mask"]
        tfds.dataset_builders.store_as_tfds_dataset(
            name=name,
            version="1.0.0",
            data_dir=tmp_path,
            features=tfds.features.FeaturesDict(features),
            split_datasets={"train": [(n, example) for n in range(3)]},
            disable_shuffling=True,
        )
    opened = recipe.data.tfds("named:train[1:]", tmp_path)
    assert opened.class_names == ("sky", "sea")
    assert opened.num_examples == 2
    found, mask = pairs(opened)[0]
    assert (found == 9).all()
    assert (mask == 1).all()
    assert len(recipe.data.tfds("plain", tmp_path, classes=4).class_names) == 4
    with pytest.raises(ValueError, match="--classes"):
        recipe.data.tfds("plain", tmp_path)
    with pytest.raises(ValueError, match="'segmentation_mask'; it has 'image'"):
        recipe.data.tfds("empty", tmp_path)
    model = types.SimpleNamespace(
        input_shape=(None, 6, 8, 3), preprocessor=Preprocessor(image_size=(6, 8))
    )
    wrong = recipe.data.tfds("plain", tmp_path, classes=1)
    with pytest.raises(Exception, match="classes from 0 to 0"):
        next(iter(recipe.data.batches(wrong, model, 2)))


def test_the_results_are_those_of_the_formula(recipe):
    model = SegmentationModel(tiny_vit(), Classifier(4))
    perturb(model)
    generator = np.random.default_rng(0)
    images = generator.normal(size=(3, 16, 24, 3)).astype("float32")
    masks = generator.choice([0, 1, 1, 255], (3, 16, 24))
    import tensorflow as tf

    batches = tf.data.Dataset.from_tensor_slices((images, masks)).batch(2)
    results = recipe.command.evaluate(model, batches, ["a", "b", "c", "d"])
    counted = masks != 255
    true, found = masks[counted], array(model(images)).argmax(-1)[counted]
    iou = {}
    for index, name in enumerate("abcd"):
        if union := np.sum((true == index) | (found == index)):
            iou[name] = np.sum((true == index) & (found == index)) / union
    assert results["iou"] == pytest.approx(iou)
    assert results["miou"] == pytest.approx(np.mean(list(iou.values())))
    assert results["majority_class"] == "b"
    assert results["majority_miou"] == pytest.approx((true == 1).mean() / 2)


def run(recipe, monkeypatch, *words):
    monkeypatch.setattr("sys.argv", ["segmentation", *map(str, words)])
    recipe.command.main()


def test_the_command_refuses_data_before_it_makes_anything(recipe, tmp_path, monkeypatch):
    words = ["--checkpoint", "none.keras", "--workdir", tmp_path / "run"]
    with pytest.raises(SystemExit, match="each must be 'folder:PATH'"):
        run(recipe, monkeypatch, *words, "--data", "pets")
    with pytest.raises(SystemExit, match=r"none\.keras"):
        run(recipe, monkeypatch, *words, "--images", 4, "--size", 16)
    assert not (tmp_path / "run").exists()
