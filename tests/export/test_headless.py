"""Exports of models without a classifier, which return features."""

import collections

import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.export import comparison, litert, onnx, saved_model
from keras_vit.export.attention import attention_rollout
from keras_vit.exported_model import Export
from keras_vit.layers import Preprocessor, ResNetStem, TokenPooling
from tests.cases import array, perturb, random_array, random_images, tiny_t2t, tiny_vit
from tests.commands import run_command
from tests.conftest import GOLDENS
from tests.export.models import pixels
from tests.export.program import describe
from tests.export.serving import exports_here, serve_here
from tests.export.test_saved_model import png
from tests.export.test_single_file import run_litert, run_onnx

pytestmark = [pytest.mark.any_backend, pytest.mark.usefixtures("tensorflow")]

SHARED = GOLDENS.parents[2] / "shared"


def expected(model, images):
    """Return the features that Keras computes for pixels."""
    tokens = outputs = model(model.preprocessor(images))
    if model.get_config()["pooling"] is not None:
        inside = keras.Model(model.inputs, model.get_layer("pooling").input)
        tokens = inside(model.preprocessor(images))
    tokens = array(tokens)[:, model.num_prefix_tokens :]
    grid = tokens.reshape(len(tokens), *model.grid_shape, -1)
    if model.get_config()["pooling"] is None:
        return {"tokens": grid}
    return {"pooled": array(outputs), "tokens": grid}


def check(served, wanted, tolerance=comparison.TOLERANCE):
    assert set(served) == set(wanted)
    for name, values in wanted.items():
        assert served[name].dtype == np.float32
        scale = max(1.0, float(np.abs(values).max()))
        np.testing.assert_allclose(
            served[name] / scale, values / scale, rtol=0, atol=tolerance, err_msg=name
        )


def test_the_signatures_of_a_headless_export(headless):
    rows, columns = headless.model.grid_shape
    of_images = {"images": ["float32", [-1, -1, -1, 3]]}
    of_pixels = {"images": ["uint8", [-1, -1, -1, 3]]}
    of_files = {"image_bytes": ["string", [-1]]}
    pooled = {"pooled": ["float32", [-1, 16]]}
    features = {**pooled, "tokens": ["float32", [-1, rows, columns, 16]]}
    error = {"error": ["int32", [-1]]}
    attention = {
        "attention": ["float32", [-1, rows, columns]],
        "crop_fraction": ["float32", [-1]],
        "orientation": ["int32", [-1]],
    }
    assert describe(headless.directory / "1")["signatures"] == {
        "serving_default": [of_images, features],
        "predict_uint8": [of_pixels, features],
        "features": [of_images, features],
        "embed": [of_files, {**pooled, **error}],
        "features_bytes": [of_files, {**features, **error}],
        "attention": [of_files, {**attention, **error}],
    }


def test_a_headless_export_gives_the_features_of_keras(headless, tmp_path):
    model = headless.model
    images = np.concatenate([pixels(model, 3), pixels(model, 3)[:, :5]], axis=1)
    files = [png(image) for image in images]
    files.insert(1, b"no image")
    answers = serve_here(
        headless.directory / "1",
        [
            ("serving_default", "images", images.astype("float32")),
            ("features", "images", images.astype("float32")),
            ("predict_uint8", "images", images),
            ("embed", "image_bytes", files),
            ("features_bytes", "image_bytes", files),
            ("attention", "image_bytes", files),
        ],
        tmp_path,
    )
    wanted = expected(model, images)
    for answer in answers[:3]:
        check(answer, wanted)
    for answer in answers[3:]:
        assert answer.pop("error").tolist() == [0, 1, 0, 0]
    for answer, names in zip(answers[3:5], (["pooled"], wanted), strict=True):
        assert not any(values[1].any() for values in answer.values())
        fine = {name: values[[0, 2, 3]] for name, values in answer.items()}
        check(fine, {name: wanted[name] for name in names})
    rollout = array(attention_rollout(model)(model.preprocessor(images)))
    served = answers[5]["attention"][[0, 2, 3]]
    np.testing.assert_allclose(served, rollout, rtol=0, atol=1e-5)


def test_the_command_prints_how_to_get_features(headless):
    assert '"signature_name": "embed"' in headless.printed
    assert "keras-vit query" not in headless.printed


