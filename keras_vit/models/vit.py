"""The Vision Transformer."""

import os
import types
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar

import keras

from keras_vit.choices import check_choice
from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.layers import (
    PatchEncoder,
    Patches,
    PreLogits,
    Preprocessor,
    TokenPooling,
)
from keras_vit.layers.base import stored
from keras_vit.layers.norms import make_norm
from keras_vit.layers.resize import RESIZE_CONVENTIONS
from keras_vit.layers.token_merging import unmerge_tokens
from keras_vit.models.adapt import (
    adapted,
    adapted_values,
    resized,
    resized_positions,
)
from keras_vit.models.arguments import (
    check_arguments,
    check_preprocessor,
    resolve,
)
from keras_vit.models.blocks import transformer_blocks
from keras_vit.models.features import FeatureMethods
from keras_vit.models.head import (
    classifier_layer,
    head_dtype,
    pooling_layer,
    without_own_arguments,
)
from keras_vit.models.loading import WeightLoader
from keras_vit.models.restorable_model import RestorableModel
from keras_vit.models.token_reduction import through
from keras_vit.models.zero_shot import ZeroShotMethods
from keras_vit.weights.source import Source


@keras.saving.register_keras_serializable(package="keras_vit")
class ViT(FeatureMethods, ZeroShotMethods, RestorableModel):
    """Vision Transformer with every architectural choice as an argument.

    The named variants (`ViTB16`, ...) have predefined sizes. The model is a functional
    Keras model: `summary`, `get_layer(...).output`, `fit` and `save` work as in
    `keras.applications`.

    The input is a batch of images `(b, h, w, c)`, floats that `model.preprocessor`
    computes from pixel values 0 to 255 (by default, in the range -1 to 1).

    The output is `(b, classes)` in float32: probabilities, or the result of another
    `classifier_activation`. With `include_top=False` it is the pooled features
    `(b, hidden_dim)`, and with `pooling=None` in addition the tokens
    `(b, n, hidden_dim)`, in the dtype of the policy.

    Args:
        input_shape: `(height, width, channels)` of the images; may be rectangular.
        patch_size: int, side of a patch in pixels; must divide height and width. With a
            `stem`, side in positions of the stem's output, which it must divide.
        hidden_dim: int, width of the tokens.
        num_layers: int, number of blocks.
        num_heads: int, attention heads; must divide `hidden_dim`.
        mlp_dim: int, width of the MLPs.
        classes: int, number of classes.
        class_names: None, or a list of str, the names of the classes in the order of the
            outputs. Names may repeat: ImageNet has two classes called crane. They are
            saved with the model, and exports label their outputs with them.
        include_top: bool, whether the model has a classifier.
        pooling: pooling of the tokens to one vector: `"token"` (class token), `"gap"`
            (mean of the grid tokens), `"token_gap"` (both side by side, as in DINOv2's
            linear evaluation), `"map"` (attention by a learned probe), `"sequence"`
            (weighted mean of the grid tokens with learned scores), a `TokenPooling`,
            `GlobalAveragePooling`, `AttentionPooling` or `SequencePooling` with other
            options, or None with `include_top=False`. Class token and GAP need different
            learning rates, which alone explains their different accuracies (appendix D.3
            of the paper).
        class_token: bool, whether the model has a class token; None for a class token
            if and only if `pooling` is `"token"` or `"token_gap"`.
        class_token_position: bool, whether learned position embeddings have a row for the
            class token (False for timm's `no_embed_class`).
        distillation_token: bool, whether the model has a second class token with its
            own classifier (DeiT). The logits are the mean of the two. The loss against
            a teacher needs `model.get_layer("distillation_classifier").output`.
        final_norm: position of the last norm, `"before_pooling"` or `"after_pooling"`, or
            None for none.
        representation_size: None, or the width of the tanh layer before the
            classifier (pretraining).
        positions: kind of position embeddings: `"learned"` (1-D, as in the paper),
            `"learned_2d"`, `"sincos_2d"`, `"sincos_1d"` or `"none"`, which are added to
            the tokens; `"relative"`, `"relative_bias"` (BEiT), `"relative_mlp"`,
            `"rope_axial"` (DINOv3) or `"rope_mixed"`, which act inside of the attention;
            a layer of the latter kind, such as `RotaryPositions(coordinates="index")`; or
            a list of one of each kind.
        registers: int, number of register tokens.
        layer_scale: None, or the initial value of LayerScale.
        qkv_bias: bool, whether q, k and v have biases, or `"qv"` for q and v only.
        activation: activation of the MLPs: `"gelu_tanh"` (Google), `"gelu"` (the exact
            form, in timm and transformers), `"quick_gelu"` (OpenAI's CLIP), or a name of
            `keras.activations`.
        layer_norm_epsilon: float, added to the variance.
        norm: kind of all norms: `"layer"`, `"rms"`, or a `LayerNorm` or `RMSNorm` with
            other options.
        mlp: MLP of the blocks: `"plain"`, `"swiglu"`, or an `MLP` or `GatedMLP` with
            other options, such as `GatedMLP(inner_norm=True)`. Layers are given without
            what the other arguments of the model state (`mlp_dim`, ...).
        attention: None, or a `SelfAttention` with other options, such as
            `SelfAttention(qk_norm=True)`, given likewise.
        block: order of norms and branches in a block: `"pre_norm"`, `"post_norm"` or
            `"parallel"`; see `TransformerBlock`.
        embedding_norm: None; `"patches"` for a norm right after the projection of the
            patches (AIMv2); or `"tokens"` for a norm of the complete tokens, after a
            projection without a bias (CLIP).
        dropout_rate: dropout rate after the position embeddings and after every dense
            layer except the QKV projection.
        attention_dropout_rate: dropout rate of the attention weights.
        stochastic_depth_rate: probability that a branch of the last block is dropped;
            it grows linearly from 0 in the first block.
        remat: whether the backward pass recomputes each block instead of storing its
            activations: False, or True (or `"block"`), which needs about half the memory
            and a quarter more time; `"attention"` or `"mlp"` for that branch only.
        token_reduction: None, or an int: the number of similar tokens that every block
            merges, which makes a trained model faster (ToMe); or a list with an int for
            each block; or a `TokenMerging` or `TokenHalting` (A-ViT).
        classifier_activation: name of a Keras activation, or None for logits.
        classifier_bias: float, initial bias of the classifier. For a sigmoid loss, use
            about `-log(classes)`; AugReg uses -10 for ImageNet-21k.
        classifier: None for a linear classifier, or a `SimilarityClassifier` with other
            options, given without what the other arguments state; see `zero_shot`.
        stem: None, or a layer that maps images `(b, h, w, c)` to a feature map
            `(b, h', w', d)`, which is cut into patches instead of the image, such as
            `keras_vit.layers.ResNetStem()` or `ConvTokenizer((64, 768))`. The model
            creates its own layer from the config of this one, named `stem`, in the dtype
            of the model: pass a layer without weights.
        preprocessor: a `keras_vit.layers.Preprocessor` that converts images of any size
            to inputs of the model. Its `image_size` must be that of the model, or None
            for a preprocessor that only scales. None for the default, a bilinear resize
            and a scale from -1 to 1. It is available as `model.preprocessor` and saved
            with the model.
        weights: None for random weights, or a checkpoint: a name that
            `keras_vit.checkpoints()` lists, or a path. `keras_vit.load_checkpoint` lists
            the formats, and also builds the matching model. A `.weights.h5` file of the
            same model is accepted only here.
        head: with `weights`, `"keep"`; `"new"` for a new head even if the checkpoint has
            one, for other classes; or `"drop"`, which implies `include_top=False`.
        resize: with `weights`, the convention for resizing position embeddings to another
            grid; see `keras_vit.layers.resize_grid`. None for that of the source.
        source_grid_shape: with `weights`, `(gh, gw)` of the checkpoint's position
            embeddings, if their number is ambiguous.
        check_finite: with `weights`, bool, whether NaN and infinity raise an error.
        name: name of the model.
        dtype: dtype policy; None for the global policy. Normalization, softmax and
            classifier are computed in float32 under every policy.

    Raises:
        ValueError: an argument is out of its range or two arguments contradict each
            other, which is checked before anything is allocated; or the checkpoint does
            not match the model.
        FileNotFoundError: the checkpoint does not exist.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT(
    ...     input_shape=(32, 32, 3), patch_size=8, hidden_dim=48, num_layers=2,
    ...     num_heads=3, mlp_dim=96, classes=10,
    ... )
    >>> pixels = keras.random.uniform((2, 32, 32, 3), maxval=255)
    >>> tuple(model(model.preprocessor(pixels)).shape)
    (2, 10)

    Reference: ViT (arXiv:2010.11929).
    """

    # Arguments of the default `Preprocessor`, unless a checkpoint has its own.
    _preprocessing: ClassVar[dict[str, Any]] = {}

    def __init__(
        self,
        input_shape: tuple[int, int, int] = (224, 224, 3),
        patch_size: int = 16,
        hidden_dim: int = 768,
        num_layers: int = 12,
        num_heads: int = 12,
        mlp_dim: int = 3072,
        classes: int = 1000,
        class_names: Sequence[str] | None = None,
        include_top: bool = True,
        pooling: str | keras.layers.Layer | None = "token",
        class_token: bool | None = None,
        class_token_position: bool = True,
        distillation_token: bool = False,
        final_norm: str | None = "before_pooling",
        representation_size: int | None = None,
        positions: str | keras.layers.Layer | Sequence[Any] = "learned",
        registers: int = 0,
        layer_scale: float | None = None,
        qkv_bias: bool | str = True,
        activation: str = "gelu_tanh",
        layer_norm_epsilon: float = 1e-6,
        norm: str | keras.layers.Layer = "layer",
        mlp: str | keras.layers.Layer = "plain",
        attention: keras.layers.Layer | None = None,
        block: str = "pre_norm",
        embedding_norm: str | None = None,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        stochastic_depth_rate: float = 0.0,
        remat: bool | str = False,
        token_reduction: int | Sequence[int] | keras.layers.Layer | None = None,
        classifier_activation: str | None = "softmax",
        classifier_bias: float = 0.0,
        classifier: keras.layers.Layer | None = None,
        stem: keras.layers.Layer | None = None,
        preprocessor: Preprocessor | None = None,
        weights: str | os.PathLike | Source | None = None,
        head: str = "keep",
        resize: str | None = None,
        source_grid_shape: tuple[int, int] | None = None,
        check_finite: bool = True,
        name: str | None = None,
        dtype: str | keras.DTypePolicy | None = None,
    ):
        arguments = {key: value for key, value in locals().items() if key != "self"}
        self._create(arguments, transformer_blocks)

    def _create(
        self,
        arguments: dict[str, Any],
        make_blocks: Callable[[types.SimpleNamespace], Iterable[keras.layers.Layer]],
        own_arguments: dict[str, Any] | None = None,
    ) -> None:
        """Check the arguments, connect the layers and load the weights.

        Args:
            arguments: every argument of `ViT`.
            make_blocks: function from the arguments of `connect` to its blocks.
            own_arguments: None, or the arguments that are specific to a subclass.
        """
        config = dict(arguments)
        loader = WeightLoader(*(config.pop(argument) for argument in _LOADING))
        preprocessor, name, dtype = (
            config.pop(argument) for argument in ("preprocessor", "name", "dtype")
        )
        if loader.head == "drop":
            config |= {"include_top": False, "representation_size": None}
        grid_shape = check_arguments(config)
        height, width, channels = config["input_shape"]
        config["input_shape"] = (height, width, channels)
        if config["class_names"] is not None:
            config["class_names"] = list(config["class_names"])
        if preprocessor is not None:
            check_preprocessor(preprocessor, config["input_shape"])
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        stem = config["stem"]
        if stem is not None:
            own = {"name": "stem", "dtype": policy}
            stem = type(stem).from_config({**stem.get_config(), **own})
            config["stem"] = keras.saving.serialize_keras_object(stem)
        for argument in _PARTS:
            config[argument] = stored(config[argument])
        config["classifier"] = without_own_arguments(config["classifier"])
        config |= own_arguments or {}
        resolved = resolve(config, grid_shape, stem)
        network = types.SimpleNamespace(**resolved, policy=policy)
        blocks = make_blocks(network)
        loader.compare(resolved)
        with checkpoint_follows(loader.weights is not None):
            inputs, outputs = connect(network, blocks)
        super().__init__(inputs=inputs, outputs=outputs, name=name)
        self.dtype_policy = policy  # Functional models have no argument `dtype`.
        self._constructor_config = config
        self._fixed = {p for p, w in self.weights_by_path().items() if not w.trainable}
        self.grid_shape = grid_shape
        self.num_prefix_tokens = network.num_prefix_tokens
        loader.load(self)
        if preprocessor is None:
            preprocessor = loader.preprocessor((height, width), self._preprocessing)
            preprocessor = preprocessor.with_channels(channels)
        self.preprocessor = preprocessor

    def resolved_config(self) -> dict[str, Any]:
        """Return the constructor's arguments with defaults resolved, for converters.

        See `keras_vit.models.arguments.resolve`.
        """
        layers = {layer.name: layer for layer in self.layers}
        return resolve(self._constructor_config, self.grid_shape, layers.get("stem"))

    def _values_for(self, new, resize):
        return adapted_values(self, new, resize)

    def resized(self, input_shape: tuple[int, int, int], resize: str = "google") -> "ViT":
        """Return the same network for images of another size.

        All weights are copied. Position embeddings are resized to the new grid, except
        for the rows of prefix tokens; fixed ones are computed for the new grid. A
        preprocessor that resizes images is set to the new size. Accuracy drops until the
        new model is fine-tuned, because attention averages over another number of tokens.

        Args:
            input_shape: `(height, width, channels)` of the new images, which may be
                rectangular but must have the same channels.
            resize: convention for resizing position embeddings; see
                `keras_vit.layers.resize_grid`.

        Returns:
            A new, uncompiled `ViT`; this one is not changed.

        Raises:
            ValueError: the patch size does not divide the image size, the channels
                differ, or the convention is unknown.

        Example:

        >>> import keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(64, 64, 3), classes=10, num_layers=2)
        >>> model.resized((96, 64, 3)).grid_shape
        (6, 4)

        Reference: ViT (arXiv:2010.11929) section 3.2.
        """
        check_choice("resize", resize, RESIZE_CONVENTIONS)
        return resized(self, input_shape, resize)

    def with_token_reduction(
        self, token_reduction: int | Sequence[int] | keras.layers.Layer | None
    ) -> "ViT":
        """Return the same network with other tokens in its blocks.

        All weights are copied. Merging tokens makes a trained model faster without
        training; see `TokenMerging`.

        Args:
            token_reduction: as for the constructor; None for all tokens in all blocks.

        Returns:
            A new, uncompiled `ViT`; this one is not changed.

        Raises:
            ValueError: the network cannot have fewer tokens: it has positions inside of
                the attention, other blocks than `"pre_norm"`, or `remat`.

        Example:

        >>> import keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(64, 64, 3), classes=10)
        >>> model.with_token_reduction(1).get_layer("norm").input.shape
        (None, 5, 192)

        Reference: ToMe (arXiv:2210.09461).
        """
        return adapted(self, {"token_reduction": token_reduction})

    def resized_values(
        self, values: dict[str, Any], model: "ViT", resize: str = "google"
    ) -> dict[str, Any]:
        """Resize the position embeddings among values of this model's weights.

        Args:
            values: dict from path to array: the weights, or values of the same shapes,
                such as an optimizer's averages of their gradients.
            model: the same network for images of another size.
            resize: convention for resizing position embeddings; see
                `keras_vit.layers.resize_grid`.

        Returns:
            A new dict, in which only the position embeddings differ.

        Example:

        >>> import keras, keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(64, 64, 3), classes=10, num_layers=2)
        >>> larger = model.resized((96, 64, 3))
        >>> values = {
        ...     path: keras.ops.convert_to_numpy(weight)
        ...     for path, weight in model.weights_by_path().items()}
        >>> resized = model.resized_values(values, larger)
        >>> resized["patch_encoder/positions/embedding"].shape
        (1, 25, 192)
        """
        return resized_positions(values, self.grid_shape, model, resize)


