"""Conversion from PyTorch's weight layout: `(out, in)`, channels first."""

from keras_vit.weights.source import PROJECTION, Piece


class TorchPieces(list[Piece]):
    """List of `Piece`s with a method for each kind of PyTorch module."""

    def plain(self, name, path, shape):
        """Add a parameter that has the same layout in both frameworks."""
        self.append(Piece(path, (name,), shape, shape))

    def norm(self, name, path, width):
        """Add a `LayerNorm`."""
        self.plain(f"{name}.weight", f"{path}/gamma", (width,))
        self.plain(f"{name}.bias", f"{path}/beta", (width,))

    def linear(self, names, path, inputs, outputs, bias=True):
        """Add one `Linear`, or several that are joined in the order of their names."""
        names = (names,) if isinstance(names, str) else names
        kernels = tuple(f"{name}.weight" for name in names)
        shape, stored = (outputs, inputs), (inputs, outputs)
        self.append(Piece(f"{path}/kernel", kernels, shape, stored, (1, 0)))
        if bias:
            biases = tuple(f"{name}.bias" for name in names)
            self.append(Piece(f"{path}/bias", biases, (outputs,), (outputs,)))

    def patch_projection(self, name, patch, channels, width):
        """Add a `Conv2d` whose stride equals its kernel size."""
        shape, stored = (width, channels, patch, patch), (patch**2 * channels, width)
        axes = (2, 3, 1, 0)
        self.append(Piece(PROJECTION, (f"{name}.weight",), shape, stored, axes))
        self.plain(f"{name}.bias", "patch_encoder/projection/bias", (width,))