@pytest.mark.slow
def test_a_headless_onnx_file_has_one_operation_for_each_norm(tmp_path):
    onnx_package = pytest.importorskip("onnx", reason="reads ONNX files")
    runtime = pytest.importorskip("onnxruntime", reason="runs ONNX files")
    # A model that resizes images has other square roots and products.
    preprocessor = Preprocessor.imagenet((16, 24))
    model = perturb(
        tiny_vit(include_top=False, activation="gelu", preprocessor=preprocessor)
    )
    with exports_here():
        path = onnx(model, tmp_path / "vit.onnx", verbose=False)
    images = pixels(model, 7).astype("float32")
    (result,) = run_onnx(path, [images])
    check(result, expected(model, images))
    proto = onnx_package.load(path)
    assert not proto.metadata_props
    found = collections.Counter(node.op_type for node in proto.graph.node)
    assert found["LayerNormalization"] == 5
    options = runtime.SessionOptions()
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    runtime.InferenceSession(path, options)
    nodes = onnx_package.load(tmp_path / "optimized.onnx").graph.node
    assert [node.op_type for node in nodes].count("Gelu") == 2
    with pytest.raises(ValueError, match=r"no classifier: it returns pooled, tokens"):
        Export(str(path))


@pytest.mark.slow
def test_a_litert_file_of_a_model_without_pooling(tmp_path):
    pytest.importorskip("ai_edge_litert", reason="runs LiteRT files")
    model = perturb(tiny_vit(include_top=False, pooling=None, class_token=True))
    with exports_here():
        path = litert(model, tmp_path / "vit.tflite", verbose=False)
    images = pixels(model, 7).astype("float32")
    (result,) = run_litert(path, [images])
    check(result, expected(model, images))
    with pytest.raises(ValueError, match=r"no classifier: it returns tokens"):
        Export(str(path))


def test_evaluation_of_a_headless_saved_model(headless):
    with pytest.raises(ValueError, match=r"no classifier: it returns pooled, tokens"):
        Export(str(headless.directory))


def test_attention_to_the_token_that_a_layer_pools():
    model = perturb(tiny_vit(include_top=False, pooling=TokenPooling(1), registers=1))
    same = perturb(tiny_vit(include_top=False, pooling="token", registers=1))
    images = random_images(model)
    assert model.num_prefix_tokens == same.num_prefix_tokens == 2
    maps = [array(attention_rollout(m)(images)) for m in (model, same)]
    assert np.abs(maps[0] - maps[1]).max() > 1e-4


def test_options_that_need_a_classifier(tmp_path, capsys):
    tiny_vit(include_top=False).save(tmp_path / "model.keras")
    command = [str(tmp_path / "model.keras"), "--to", str(tmp_path / "served")]
    with pytest.raises(SystemExit, match="--top-k 2 is for models with a classifier"):
        run_command("export", [*command, "--top-k", "2"])
    (tmp_path / "labels.txt").write_text("a\n")
    with pytest.raises(SystemExit, match=r"labels name the classes.*include_top=False"):
        run_command("export", [*command, "--labels", str(tmp_path / "labels.txt")])


FORMATS = ("saved_model", "onnx", "litert")
TEXTS = random_array(3, 16)


def run(model, file_format, images, folder):
    """Export a model, and return the features of some pixels."""
    with exports_here():
        if file_format == "saved_model":
            path = saved_model(model, folder / "served", verbose=False)
        else:
            ending = {"onnx": "onnx", "litert": "tflite"}[file_format]
            write = {"onnx": onnx, "litert": litert}[file_format]
            path = write(model, folder / f"vit.{ending}", verbose=False)
    if file_format == "saved_model":
        request = ("serving_default", "images", images)
        (answer,) = serve_here(path, [request], folder)
        return answer
    runner = run_onnx if file_format == "onnx" else run_litert
    return runner(path, [images])[0]


MODELS = {
    "no_pooling": lambda: tiny_vit(include_top=False, pooling=None, class_token=True),
    "gap": lambda: tiny_vit(
        include_top=False, pooling="gap", final_norm="after_pooling", dtype="bfloat16"
    ),
    "map": lambda: tiny_vit(include_top=False, pooling="map", registers=1),
    "token_gap": lambda: tiny_vit(include_top=False, pooling="token_gap"),
    "distilled": lambda: tiny_vit(include_top=False, distillation_token=True),
    "hybrid": lambda: tiny_vit(
        include_top=False, stem=ResNetStem((1,), width=32), patch_size=2
    ),
    "t2t": lambda: tiny_t2t(include_top=False),
    "t2t_no_pooling": lambda: tiny_t2t(include_top=False, pooling=None),
}


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", MODELS)
def test_networks(name, file_format, tmp_path):
    model = perturb(MODELS[name]())
    images = pixels(model, 7).astype("float32")
    served = run(model, file_format, images, tmp_path)
    config = {**model.get_config(), "dtype": "float32"}
    exact = type(model).from_config(config)
    exact.set_weights([array(weight) for weight in model.weights])
    if file_format == "litert":  # The client resizes and crops.
        exact.preprocessor = exact.preprocessor.with_image_size(None)
    check(served, expected(exact, images))


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
def test_a_zero_shot_classifier(file_format, tmp_path):
    model = perturb(tiny_vit(include_top=False, pooling="map"))
    classifier = model.zero_shot(TEXTS, 10.0, class_names=["a", "b", "c"])
    images = pixels(model, 7).astype("float32")
    served = run(classifier, file_format, images, tmp_path)
    embeddings = array(model(model.preprocessor(images)))
    normal = [x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (embeddings, TEXTS)]
    np.testing.assert_allclose(
        served["logits"], 10.0 * normal[0] @ normal[1].T, rtol=0, atol=1e-4
    )


