"""Web page of the server in headless Chromium."""

import csv
import pathlib

import numpy as np
import pytest

from keras_vit.data import Augmentation, batch_ids, open_source, training_batches
from tests.cases import array
from tests.commands import run_command
from tests.serve.served import LABELS, b64, file

Image = pytest.importorskip("PIL.Image")
saved = pytest.importorskip("tests.serve.attacks").saved
pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

# Simulates dropping a file from the desktop.
DROP = """([bytes, name]) => {
    const data = new DataTransfer();
    data.items.add(new File([new Uint8Array(bytes)], name));
    document.getElementById("drop").dispatchEvent(
        new DragEvent("drop", { dataTransfer: data, bubbles: true }));
}"""
# The overlay is opaque black where the attention is lowest.
BRIGHTNESS = """() => {
    const canvas = document.getElementById("picture");
    const { width, height } = canvas;
    const { data } = canvas.getContext("2d").getImageData(0, 0, width, height);
    const at = (x, y) => data[4 * (Math.floor(y * height) * width
        + Math.floor(x * width))];
    return { width, height, corner: at(0, 0), grid: [1 / 4, 3 / 4].map((y) =>
        [1 / 6, 3 / 6, 5 / 6].map((x) => at(0.05 + 0.9 * x, 0.05 + 0.9 * y))) };
}"""


def drop(page, content, name):
    page.evaluate(DROP, [list(content), name])


def attended(server, content):
    """Return the brightness of white under the overlay, from the attention map."""
    request = {"signature_name": "attention", "instances": [b64(content)]}
    (prediction,) = server.predict(request)[1]["predictions"]
    attention = np.array(prediction["attention"])
    return 255 * (1 - 200 / 255 * (1 - attention / attention.max())), prediction


def test_a_person_drops_an_image(browser, server, model):
    white = np.full((120, 180, 3), 255, "uint8")  # The aspect ratio of the model.
    white[:, :60] = 254
    probabilities = array(model(model.preprocessor(white[None])))[0]
    best = np.argsort(-probabilities)[:2]
    page = browser.new_page()
    problems, requests = [], []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and problems.append(m.text))
    page.on("request", lambda request: requests.append(request.url))
    url = f"http://127.0.0.1:{server.port}/"
    page.goto(url)
    assert "vit version 3" in page.inner_text("h1")

    drop(page, file(white), "white.png")
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#message") == "white.png"
    rows = [row.split("\n") for row in page.locator("#bars li").all_inner_texts()]
    wanted = [[LABELS[c], f"{100 * probabilities[c]:.1f} %"] for c in best]
    assert [[text for text in row if text] for row in rows] == wanted
    bars = page.eval_on_selector_all("meter", "bars => bars.map((b) => b.value)")
    np.testing.assert_allclose(bars, probabilities[best], atol=1e-4)

    wanted, _ = attended(server, file(white))
    shown = page.evaluate(BRIGHTNESS)
    assert (shown["width"], shown["height"]) == (180, 120)
    assert shown["corner"] == pytest.approx(255 * 0.2, abs=2)  # Outside the crop.
    np.testing.assert_allclose(shown["grid"], wanted, atol=6)
    page.uncheck("#show")
    shown = page.evaluate(BRIGHTNESS)
    assert shown["corner"] == 254
    assert np.min(shown["grid"]) >= 254
    assert problems == []

    drop(page, b"no image", "text.txt")
    page.get_by_text("image 0 cannot be decoded").wait_for()
    assert page.is_hidden("#result")
    # Chromium logs responses with status 400.
    assert [p for p in problems if "400" not in p] == []
    page.set_input_files(
        "#file",
        {
            "name": "again.png",
            "mimeType": "image/png",
            "buffer": file(white),
        },
    )
    page.wait_for_selector("#result:not([hidden])")
    assert page.inner_text("#message") == "again.png"
    assert all(address.startswith((url, "data:")) for address in requests)
    page.close()


def cosines(page):
    return [float(text) for text in page.locator("#grid strong").all_inner_texts()[1:]]


