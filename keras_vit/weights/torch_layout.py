"""How PyTorch lays out what Keras lays out otherwise: `(out, in)`, channels first."""

from keras_vit.weights.source import PROJECTION, Piece


class TorchPieces(list[Piece]):
    """Pieces, added module by module."""

    def plain(self, name, path, shape):
        """A parameter that is stored alike."""
        self.append(Piece(path, (name,), shape, shape))

    def norm(self, name, path, width):
        """`LayerNorm`."""
        self.plain(f"{name}.weight", f"{path}/gamma", (width,))
        self.plain(f"{name}.bias", f"{path}/beta", (width,))

    def linear(self, names, path, inputs, outputs, bias=True):
        """`Linear`; several are joined, in the order of their names."""
        names = (names,) if isinstance(names, str) else names
        kernels = tuple(f"{name}.weight" for name in names)
        shape, stored = (outputs, inputs), (inputs, outputs)
        self.append(Piece(f"{path}/kernel", kernels, shape, stored, (1, 0)))
        if bias:
            biases = tuple(f"{name}.bias" for name in names)
            self.append(Piece(f"{path}/bias", biases, (outputs,), (outputs,)))

    def patch_projection(self, name, patch, channels, width):
        """`Conv2d` with a stride as large as its kernel."""
        shape, stored = (width, channels, patch, patch), (patch**2 * channels, width)
        axes = (2, 3, 1, 0)
        self.append(Piece(PROJECTION, (f"{name}.weight",), shape, stored, axes))
        self.plain(f"{name}.bias", "patch_encoder/projection/bias", (width,))
