"""Checkpoints of every ViT-like network of timm.

Each checkpoint must give the outputs of timm or raise an error. The networks are small
and every weight is perturbed. If an error asks for an argument, the test passes that
argument and tries again, until the outputs match or the error asks for nothing new. The
test requires timm, which requires torch.
"""

import collections
import json
import math
import re

import numpy as np
import pytest
from safetensors.numpy import save_file

import keras_vit
from recipes.benchmark import torchvision_stub
from tests.cases import array

torchvision_stub.install()
torch = pytest.importorskip("torch", reason="checkpoints of timm are NOT TESTED")
timm = pytest.importorskip("timm", reason="checkpoints of timm are NOT TESTED")

pytestmark = [
    pytest.mark.any_backend,
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SIDE = 64
# Modules of timm 1.0 with networks that use the tensor names of a ViT.
MODULES = (
    *("vision_transformer", "deit", "eva", "beit", "naflexvit", "vitamin"),
    *("vision_transformer_hybrid", "vision_transformer_relpos", "qwen3_vit"),
    *("vision_transformer_sam", "gemma4_vit", "deepseek_vit"),
)
# Small values in these tensors make the outputs sensitive to epsilon and to the variant
# of GELU.
SMALL = (
    *("attn.proj.", "mlp.fc2", "pos_embed", "patch_embed.proj", "cls_token"),
    *("dist_token", "reg_token", "norm_pre"),
)


def build(name):
    """Return a small version of a network, or None if its size is fixed."""
    sizes = {"depth": 2, "embed_dim": 96, "num_classes": 10, "img_size": SIDE}
    for more in ({"num_heads": 3}, {}):
        torch.manual_seed(0)
        try:
            network = timm.create_model(name, pretrained=False, **sizes, **more).eval()
        except Exception:  # Constructors raise various errors for unknown arguments.
            continue
        return perturb(network)
    return None


def perturb(network):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in network.named_parameters():
            noise = torch.randn(weight.shape, generator=generator)
            is_kernel = name.endswith("weight")
            if weight.ndim >= 2:
                value = noise * (1.3 / math.sqrt(weight[0].numel()) if is_kernel else 0.7)
            else:
                value = is_kernel + 0.3 * noise
            small = "attn_pool" not in name and any(part in name for part in SMALL)
            weight.copy_(value * (0.01 if small else 1))
    return network


def save(network, directory, with_config):
    tensors = {n: x.numpy().copy() for n, x in network.state_dict().items()}
    path = directory / "model.safetensors"
    save_file(tensors, path)
    (directory / "config.json").unlink(missing_ok=True)
    if with_config:
        from timm.models._hub import save_config_for_hf

        save_config_for_hf(network, directory / "config.json")
    return path


def remedies(message, name, network):
    """Yield the arguments that an error message asks for, one at a time."""
    if "num_heads=..." in message:
        yield {"num_heads": network.blocks[0].attn.num_heads}
    if "architecture=" in message:
        yield {"architecture": name}
    for other in re.findall(r"architecture='(\w+)'", message):
        yield {"architecture": other}
    shape = re.search(r"input_shape=\((\d+), (\d+), (\d+)\)", message)
    if shape:
        yield {"input_shape": tuple(map(int, shape.groups()))}
    if "input_shape=(height" in message:
        yield {"input_shape": (SIDE, SIDE, 3)}
    if "source_grid_shape=" in message:
        yield {"source_grid_shape": tuple(network.patch_embed.grid_size)}


def outcome(path, name, network):
    """Return "exact" or the first line of the last error.

    Raises:
        AssertionError: if the checkpoint loads but gives other outputs than timm.
    """
    images = np.random.default_rng(0).normal(size=(2, SIDE, SIDE, 3)).astype("float32")
    tried, queue, last = [], [{}], "nothing was tried"
    while queue and len(tried) < 12:
        arguments = queue.pop(0)
        if arguments in tried:
            continue
        tried.append(arguments)
        try:
            model = keras_vit.load_checkpoint(
                path, classifier_activation=None, **arguments
            )
        except ValueError as error:
            last = str(error).split("\n")[0]
            steps = remedies(str(error), name, network)
            queue += [{**arguments, **step} for step in steps]
            continue
        # timm ignores the last pixels if they do not fill a patch.
        height, width, _ = model.input_shape[1:]
        with torch.no_grad():
            expected = network(torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
        outputs = array(model(images[:, :height, :width]))
        difference = np.abs(outputs - expected.numpy()).max()
        assert difference <= 1e-4, f"{name} {arguments}: {difference:.2g}"
        return "exact"
    return last


def check(name, directory):
    """Return the outcomes with and without config.json, or None if the size is fixed."""
    network = build(name)
    if network is None:
        return None
    return tuple(
        outcome(save(network, directory, with_config), name, network)
        for with_config in (True, False)
    )


@pytest.mark.parametrize(
    ("name", "with_config", "bare"),
    [
        ("vit_tiny_patch16_224", "exact", "exact"),
        ("vit_small_patch14_reg4_dinov2", "exact", "exact"),
        ("deit3_small_patch16_224", "exact", "exact"),
        ("vit_so400m_patch14_siglip_224", "exact", "exact"),
        ("eva_large_patch14_196", "exact", "exact"),
        ("vit_tiny_r_s16_p8_224", "exact", "exact"),
        ("vit_small_r26_s32_384", "exact", "exact"),
        ("vit_base_r50_s16_224", "exact", "exact"),
        ("vit_base_patch16_rpn_224", "does not have", "not one of timm's"),
        ("vit_small_patch16_rope_ape_224", "does not have", "not one of timm's"),
        ("vit_small_patch16_dinov3", "does not have", "no position embeddings"),
        ("test_vit3", "does not have", "not one of timm's"),
        ("vit_base_patch16_clip_224", "does not have", "does not fit"),
    ],
)
def test_kinds(tmp_path, name, with_config, bare):
    """Check networks of each kind; `architecture` is the name of the network itself."""
    outcomes = check(name, tmp_path)
    for found, expected in zip(outcomes, (with_config, bare), strict=True):
        assert expected in found or "not one of timm's" in found


def test_names_in_messages_are_no_examples(tmp_path):
    """Check that messages name no other network, which a user might copy."""
    network = build("vit_small_patch16_rope_ape_224")
    for with_config in (True, False):
        path = save(network, tmp_path, with_config)
        with pytest.raises(ValueError, match=r"architecture=\.\.\.") as error:
            keras_vit.load_checkpoint(path, num_heads=3)
        assert not re.search(r"'vit_\w+_224'", str(error.value).split("describes")[0])
        assert "architecture='" not in str(error.value)


@pytest.mark.slow
def test_every_network(tmp_path):
    from timm.models import _registry

    modules = _registry._model_to_module
    names = sorted(name for name in modules if modules[name] in MODULES)
    assert len(names) > 300
    wrong, counts = [], collections.Counter()
    for name in names:
        try:
            outcomes = check(name, tmp_path)
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}")
            continue
        if outcomes is None:
            counts["not shrunk"] += 1
            continue
        for place, result in zip(("config.json", "bare"), outcomes, strict=True):
            kind = "exact" if result == "exact" else "refused"
            counts[f"{place}: {kind}"] += 1
    print(json.dumps(counts))
    assert not wrong, "\n".join(wrong)