@pytest.mark.slow  # A minute of Chromium; the fast suite drops an image to classify.
def test_a_person_drops_images_to_compare(browser, features_server):
    pictures = {
        "sky.png": np.full((90, 120, 3), (90, 140, 230), "uint8"),
        "leaf.png": np.full((120, 80, 3), (40, 130, 50), "uint8"),
        "night.png": np.tile(np.uint8([[[0], [40]]]), (50, 60, 3)),
    }
    files = {name: file(image) for name, image in pictures.items()}
    request = {"signature_name": "embed", "instances": [*map(b64, files.values())]}
    predictions = features_server.predict(request, features_server.path)[1]["predictions"]
    vectors = np.array([prediction["pooled"] for prediction in predictions])
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosine = vectors @ vectors.T

    page = browser.new_page()
    problems = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("console", lambda m: m.type == "error" and problems.append(m.text))
    page.goto(f"http://127.0.0.1:{features_server.port}/")
    page.get_by_text("Drop images here").wait_for()
    drop(page, files["sky.png"], "sky.png")
    page.get_by_text("Drop more images").wait_for()
    buffers = [
        {"name": name, "mimeType": "image/png", "buffer": files[name]}
        for name in ("leaf.png", "night.png")
    ]
    page.set_input_files("#file", buffers)
    page.get_by_text("Most similar to night.png first").wait_for()
    names = list(files)
    for chosen in (2, 1):
        if chosen == 1:
            page.get_by_role("button", name="leaf.png").click()
        order = sorted({0, 1, 2} - {chosen}, key=lambda i: -cosine[chosen, i])
        wanted = [names[chosen], *(names[i] for i in order)]
        assert page.locator("#grid span").all_inner_texts() == wanted
        expected = [cosine[chosen, i] for i in order]
        np.testing.assert_allclose(cosines(page), expected, atol=6e-4)
        assert page.get_attribute("#grid button", "aria-pressed") == "true"
    sizes = page.eval_on_selector_all("#grid canvas", "all => all.map((c) => c.width)")
    assert sizes[0] == 80
    assert page.is_hidden("#result")
    assert problems == []

    drop(page, b"no image", "text.txt")
    page.get_by_text("text.txt: No image could be read").wait_for()
    assert page.locator("#grid li").count() == 3
    page.close()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_that_is_stored_turned(kind, browser, server):
    upright = np.full((120, 180, 3), 255, "uint8")
    upright[:16, :16] = 100  # This corner must appear at the top left.
    upright[40:, 120:] = 240
    stored = Image.fromarray(upright).transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x112] = 6
    options = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    options |= {"lossless": True} if kind == "WEBP" else {}
    content = saved(stored, kind, exif=exif, **options)
    wanted, prediction = attended(server, content)
    assert prediction["orientation"] == 6
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    drop(page, content, f"turned.{kind.lower()}")
    page.wait_for_selector("#result:not([hidden])")
    shown = page.evaluate(BRIGHTNESS)
    assert (shown["width"], shown["height"]) == (180, 120)
    assert shown["corner"] == pytest.approx(100 * 0.2, abs=3)
    picture = np.array([[255, 255, 255], [255, 255, 240]]) / 255
    np.testing.assert_allclose(shown["grid"], wanted * picture, atol=8)
    page.uncheck("#show")
    shown = page.evaluate(BRIGHTNESS)
    assert shown["corner"] == pytest.approx(100, abs=3)
    np.testing.assert_allclose(shown["grid"], 255 * picture, atol=3)
    page.close()


# How to store an upright picture for each EXIF orientation.
STORED = {
    1: None,
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_90",
    7: "TRANSVERSE",
    8: "ROTATE_270",
}


def trained_on(model, folder):
    """Return the probabilities of the images that training reads, by name."""
    source = open_source(f"folder:{folder}")
    (batch,) = training_batches(
        source, model.preprocessor, Augmentation(), len(STORED), seed=0, epochs=1
    )
    names = map(pathlib.Path, batch_ids(source, len(STORED), seed=0, step=0))
    outputs = array(model(array(batch[0])))
    return {path.name: row for path, row in zip(names, outputs, strict=True)}


def predicted(model, folder, workdir):
    """Return the probabilities that the command `predict` writes, by name."""
    model.save(workdir / "model.keras")
    words = [str(workdir / "model.keras"), str(folder), "--workdir", str(workdir)]
    run_command("predict", words)
    found = {}
    for row in csv.DictReader((workdir / "predictions.csv").open()):
        scores = found.setdefault(pathlib.Path(row["image"]).name, np.zeros(len(LABELS)))
        scores[int(row["class"])] = float(row["score"])
    return found


def shown(page, content, name):
    """Return the texts of the two best classes on the page."""
    drop(page, content, name)
    page.get_by_text(name, exact=True).wait_for()
    page.wait_for_selector("#result:not([hidden])")
    return page.locator("#bars li").all_inner_texts()


@pytest.mark.slow
def test_orientations_are_the_same_everywhere(browser, server, model, tmp_path):
    """Training, `keras-vit predict`, the bytes signature and the page agree."""
    coarse = np.random.default_rng(0).integers(0, 256, (3, 4, 3)).astype("uint8")
    upright = Image.fromarray(coarse).resize((90, 60))
    expected = array(model(model.preprocessor(np.asarray(upright)[None])))[0]
    files = {}
    for number, stored in STORED.items():
        exif, turned = Image.Exif(), upright
        if stored is not None:
            turned = upright.transpose(getattr(Image.Transpose, stored))
            raw = array(model(model.preprocessor(np.asarray(turned)[None])))[0]
            assert np.abs(raw - expected).max() > 0.01  # Turned images do differ.
        exif[0x112] = number
        files[f"{number}.png"] = saved(turned, "PNG", exif=exif)
    folder = tmp_path / "images"
    for class_name in ("a", "b"):
        (folder / class_name).mkdir(parents=True)
    for name, content in files.items():
        (folder / ("a" if name < "5" else "b") / name).write_bytes(content)
    seen = trained_on(model, folder)
    commanded = predicted(model, folder, tmp_path)
    best = np.argsort(-expected)[:2]
    wanted = [[LABELS[c], f"{100 * expected[c]:.1f} %"] for c in best]
    page = browser.new_page()
    page.goto(f"http://127.0.0.1:{server.port}/")
    for name, content in files.items():
        request = {"signature_name": "predict_bytes", "instances": [b64(content)]}
        (answer,) = server.predict(request)[1]["predictions"]
        for found in (seen[name], commanded[name], answer["probabilities"]):
            np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
        rows = [row.split("\n") for row in shown(page, content, name)]
        assert [[text for text in row if text] for row in rows] == wanted
    page.close()
