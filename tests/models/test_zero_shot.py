import keras
import numpy as np
import pytest

import keras_vit
from keras_vit.convert import convert
from tests.cases import (
    array,
    mostly_slow_elsewhere,
    perturb,
    random_array,
    random_images,
    tiny_vit,
)


def normalized(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.mark.parametrize(
    "kind", mostly_slow_elsewhere(["pooled features", "projection"], "projection")
)
def test_formula(kind, tmp_path):
    options = {"include_top": False} if kind == "pooled features" else {"classes": 7}
    model = perturb(tiny_vit(pooling="gap", classifier_activation=None, **options))
    images, embeddings = random_images(model), array(model(random_images(model)))
    texts = 5.0 * random_array(3, embeddings.shape[-1])
    names = ["one", "two", "three"]
    classifier = model.zero_shot(texts, 12.5, -0.5, class_names=names)
    expected = 12.5 * normalized(embeddings) @ normalized(texts).T - 0.5
    np.testing.assert_allclose(array(classifier(images)), expected, rtol=0, atol=1e-4)
    classifier.save(tmp_path / "model.keras")
    loaded = keras_vit.load_checkpoint(
        tmp_path / "model.keras", classifier_activation="softmax"
    )
    assert loaded.get_config()["class_names"] == names
    probabilities = loaded.predict(images, verbose=0)
    softmax = array(keras.ops.softmax(expected))
    np.testing.assert_allclose(probabilities, softmax, rtol=0, atol=1e-5)
    # The classifier does not share its weights with the model, whose JAX trainer gives
    # the memory of its weights to the next step.
    model.predict(images, verbose=0)
    np.testing.assert_allclose(
        classifier.predict(images, verbose=0), expected, rtol=0, atol=1e-4
    )


@pytest.mark.slow
@pytest.mark.any_backend
def test_a_classifier_is_fine_tuned_and_gets_a_new_head():
    model = perturb(tiny_vit(include_top=False))
    classifier = model.zero_shot(random_array(3, 16), 10.0)
    classifier.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    before = array(classifier.get_layer("classifier").kernel).copy()
    classifier.fit(random_images(model), np.array([0, 2]), verbose=0)
    assert np.abs(array(classifier.get_layer("classifier").kernel) - before).max() > 1e-4
    without = keras_vit.models.adapt.adapted(classifier, {"classes": 2}, head="new")
    assert without.get_config()["classifier"] is None
    assert without.output_shape == (None, 2)


@pytest.mark.any_backend
def test_features_of_zero_length_have_finite_logits():
    layer = keras_vit.layers.SimilarityClassifier(2, initial_bias=-3.0)
    np.testing.assert_array_equal(array(layer(np.zeros((1, 4), "float32"))), [[-3, -3]])


@pytest.mark.any_backend
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text_embeddings": random_array(3, 8)}, r"width 8, .* of width 16"),
        ({"text_embeddings": random_array(16)}, r"\(classes, width\).*\(16,\)"),
        (
            {"text_embeddings": np.eye(16)[:3] * [[1], [0], [1]]},
            r"\[1\] has the length 0",
        ),
        ({"text_embeddings": np.full((2, 16), np.nan)}, r"\[0\] has the length nan"),
        ({"logit_scale": -4.6}, r"positive; received -4.6"),
        ({"logit_scale": np.inf}, "finite"),
        ({"class_names": ["one"]}, "each of the 3 classes"),
    ],
)
def test_arguments(arguments, message):
    model = tiny_vit(include_top=False)
    given = {"text_embeddings": np.eye(16)[:3], "logit_scale": 1.0, **arguments}
    with pytest.raises(ValueError, match=message):
        model.zero_shot(**given)


@pytest.mark.any_backend
def test_models_without_one_vector_per_image():
    for options in ({"pooling": None}, {"distillation_token": True}):
        model = tiny_vit(include_top=False, **options)
        with pytest.raises(ValueError, match="one vector of features"):
            model.zero_shot(np.eye(16)[:3], 1.0)


@pytest.mark.any_backend
@pytest.mark.parametrize("target", ["model.npz", "timm", "transformers"])
def test_other_libraries_have_no_such_classifier(target, tmp_path):
    model = tiny_vit(include_top=False).zero_shot(np.eye(16)[:3], 1.0)
    model.save(tmp_path / "model.keras")
    options = {"to": target} if target != "model.npz" else {}
    with pytest.raises(ValueError, match="classifier=None"):
        convert(tmp_path / "model.keras", tmp_path / target, **options)
    assert not (tmp_path / target).exists()


@pytest.mark.slow
@pytest.mark.any_backend
@pytest.mark.parametrize("family", ["CLIP", "Siglip"])
def test_logits_are_those_of_transformers(family, tmp_path):
    torch = pytest.importorskip("torch", reason="NOT TESTED against transformers")
    transformers = pytest.importorskip("transformers", reason="NOT TESTED")
    sizes = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 48,
    }
    config = getattr(transformers, f"{family}Config")(
        text_config={**sizes, "vocab_size": 50, "max_position_embeddings": 9},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        **({"projection_dim": 24} if family == "CLIP" else {}),
    )
    torch.manual_seed(0)
    network = getattr(transformers, f"{family}Model")(config).eval()
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.1 * torch.randn(weight.shape)
    network.save_pretrained(tmp_path / "network")
    images = random_array(2, 32, 32, 3)
    tokens = torch.arange(2, 29).reshape(3, 9)
    with torch.no_grad():
        outputs = network(
            input_ids=tokens, pixel_values=torch.tensor(images.transpose(0, 3, 1, 2))
        )
        texts = network.text_model(tokens).pooler_output
        if family == "CLIP":
            texts = network.text_projection(texts)
        scale = float(network.logit_scale.exp())
        bias = float(network.logit_bias) if family == "Siglip" else None
    model = keras_vit.load_checkpoint(tmp_path / "network")
    found = model.zero_shot(texts.numpy(), scale, bias)(images)
    np.testing.assert_allclose(
        array(found), outputs.logits_per_image.numpy(), rtol=0, atol=1e-4
    )
