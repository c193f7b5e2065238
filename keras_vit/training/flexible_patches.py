"""Training with a random patch size in every step (FlexiViT)."""

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_vit import kernels
from keras_vit.layers import LearnedPositions, Patches, resize_grid
from keras_vit.layers.patches import grid_shape
from keras_vit.models.t2t_vit import T2TViT
from keras_vit.models.vit import ViT
from keras_vit.training.backbone_model import BackboneModel
from keras_vit.weights.patch_kernels import resizing_matrix


@keras.saving.register_keras_serializable(package="keras_vit")
class FlexiblePatches(BackboneModel):
    """Training of a ViT that works with patches of many sizes.

    Every training step draws a patch size. The patch kernel of the backbone is resized to
    it by the pseudo-inverse and the position embeddings to its grid, inside of the step,
    so that the weights of the backbone are those of its own patch size and grid. The
    sizes are branches of one compiled step, each with static shapes, and the draws follow
    from the seed and the number of steps before.

    Outside training, the model uses `evaluation_patch_size`. Save the backbone, and load
    it at any patch size: `keras_vit.load_checkpoint("name.keras", patch_size=8,
    input_shape=(240, 240, 3))` computes the same outputs.

    Input: images `(b, h, w, c)` of `image_size`, as `preprocessor` returns them.
    Output: the output of the backbone.

    Args:
        backbone: a `ViT` with learned positions or none, without a stem, dropout,
            stochastic depth and distillation token. It is trained in place. In the paper
            it has patches of 32 and a grid of 7x7.
        patch_sizes: patch sizes in pixels to draw from, all equally likely. They must
            divide the image size.
        image_size: None for the backbone's, or `(height, width)` of the images.
        evaluation_patch_size: None for the middle one of `patch_sizes`, or another int.
        resize: convention for resizing position embeddings, see
            `keras_vit.layers.resize_grid`. The default is that of `load_checkpoint` for
            `.keras`; Google's code has `"bilinear_antialias"`.
        seed: int, seed of the draws; None for a seed that `keras.utils.set_random_seed`
            determines.
        name: name of the model.

    Raises:
        ValueError: the backbone is not supported, or a patch size does not divide the
            image size.

    Example:

    >>> import keras, keras_vit
    >>> backbone = keras_vit.ViT(
    ...     input_shape=(64, 64, 3), patch_size=32, hidden_dim=48, num_layers=1,
    ...     num_heads=3, mlp_dim=96, classes=5, classifier_activation=None,
    ... )
    >>> model = keras_vit.training.FlexiblePatches(
    ...     backbone, patch_sizes=(8, 16), image_size=(48, 48)
    ... )
    >>> tuple(model(keras.random.uniform((2, 48, 48, 3))).shape)
    (2, 5)

    Reference: FlexiViT (arXiv:2212.08013).
    """

    def __init__(
        self,
        backbone: ViT,
        patch_sizes: Sequence[int],
        image_size: tuple[int, int] | None = None,
        evaluation_patch_size: int | None = None,
        resize: str = "google",
        seed: int | None = None,
        name: str | None = None,
    ):
        _check_backbone(backbone)
        *own_size, channels = backbone.input_shape[1:]
        height, width = image_size or own_size
        sizes = sorted(set(patch_sizes))
        if not sizes:
            raise ValueError(
                "patch_sizes is empty: pass sizes in pixels, such as (8, 16)."
            )
        chosen = evaluation_patch_size or sizes[len(sizes) // 2]
        images = keras.Input((height, width, channels), name="images")
        network = _FlexibleNetwork(backbone, sizes, chosen, resize, seed, name="network")
        arguments = {
            "patch_sizes": sizes,
            "image_size": (height, width),
            "evaluation_patch_size": chosen,
            "resize": resize,
            "seed": seed,
        }
        super().__init__(backbone, images, network(images), arguments, name)
        self._preprocessor = backbone.preprocessor
        if self._preprocessor.image_size is not None:
            self._preprocessor = self._preprocessor.with_image_size((height, width))

    @property
    def preprocessor(self):
        """The backbone's preprocessor, for images of `image_size`."""
        return self._preprocessor


class _FlexibleNetwork(keras.layers.Layer):
    """Layer that runs the layers of a backbone with patches of another size."""

    def __init__(self, backbone, patch_sizes, chosen, resize, seed, **kwargs):
        # Kernels and positions are resized in float32 under every policy.
        super().__init__(dtype="float32", **kwargs)
        self.backbone = backbone
        self.patch_sizes = patch_sizes
        self.chosen = chosen
        self.resize = resize
        self.generator = keras.random.SeedGenerator(seed)
        names = [layer.name for layer in backbone.layers]
        self._encoder = backbone.get_layer("patch_encoder")
        self._rest = backbone.layers[names.index("patch_encoder") + 1 :]

    def build(self, input_shape):
        for patch_size in (*self.patch_sizes, self.chosen):
            grid_shape(input_shape[1:], patch_size)  # Raises if it does not divide.

    def call(self, images, training=None):
        if not training:
            return self._outputs(images, self.chosen)

        def branch(patch_size):
            return lambda images: self._outputs(images, patch_size, training=True)

        count = len(self.patch_sizes)
        index = keras.random.randint((), 0, count, "int32", seed=self.generator)
        branches = [branch(size) for size in self.patch_sizes]
        with _differentiable_branches():
            return ops.switch(index, branches, images)

    def _outputs(self, images, patch_size, training=False):
        encoder = self._encoder
        dtype = self.backbone.compute_dtype
        own = self.backbone.get_layer("patches").patch_size
        kernel = ops.convert_to_tensor(encoder.projection.kernel)
        if patch_size != own:
            matrix = resizing_matrix(own, patch_size).astype("float32")
            flat = ops.reshape(kernel, (own**2, -1))
            kernel = ops.reshape(ops.matmul(matrix, flat), (-1, kernel.shape[-1]))
        patches = Patches(patch_size, dtype=dtype)(images)
        tokens = ops.matmul(patches, ops.cast(kernel, dtype))
        if encoder.projection.use_bias:
            tokens = tokens + ops.cast(encoder.projection.bias, dtype)
        grid = grid_shape(images.shape[1:], patch_size)
        x = encoder.add_prefix_and_positions(
            tokens, positions_on(encoder.positions, grid, self.resize)
        )
        for layer in self._rest:
            x = layer(x)
        return x

    def compute_output_spec(self, images, training=None):
        output = self.backbone.output
        return keras.KerasTensor((images.shape[0], *output.shape[1:]), output.dtype)


def positions_on(layer: Any, grid: tuple[int, int], resize: str = "google") -> Any:
    """Return a function that adds positions to the tokens of another grid, or None.

    The embeddings are resized inside of the step, so that they train.

    Args:
        layer: a `LearnedPositions` layer, or None.
        grid: `(gh, gw)` of the tokens.
        resize: convention for resizing position embeddings.
    """
    if layer is None:
        return None
    source, prefix = layer.grid_shape, layer.num_prefix_tokens
    table = ops.convert_to_tensor(layer.embedding)
    if grid != source:
        basis = np.eye(source[0] * source[1], dtype="float32")
        matrix = resize_grid(basis.reshape(*source, -1), grid, resize)
        matrix = ops.cast(matrix.reshape(grid[0] * grid[1], -1), table.dtype)
        resized = ops.matmul(matrix, table[0, prefix:])[None]
        table = ops.concatenate([table[:, :prefix], resized], axis=1)
    return lambda tokens: tokens + ops.cast(table, tokens.dtype)


@contextlib.contextmanager
def _differentiable_branches():
    """Run plain formulas under TensorFlow while the context is open.

    TensorFlow cannot differentiate a branch that has hand-written gradients.
    """
    before = kernels.in_use()
    if keras.backend.backend() == "tensorflow":
        kernels.use("plain")
    try:
        yield
    finally:
        kernels.use(before)


def _check_backbone(backbone):
    # A dropout would draw numbers in a branch of the step, and so change the state of its
    # seed there.
    settled = {
        "stem": None,
        "distillation_token": False,
        "token_reduction": None,
        "dropout_rate": 0.0,
        "attention_dropout_rate": 0.0,
        "stochastic_depth_rate": 0.0,
    }
    check_resizable(backbone, "random patch sizes", settled)


def check_resizable(backbone: Any, what: str, settled: dict[str, Any]) -> None:
    """Raise a `ValueError` unless a backbone can run on other grids in a step.

    Args:
        backbone: the model to check.
        what: what the grids are for, for the messages.
        settled: dict from names of arguments to the values that they must have.
    """
    if not isinstance(backbone, ViT) or isinstance(backbone, T2TViT):
        raise ValueError(f"backbone must be a keras_vit.ViT; received {backbone!r}.")
    config = backbone.resolved_config()
    learned = isinstance(backbone.get_layer("patch_encoder").positions, LearnedPositions)
    if config["attention_positions"] is not None or not (
        learned or config["added_positions"] == "none"
    ):
        raise ValueError(
            f"A backbone for {what} needs positions='learned' or 'none'; "
            f"received positions={config['positions']!r}."
        )
    for argument, allowed in settled.items():
        if config[argument] != allowed:
            raise ValueError(
                f"A backbone for {what} needs {argument}={allowed}; received "
                f"{config[argument]!r}."
            )