# Arguments of `ViT` that may be layers, which the config stores.
_PARTS = (
    *("pooling", "positions", "norm", "mlp", "attention", "token_reduction"),
    "classifier",
)
# Arguments of `ViT` that control how `weights` are loaded, ordered as in `WeightLoader`.
_LOADING = ("weights", "head", "resize", "source_grid_shape", "check_finite")


def connect(
    network: types.SimpleNamespace, blocks: Iterable[keras.layers.Layer]
) -> tuple[Any, Any]:
    """Connect the layers of a ViT, from images to logits or features.

    Args:
        network: the arguments of `ViT` with defaults resolved, `grid_shape`, `policy`
            and `num_prefix_tokens`.
        blocks: iterable of the blocks, which may create them one at a time.

    Returns:
        The symbolic images, and the symbolic output.
    """
    n, policy = network, network.policy
    images = x = keras.Input(n.input_shape, name="images")  # (b, h, w, c)
    if n.stem is not None:
        x = n.stem(x)
    x = Patches(n.patch_size, dtype=policy, name="patches")(x)  # (b, gh * gw, p * p * c)
    x = PatchEncoder(
        n.hidden_dim,
        n.grid_shape,
        class_token=n.class_token,
        distillation_token=n.distillation_token,
        registers=n.registers,
        class_token_position=n.class_token_position,
        positions=n.positions,
        norm=n.embedding_norm,
        norm_kind=n.norm,
        layer_norm_epsilon=n.layer_norm_epsilon,
        dtype=policy,
        name="patch_encoder",
    )(x)  # (b, n, d)
    x = keras.layers.Dropout(n.dropout_rate, dtype=policy, name="dropout")(x)
    x, sizes, places = through(blocks, x)
    norm = make_norm(n.norm, n.layer_norm_epsilon, dtype=policy, name="norm")
    if n.final_norm == "before_pooling":
        x = norm(x)
    distilled = None
    if n.distillation_token:
        distilled = TokenPooling(1, dtype=policy, name="distillation_pooling")(x)
    if n.pooling is None:
        x = x if places is None else unmerge_tokens(x, places)
    elif isinstance(pooling := pooling_layer(n), TokenPooling) or sizes is None:
        x = pooling(x)  # (b, d)
    else:
        x = pooling(x, sizes)
    if n.final_norm == "after_pooling":
        x = norm(x)
    if not n.include_top:
        if distilled is not None and n.pooling == "token":
            x = keras.layers.Average(dtype=policy, name="features")([x, distilled])
        return images, x
    if n.representation_size is not None:
        x = PreLogits(n.representation_size, dtype=policy, name="pre_logits")(x)
    if distilled is None:
        return images, classifier_layer(n, n.classifier_activation, "classifier")(x)
    logits = [
        classifier_layer(n, None, "classifier")(x),
        classifier_layer(n, None, "distillation_classifier")(distilled),
    ]
    x = keras.layers.Average(dtype=head_dtype(policy), name="logits")(logits)
    predictions = keras.layers.Activation(
        n.classifier_activation, dtype=head_dtype(policy), name="predictions"
    )
    return images, predictions(x)
