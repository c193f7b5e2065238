"""Checkpoints of every ViT-like network of timm, as `recipes.compatibility` builds them.

Each checkpoint must give the outputs of timm or raise an error. The networks are small
and every weight is perturbed. If an error asks for an argument, the comparison passes
that argument and tries again, until the outputs match or the error asks for nothing new.
The test requires timm, which requires torch.
"""

import collections
import functools
import json
import re
import shutil

import keras
import numpy as np
import pytest

import keras_vit
import recipes.compatibility  # noqa: F401, makes timm importable without torchvision
from keras_vit.convert import convert
from keras_vit.weights import detect
from tests.cases import array, mostly_slow, random_array

pytest.importorskip("torch", reason="checkpoints of timm are NOT TESTED")
pytest.importorskip("timm", reason="checkpoints of timm are NOT TESTED")
import timm
import torch

from recipes.compatibility import networks, timm_networks

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


EXACT = (
    "vit_tiny_patch16_224",
    "vit_small_patch14_reg4_dinov2",
    "deit3_small_patch16_224",
    "vit_so400m_patch14_siglip_224",
    "eva_large_patch14_196",
    "vit_tiny_r_s16_p8_224",
    "vit_small_r26_s32_384",
    "vit_base_r50_s16_224",
    "vit_base_patch16_rpn_224",
    "vit_small_patch16_rope_ape_224",
    "vit_small_patch16_dinov3",
    "test_vit3",
    "vit_base_patch16_clip_224",
    "vit_relpos_base_patch16_clsgap_224",
    "vit_srelpos_small_patch16_224",
    "vit_giant_patch14_dinov2",
    "vit_pwee_patch16_reg1_gap_256",
    "naflexvit_so150m2_patch16_reg1_map",
)
# Most of the others are like one of these or like one in test_modern_goldens.py.
QUICK = (
    "vit_tiny_patch16_224",
    "eva_large_patch14_196",
    "vit_tiny_r_s16_p8_224",
    "vit_relpos_base_patch16_clsgap_224",
    "vit_pwee_patch16_reg1_gap_256",
    "naflexvit_so150m2_patch16_reg1_map",
)


def outcomes(name):
    """Return the outcomes of a network's checkpoint with its config and without."""
    row = networks.check_timm(name)
    return [row[config] for config in ("published", "bare")]


@pytest.mark.parametrize("name", mostly_slow(EXACT, *QUICK))
def test_kinds(name):
    """Check networks of each kind."""
    assert ["exact" in outcome["verdict"] for outcome in outcomes(name)] == [True, True]


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("vit_dwee_patch16_reg1_gap_256", "does not have"),
        ("vit_small_resnet26d_224", "batch normalization"),
    ],
)
def test_kinds_that_are_refused(name, reason):
    assert [reason in outcome["reason"] for outcome in outcomes(name)] == [True, True]


@pytest.mark.parametrize("size", [(48, 96, 3), (80, 80, 3)])
@pytest.mark.parametrize(
    "name",
    [
        "naflexvit_base_patch16_parfac_gap",  # Sum of two tables, keeps the aspect ratio.
        "naflexvit_base_patch16_radio_v3",  # Corners aligned, keeps the aspect ratio.
        "naflexvit_base_patch16_siglip",  # Bilinear, with antialiasing.
    ],
)
def test_naflex_at_other_sizes(name, size, naflex):
    """Compare positions that are resized at load with those of timm's forward pass."""
    path, network = naflex(name)
    images = random_array(2, *size)
    with torch.no_grad():
        tokens = network.forward_features(
            torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
        )
    model = keras_vit.load_checkpoint(path, input_shape=size, include_top=False)
    computed = keras.Model(model.input, model.get_layer("pooling").input)(images)
    np.testing.assert_allclose(array(computed), tokens.numpy(), rtol=0, atol=1e-4)


def test_a_published_naflex_has_the_published_size(tmp_path, monkeypatch, naflex):
    path, _ = naflex("naflexvit_base_patch16_radio_v3")
    copy = shutil.copy(path, tmp_path)  # Without config.json, as it is downloaded.
    monkeypatch.setattr(detect, "fetch_checkpoint", lambda name: copy)
    source = detect.open_checkpoint("naflexvit_base_patch16_radio_v3.c_radio")
    assert source.infer_config({})["input_shape"] == (512, 512, 3)
    assert source.resize == "google"


