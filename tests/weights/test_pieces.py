import numpy as np
import pytest

from keras_vit.weights.pieces import Pieces, TorchPieces


@pytest.mark.any_backend
@pytest.mark.parametrize("layer", ["block_0/mlp/expand", "classifier"])
def test_square_kernels_are_transposed_only_for_pytorch(layer):
    # A wrong orientation of a square kernel raises no error about its shape.
    kernel = np.arange(9.0).reshape(3, 3)
    for pieces, expected in ((TorchPieces(), kernel.T), (Pieces(), kernel)):
        pieces.dense("x", layer, 3, 3)
        piece, _ = pieces
        np.testing.assert_array_equal(piece.read(lambda name: kernel), expected)
