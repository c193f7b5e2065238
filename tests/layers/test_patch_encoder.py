import numpy as np
import pytest

from keras_vit.layers import PatchEncoder
from tests.cases import array, perturb, random_array, weights_of
from tests.formulas import dense


@pytest.mark.parametrize("class_token", [False, True])
@pytest.mark.parametrize("registers", [0, 3])
@pytest.mark.parametrize("positions", ["learned", "grid", "none"])
@pytest.mark.parametrize("distillation_token", [False, True])
def test_formula(class_token, registers, positions, distillation_token):
    patches = random_array(2, 6, 12)
    encoder = PatchEncoder(
        8,
        (2, 3),
        class_token,
        registers,
        "none" if positions == "none" else "learned",
        class_token_position=positions == "learned",
        distillation_token=distillation_token,
    )
    encoder.build(patches.shape)
    w = weights_of(perturb(encoder))
    tokens = dense(patches, w, "projection")
    if positions == "grid":
        tokens = tokens + w["positions/embedding"]
    names = ["class_token"] * class_token + ["distillation_token"] * distillation_token
    rows = [np.broadcast_to(w[name], (2, 1, 8)) for name in names]
    tokens = np.concatenate([*rows, tokens], axis=1)
    if positions == "learned":
        tokens = tokens + w["positions/embedding"]
    if registers:
        rows = np.broadcast_to(w["registers"], (2, registers, 8))
        first = len(names)
        tokens = np.concatenate([tokens[:, :first], rows, tokens[:, first:]], axis=1)
    np.testing.assert_allclose(array(encoder(patches)), tokens, atol=1e-5)


def test_wrong_number_of_patches():
    with pytest.raises(ValueError, match=r"needs patches of shape \(batch, 6"):
        PatchEncoder(8, (2, 3))(random_array(2, 5, 12))


def test_unknown_positions():
    with pytest.raises(ValueError, match=r"'rotary'.*'learned', 'learned_2d'"):
        PatchEncoder(8, (2, 3), positions="rotary")