@pytest.fixture(scope="module")
def naflex(tmp_path_factory):
    """Return a function that builds and saves a network of timm once."""

    @functools.cache
    def save(name):
        network = timm_networks.build(name)
        directory = tmp_path_factory.mktemp(name)
        return timm_networks.save(network, directory, "saved"), network

    return save


@pytest.mark.parametrize(
    "name", ["vit_relpos_small_patch16_224", "vit_srelpos_small_patch16_224"]
)
def test_relative_positions_at_other_sizes(tmp_path, name):
    """Compare files loaded at other sizes with timm's own networks of these sizes."""
    network = timm_networks.build(name)
    path = timm_networks.save(network, tmp_path, "saved")
    for size in ((48, 96), (80, 80)):
        other = timm.create_model(name, **{**network._model_args, "img_size": size})
        other.load_state_dict(network.state_dict())
        images = random_array(2, *size, 3)
        with torch.no_grad():
            expected = other.eval()(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        model = keras_vit.load_checkpoint(
            path, input_shape=(*size, 3), classifier_activation=None
        )
        np.testing.assert_allclose(
            array(model(images)), expected.numpy(), rtol=0, atol=1e-4
        )


def test_tensors_of_another_kind_are_refused(tmp_path):
    """Check that NaFlexViT's name does not fit a plain ViT, and the reverse."""
    for name, other in (
        ("vit_tiny_patch16_224", "naflexvit_base_patch16_map"),
        ("naflexvit_base_patch16_map", "vit_base_patch16_224"),
        ("vit_tiny_patch16_224", "vit_pwee_patch16_reg1_gap_256"),
    ):
        path = timm_networks.save(timm_networks.build(name), tmp_path, "bare")
        with pytest.raises(ValueError, match="not those of the network"):
            keras_vit.load_checkpoint(path, architecture=other)


def test_names_in_messages_are_no_examples(tmp_path):
    """Check that messages name no other network, which a user might copy."""
    for name, config in (
        ("vit_giant_patch14_dinov2", "bare"),
        ("vit_dwee_patch16_reg1_gap_256", "published"),
        ("vit_dwee_patch16_reg1_gap_256", "saved"),
        ("vit_small_patch16_rope_ape_224", "bare"),
    ):
        path = timm_networks.save(timm_networks.build(name), tmp_path, config)
        with pytest.raises(ValueError, match=r"architecture=\.\.\.") as error:
            keras_vit.load_checkpoint(path, num_heads=3)
        assert not re.search(r"'vit_\w+_224'", str(error.value).split("describes")[0])
        assert "architecture='" not in str(error.value)


@pytest.mark.slow
def test_every_network():
    names = timm_networks.names()
    assert len(names) > 290
    failures, counts = [], collections.Counter()
    for name in names:
        row = networks.check("timm", name)
        for config in ("published", "saved", "bare"):
            verdict = row[config]["verdict"] if config in row else "failed"
            counts[f"{config}: {verdict}"] += 1
            if verdict not in ("exact", "refused"):
                failures.append(row)
    print(json.dumps(counts))
    assert not failures, "\n".join(map(str, failures))


@pytest.mark.slow
def test_every_network_that_is_read_can_be_written(tmp_path):
    failures, counts = [], collections.Counter()
    for name in timm_networks.names():
        network = timm_networks.build(name)
        images = timm_networks.images(network)
        source, target = tmp_path / f"{name}_source", tmp_path / name
        source.mkdir()
        timm_networks.save(network, source, "saved")
        try:
            keras_vit.load_checkpoint(source)
        except ValueError:
            counts["not read"] += 1
            continue
        try:
            convert(source, target, to="timm")
        except ValueError as error:
            failures.append(f"{name}: {error}")
            continue
        again = timm.create_model(f"local-dir:{target}", pretrained=True).eval()
        computed = timm_networks.outputs(again, images)
        for key, expected in timm_networks.outputs(network, images).items():
            scale = max(1.0, abs(expected).max())
            if not abs(computed[key] - expected).max() <= 1e-5 * scale:
                failures.append(f"{name}: other {key}")
        counts["written"] += 1
    print(json.dumps(counts))
    assert not failures, "\n".join(failures)
    assert counts["written"] > 250