MODERN = (
    *("hf_beit", "hf_clip", "hf_dinov2_registers", "hf_dinov3", "hf_ijepa", "hf_siglip"),
    *("timm_aimv2", "timm_eva02", "timm_pe_core", "timm_rope_mixed", "timm_rpn"),
    "timm_so150m2",
)


@pytest.mark.slow
@pytest.mark.skipif(not SHARED.is_dir(), reason="modern families are NOT TESTED")
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", MODERN)
def test_modern_families(name, file_format, tmp_path):
    """Export a family without its head, and compare it with Keras and the reference."""
    directory = SHARED / "goldens_modern" / name
    model = keras_vit.load_checkpoint(directory, head="drop")
    # The inputs of the reference are preprocessed already.
    model.preprocessor = Preprocessor(mean=0.0, std=1.0)
    with np.load(f"{directory}.io.npz") as io:
        reference = {key: io[key] for key in io.files}
    images = reference["inputs"]
    served = run(model, file_format, images, tmp_path)
    check(served, expected(model, images))
    if "pooled" in reference:
        check({"pooled": served["pooled"]}, {"pooled": reference["pooled"]})
    if "tokens" in reference:
        grid = reference["tokens"][:, model.num_prefix_tokens :]
        wanted = grid.reshape(served["tokens"].shape)
        check({"tokens": served["tokens"]}, {"tokens": wanted})


@pytest.fixture(scope="module")
def photographs():
    """Return ten JPEG files."""
    folder = SHARED / "real" / "photos"
    if not folder.is_dir():
        pytest.skip("exports on photographs are NOT TESTED")
    return [path.read_bytes() for path in sorted(folder.glob("*.JPEG"))]


def trained():
    directory = SHARED / "real" / "dinov2_small_saliency"
    return keras_vit.load_checkpoint(directory, input_shape=(224, 224, 3))


NETWORKS = {
    "vit": lambda: perturb(keras_vit.ViTTi16(include_top=False)),
    "dinov2": trained,
    "t2t": lambda: perturb(keras_vit.T2TViT7(include_top=False)),
}


@pytest.mark.slow
@pytest.mark.parametrize("file_format", FORMATS)
@pytest.mark.parametrize("name", NETWORKS)
def test_photographs(name, file_format, photographs, tmp_path):
    """Compare the features of JPEG files with those of Keras for decoded pixels."""
    image_module = pytest.importorskip("PIL.Image", reason="decodes the photographs")
    import io

    model = NETWORKS[name]()
    decoded = [
        np.asarray(image_module.open(io.BytesIO(content)).convert("RGB"))
        for content in photographs
    ]
    assert len(decoded) == 10
    each = [expected(model, image[None]) for image in decoded]
    wanted = {key: np.concatenate([e[key] for e in each]) for key in each[0]}
    with exports_here():
        if file_format == "saved_model":
            path = saved_model(model, tmp_path / "served", verbose=False)
        else:
            write, ending = {"onnx": (onnx, "onnx"), "litert": (litert, "tflite")}[
                file_format
            ]
            path = write(model, tmp_path / f"vit.{ending}", verbose=False)
    if file_format == "saved_model":
        requests = [(s, "image_bytes", photographs) for s in ("embed", "features_bytes")]
        of_embed, served = serve_here(path, requests, tmp_path)
        for answer in (of_embed, served):
            assert answer.pop("error").tolist() == [0] * 10
        check(of_embed, {"pooled": wanted["pooled"]})
    else:
        images = [image[None].astype("float32") for image in decoded]
        if file_format == "litert":  # The client resizes.
            config = {**model.preprocessor.get_config(), "mean": 0.0, "std": 1.0}
            resize = Preprocessor.from_config(config)
            images = [array(resize(image)) for image in images]
        runner = run_onnx if file_format == "onnx" else run_litert
        answers = runner(path, images)
        served = {k: np.concatenate([a[k] for a in answers]) for k in wanted}
    check(served, wanted)
