"""Exports of networks without attention. Every export compares its own outputs."""

import numpy as np
import pytest

import keras_vit
from keras_vit.exported_model import Export, HeadlessError, _logits
from tests.cases import array, perturb, tiny_bit
from tests.export.serving import exports_here

pytestmark = [pytest.mark.slow, pytest.mark.any_backend]


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("include_top", [True, False])
def test_a_bit_is_served_without_attention(include_top, tmp_path):
    model = perturb(tiny_bit(dtype="mixed_bfloat16", include_top=include_top))
    with exports_here():
        path = keras_vit.export.saved_model(model, tmp_path / "served", verbose=False)
    from keras_vit.export.signatures import load

    signatures = load(path)
    of_files = {"predict_bytes"} if include_top else {"embed", "features_bytes"}
    assert signatures.keys() == {
        *("serving_default", "predict_uint8", "features"),
        *of_files,
    }
    images = np.random.default_rng(0).integers(0, 256, (2, 40, 24, 3)).astype("float32")
    features = signatures["features"](images=images)
    assert features["tokens"].shape == (2, *model.grid_shape, 64)
    np.testing.assert_allclose(
        array(features["pooled"]), array(features["tokens"]).mean((1, 2)), atol=1e-5
    )


@pytest.mark.usefixtures("tensorflow")
@pytest.mark.parametrize("write", [keras_vit.export.onnx, keras_vit.export.litert])
def test_files(write, tmp_path):
    path = tmp_path / f"bit.{'onnx' if write is keras_vit.export.onnx else 'tflite'}"
    with exports_here():
        write(perturb(tiny_bit()), path, verbose=False)
    assert path.stat().st_size > 1e5


@pytest.mark.usefixtures("tensorflow")
def test_a_network_of_keras_with_one_class(tmp_path):
    model = keras_vit.KerasApplication(
        "MobileNetV2",
        (32, 48, 3),
        classes=1,
        class_names=["cat"],
        classifier_activation="sigmoid",
    )
    with exports_here():
        keras_vit.export.saved_model(perturb(model), tmp_path / "served", verbose=False)
    export = Export(str(tmp_path / "served"))
    assert export.class_names == ["cat"]
    assert export.output_shape == (None, 1)


def test_features_without_tokens_are_no_logits():
    with pytest.raises(HeadlessError, match="it returns pooled"):
        _logits("served", {"pooled": None})
