"""The Vision Transformer."""

import functools
import math
import os
from collections.abc import Sequence
from typing import Any, ClassVar

import keras

from keras_vit.kernels.initial_values import checkpoint_follows
from keras_vit.layers import (
    AttentionPooling,
    Classifier,
    GlobalAveragePooling,
    LayerNorm,
    PatchEncoder,
    Patches,
    PreLogits,
    Preprocessor,
    TokenPooling,
    TransformerBlock,
)
from keras_vit.layers.attention import head_dim
from keras_vit.layers.base import adapt, adaptations
from keras_vit.layers.mlp import get_activation
from keras_vit.layers.patches import grid_shape
from keras_vit.layers.positions import check_positions
from keras_vit.layers.resize import RESIZE_CONVENTIONS
from keras_vit.models.adaptation import bases, check_mode
from keras_vit.models.image_model import ImageModel
from keras_vit.weights.download import fetch_checkpoint
from keras_vit.weights.h5 import load_own_weights
from keras_vit.weights.opening import open_checkpoint
from keras_vit.weights.source import HEAD_PATHS, Source
from keras_vit.weights.strict import assign

_POOLINGS = ("token", "gap", "map", None)
_FINAL_NORMS = ("before_pooling", "after_pooling")
HEADS = ("keep", "new", "drop")


def check_choice(argument, value, choices):
    if value not in choices:
        raise ValueError(
            f"Unknown {argument} {value!r}; choose one of "
            f"{', '.join(map(repr, choices))}."
        )


@keras.saving.register_keras_serializable(package="keras_vit")
class ViT(ImageModel):
    """Vision Transformer, with every choice open.

    The named variants (`ViTB16`, ...) fill in the sizes. The model is a functional
    Keras model: `summary`, `get_layer(...).output`, `fit`, `save` work as in
    `keras.applications`.

    Input: images `(b, h, w, c)`, floats as `model.preprocessor` makes them from pixel
    values 0 to 255 (by default -1 to 1).
    Output: `(b, classes)`, float32, probabilities unless `classifier_activation` says
    otherwise. With `include_top=False`: pooled features `(b, hidden_dim)`, or with
    `pooling=None` too the tokens `(b, n, hidden_dim)`, in the policy's dtype.

    Args:
        input_shape: `(height, width, channels)` of the images; may be rectangular.
        patch_size: int, side of a patch in pixels; must divide height and width. With a
            `stem`: in positions of its map, which it must divide.
        hidden_dim: int, width of the tokens.
        num_layers: int, number of blocks.
        num_heads: int, attention heads; must divide `hidden_dim`.
        mlp_dim: int, width of the MLPs.
        classes: int, number of classes.
        class_names: None, or the names of the classes in the order of the outputs, one
            str for each (ImageNet has two cranes, so names may repeat). Saved with the
            model; exports label their outputs with them.
        include_top: bool, whether there is a classifier.
        pooling: how tokens become one vector: `"token"` (class token), `"gap"` (mean of
            the grid tokens), `"map"` (attention by a learned probe), or None with
            `include_top=False`. Class token and GAP want different learning rates:
            the paper's appendix D.3 traces GAP's supposed weakness to that alone.
        class_token: bool, whether there is a class token. Default: exactly where
            `pooling="token"`.
        class_token_position: bool, whether learned positions have a row for the class
            token (timm's `no_embed_class` says they have not).
        distillation_token: bool, whether there is a second class token with a classifier
            of its own (DeiT). The logits are the mean of the two; a teacher's labels
            are for `model.get_layer("distillation_classifier").output`.
        final_norm: `"before_pooling"` or `"after_pooling"`, the place of the last norm.
        representation_size: None, or the width of the tanh layer before the
            classifier (pretraining).
        positions: `"learned"` (1-D, the paper's), `"learned_2d"`, `"relative"`,
            `"sincos_2d"`, `"sincos_1d"` or `"none"`.
        registers: int, number of register tokens.
        layer_scale: None, or the initial value of LayerScale.
        qkv_bias: bool, whether q, k and v have biases.
        activation: of the MLPs: `"gelu_tanh"` (Google), `"gelu"` (exact: timm,
            transformers), or a name of `keras.activations`.
        layer_norm_epsilon: float, added to the variance.
        dropout_rate: dropout after the positions and after each dense layer but q, k, v.
        attention_dropout_rate: dropout on the attention weights.
        stochastic_depth_rate: probability that a branch of the last block is dropped;
            earlier blocks' grow linearly from 0.
        remat: bool, whether training computes each block a second time in the backward
            pass in place of keeping what is inside it: about half the memory, for about
            a quarter more time.
        classifier_activation: name of a Keras activation, or None for logits.
        classifier_bias: float, initial bias of the classifier (a sigmoid loss wants
            about `-log(classes)`; AugReg: -10 for ImageNet-21k).
        stem: None, or a layer from images `(b, h, w, c)` to a map of features
            `(b, h', w', d)` that is cut into patches in their place, such as
            `keras_vit.layers.ResNetStem()`. The model makes its own layer from this
            one's config, named `stem`, in the model's dtype: give one without weights.
        preprocessor: a `keras_vit.layers.Preprocessor`: what images of any size go
            through before the model; its `image_size` is the model's, or None for one
            that only scales. None for the default: a plain bilinear resize, and pixels
            to -1 to 1. Also an attribute of the model, saved with it.
        weights: None (random), or a checkpoint: a name that `keras_vit.checkpoints()`
            lists, or a path; `keras_vit.load_checkpoint` says of what, and also builds
            the model that fits. Here `.weights.h5` of this same model goes too.
        head: with `weights`: `"keep"`; `"new"` to start from a fresh head although the
            checkpoint has one (other classes); `"drop"`, which is `include_top=False`.
        resize: with `weights`: convention by which positions of another grid are
            resized, see `keras_vit.layers.resize_grid`; None for the source's own.
        source_grid_shape: with `weights`: `(gh, gw)` of the checkpoint's positions,
            where it cannot be told from their number.
        check_finite: with `weights`: bool, whether NaN and infinity are errors.
        name: name of the model.
        dtype: dtype policy; None for the global one. Normalisation, softmax and
            classifier are computed in float32 under every policy.

    Raises:
        ValueError: an argument is out of its range, or two do not go together; a
            checkpoint does not fit exactly. Nothing has been allocated then.
        FileNotFoundError: there is no checkpoint at `weights`.

    Example:

    >>> import keras, keras_vit
    >>> model = keras_vit.ViT(
    ...     input_shape=(32, 32, 3), patch_size=8, hidden_dim=48, num_layers=2,
    ...     num_heads=3, mlp_dim=96, classes=10,
    ... )
    >>> pixels = keras.random.uniform((2, 32, 32, 3), maxval=255)
    >>> tuple(model(model.preprocessor(pixels)).shape)
    (2, 10)

    Source: ViT (arXiv:2010.11929).
    """

    # Arguments of `Preprocessor` where no checkpoint tells them.
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
        pooling: str | None = "token",
        class_token: bool | None = None,
        class_token_position: bool = True,
        distillation_token: bool = False,
        final_norm: str = "before_pooling",
        representation_size: int | None = None,
        positions: str = "learned",
        registers: int = 0,
        layer_scale: float | None = None,
        qkv_bias: bool = True,
        activation: str = "gelu_tanh",
        layer_norm_epsilon: float = 1e-6,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        stochastic_depth_rate: float = 0.0,
        remat: bool = False,
        classifier_activation: str | None = "softmax",
        classifier_bias: float = 0.0,
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
        check_choice("head", head, HEADS)
        if head == "drop":
            include_top, representation_size = False, None
        config: dict[str, Any] = {
            "input_shape": input_shape,
            "patch_size": patch_size,
            "hidden_dim": hidden_dim,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "mlp_dim": mlp_dim,
            "classes": classes,
            "class_names": class_names,
            "include_top": include_top,
            "pooling": pooling,
            "class_token": class_token,
            "class_token_position": class_token_position,
            "distillation_token": distillation_token,
            "final_norm": final_norm,
            "representation_size": representation_size,
            "positions": positions,
            "registers": registers,
            "layer_scale": layer_scale,
            "qkv_bias": qkv_bias,
            "activation": activation,
            "layer_norm_epsilon": layer_norm_epsilon,
            "dropout_rate": dropout_rate,
            "attention_dropout_rate": attention_dropout_rate,
            "stochastic_depth_rate": stochastic_depth_rate,
            "remat": remat,
            "classifier_activation": classifier_activation,
            "classifier_bias": classifier_bias,
            "stem": stem,
        }
        grid = _check_config(config)
        if class_names is not None:
            config["class_names"] = list(class_names)
        self._complete(config)
        height, width, channels = input_shape
        config["input_shape"] = input_shape = (height, width, channels)
        policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
        if stem is not None:
            stem = type(stem).from_config(
                {**stem.get_config(), "name": "stem", "dtype": policy}
            )
            config["stem"] = keras.saving.serialize_keras_object(stem)
        if class_token is None:
            class_token = pooling == "token"
        num_prefix_tokens = int(class_token) + int(distillation_token) + registers
        relative_grid_shape = grid if positions == "relative" else None
        if resize is not None:
            check_choice("resize", resize, RESIZE_CONVENTIONS)
        if weights is None and (head != "keep" or resize or source_grid_shape):
            raise ValueError(
                f"head={head!r}, resize={resize!r} and "
                f"source_grid_shape={source_grid_shape!r} say how a checkpoint is "
                "loaded; received weights=None."
            )
        own_file = None
        if isinstance(weights, str | os.PathLike) and os.fspath(weights).endswith(
            ".weights.h5"
        ):
            if head == "new" or resize or source_grid_shape:
                raise ValueError(
                    f"head={head!r}, resize={resize!r} and source_grid_shape="
                    f"{source_grid_shape!r} do not go with .weights.h5, which has no "
                    "model in it: save the model as .keras, and use load_checkpoint."
                )
            own_file = fetch_checkpoint(weights)
        values = source = None
        if weights is not None and own_file is None:
            source = weights if isinstance(weights, Source) else open_checkpoint(weights)
            values = source.values(
                {
                    **config,
                    "class_token": class_token,
                    "grid_shape": grid,
                    "stem": stem,
                },
                head=head,
                resize=resize,
                source_grid_shape=source_grid_shape,
                check_finite=check_finite,
            )
        if preprocessor is None:
            preprocessing = self._preprocessing
            if source is not None:
                preprocessing = source.preprocessing
            preprocessor = Preprocessor(
                **{"image_size": (height, width), **preprocessing}, name="preprocessor"
            )
            preprocessor = preprocessor.with_channels(channels)
        elif not isinstance(preprocessor, Preprocessor):
            raise ValueError(
                "preprocessor must be a keras_vit.layers.Preprocessor; received "
                f"{preprocessor!r}."
            )
        elif preprocessor.image_size not in (None, (height, width)):
            raise ValueError(
                f"The preprocessor has image_size={preprocessor.image_size}, the model "
                f"input_shape={input_shape}; make them equal, for example with "
                f"preprocessor.with_image_size({(height, width)})."
            )

        def norm(tokens):
            return LayerNorm(epsilon=layer_norm_epsilon, dtype=policy, name="norm")(
                tokens
            )

        with checkpoint_follows(weights is not None):
            inputs = x = keras.Input(input_shape, name="images")
            if stem is not None:
                x = stem(x)
            x = Patches(patch_size, dtype=policy, name="patches")(x)
            x = PatchEncoder(
                hidden_dim,
                grid,
                class_token=class_token,
                distillation_token=distillation_token,
                registers=registers,
                class_token_position=class_token_position,
                positions=positions,
                dtype=policy,
                name="patch_encoder",
            )(x)
            x = keras.layers.Dropout(dropout_rate, dtype=policy, name="dropout")(x)
            for i in range(num_layers):
                x = self._block(
                    x,
                    i,
                    num_heads=num_heads,
                    mlp_dim=mlp_dim,
                    activation=activation,
                    layer_norm_epsilon=layer_norm_epsilon,
                    qkv_bias=qkv_bias,
                    layer_scale=layer_scale,
                    dropout_rate=dropout_rate,
                    attention_dropout_rate=attention_dropout_rate,
                    stochastic_depth_rate=stochastic_depth_rate
                    * i
                    / max(num_layers - 1, 1),
                    relative_grid_shape=relative_grid_shape,
                    remat=remat,
                    dtype=policy,
                    name=f"block_{i}",
                )
            if final_norm == "before_pooling":
                x = norm(x)
            distilled = None
            if distillation_token:
                distilled = TokenPooling(1, dtype=policy, name="distillation_pooling")(x)
            if pooling == "token":
                x = TokenPooling(dtype=policy, name="pooling")(x)
            elif pooling == "gap":
                x = GlobalAveragePooling(num_prefix_tokens, dtype=policy, name="pooling")(
                    x
                )
            elif pooling == "map":
                x = AttentionPooling(
                    num_heads,
                    mlp_dim,
                    num_prefix_tokens,
                    activation=activation,
                    layer_norm_epsilon=layer_norm_epsilon,
                    dtype=policy,
                    name="pooling",
                )(x)
            if final_norm == "after_pooling":
                x = norm(x)
            head_dtype = keras.backend.result_type(policy.compute_dtype, "float32")

            def classifier(layer_name, activation):
                return Classifier(
                    classes,
                    activation=activation,
                    bias_initializer=keras.initializers.Constant(classifier_bias),
                    dtype=head_dtype,
                    name=layer_name,
                )

            if include_top and distilled is not None:
                logits = [
                    classifier("classifier", None)(x),
                    classifier("distillation_classifier", None)(distilled),
                ]
                x = keras.layers.Average(dtype=head_dtype, name="logits")(logits)
                x = keras.layers.Activation(
                    classifier_activation, dtype=head_dtype, name="predictions"
                )(x)
            elif include_top:
                if representation_size is not None:
                    x = PreLogits(representation_size, dtype=policy, name="pre_logits")(x)
                x = classifier("classifier", classifier_activation)(x)
            elif distilled is not None and pooling == "token":
                x = keras.layers.Average(dtype=policy, name="features")([x, distilled])
        super().__init__(inputs=inputs, outputs=x, name=name)
        self.dtype_policy = policy  # A functional model takes no dtype.
        self._constructor_config = config
        self._num_layers = num_layers
        self._fixed = {p for p, w in self.weights_by_path().items() if not w.trainable}
        self.grid_shape = grid
        self.num_prefix_tokens = num_prefix_tokens
        self.preprocessor = preprocessor
        if own_file is not None:
            load_own_weights(self, own_file, check_finite)
        elif values is not None:
            own = self.weights_by_path()
            if head == "new":  # It keeps its fresh values.
                own = {p: w for p, w in own.items() if not p.startswith(HEAD_PATHS)}
            assign(own, values)

    def _complete(self, config):
        """Where a subclass adds its arguments to those that have been checked."""

    def _block(self, tokens, index, **arguments):
        """Adds block number `index` to the graph."""
        return TransformerBlock(**arguments)(tokens)

    def resized(self, input_shape: tuple[int, int, int], resize: str = "google") -> "ViT":
        """The same network for images of another size.

        All weights are copied; positions are resized to the new grid, those of prefix
        tokens as they are. Fixed positions are made anew. A preprocessor that resizes
        resizes to the new size. Accuracy drops until the new model is fine-tuned: the
        number of tokens that attention averages over has changed.

        Args:
            input_shape: `(height, width, channels)` of the new images; may be
                rectangular; the same channels.
            resize: name of the convention, see `keras_vit.layers.resize_grid`.

        Returns:
            A new, uncompiled `ViT`; this one is left as it is.

        Raises:
            ValueError: the patch does not divide the size, the channels differ, or an
                unknown convention.

        Example:

        >>> import keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(64, 64, 3), classes=10)
        >>> model.resized((96, 64, 3)).grid_shape
        (6, 4)

        Source: ViT (arXiv:2010.11929) section 3.2.
        """
        check_choice("resize", resize, RESIZE_CONVENTIONS)
        config = self.get_config()
        grid_shape(input_shape, patch_size=1)  # Whether it is a shape at all.
        if input_shape[-1] != config["input_shape"][-1]:
            raise ValueError(
                f"resized() changes height and width only; received {input_shape} for a "
                f"model with {config['input_shape'][-1]} channels."
            )
        height, width, channels = input_shape
        image_size = (height, width) if self.preprocessor.image_size else None
        config["input_shape"] = (height, width, channels)
        config["preprocessor"] = self.preprocessor.with_image_size(image_size)
        with checkpoint_follows():
            model = type(self).from_config(config)
        values = self.resized_values(self._values(), model, resize)
        assign(model.weights_by_path(), values.items())
        return model

    def _values(self):
        """The weights as arrays by path."""
        return {
            path: keras.ops.convert_to_numpy(weight)
            for path, weight in self.weights_by_path().items()
        }

    def resized_values(
        self, values: dict[str, Any], model: "ViT", resize: str = "google"
    ) -> dict[str, Any]:
        """Values of this model's weights for another model: positions to its grid.

        Args:
            values: dict from path to array: the weights', or what goes with them, such
                as an optimizer's averages of their gradients.
            model: the same network for images of another size.
            resize: name of the convention, see `keras_vit.layers.resize_grid`.

        Returns:
            A new dict; all but the positions are as they were.

        Example:

        >>> import keras, keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(64, 64, 3), classes=10)
        >>> larger = model.resized((96, 64, 3))
        >>> values = {
        ...     path: keras.ops.convert_to_numpy(weight)
        ...     for path, weight in model.weights_by_path().items()}
        >>> resized = model.resized_values(values, larger)
        >>> resized["patch_encoder/positions/embedding"].shape
        (1, 25, 192)
        """
        values = dict(values)
        for layer_path, layer in model._position_layers().items():
            paths = {w.name: f"{layer_path}/{w.name}" for w in layer.weights}
            tables = {name: values[path] for name, path in paths.items()}
            tables = layer.resized_tables(tables, self.grid_shape, resize)
            values.update({paths[name]: table for name, table in tables.items()})
        return values

    def resolved_config(self):
        """The constructor's arguments as layers and numbers, for converters."""
        layers = {layer.name: layer for layer in self.layers}
        encoder = layers["patch_encoder"]
        return {
            **self._constructor_config,
            "class_token": encoder.has_class_token,
            "grid_shape": self.grid_shape,
            "stem": layers.get("stem"),
        }

    def _position_layers(self):
        layers = {"patch_encoder/positions": self.get_layer("patch_encoder").positions}
        for i in range(self._num_layers):
            attention = self.get_layer(f"block_{i}").attention
            path = f"block_{i}/attention/relative_positions"
            layers[path] = attention.relative_positions
        return {path: layer for path, layer in layers.items() if layer is not None}

    def weights_by_path(self):
        """The model's weights, by their paths within it.

        The paths are those that checkpoints, sharding rules and weight-decay rules are
        written against. A model that was made in a name scope has them too.

        Returns:
            Dict from path to `keras.Variable`.

        Example:

        >>> import keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(32, 32, 3), classes=10)
        >>> next(iter(model.weights_by_path()))
        'patch_encoder/class_token'
        """
        scope = self.weights_scope()
        return {weight.path.removeprefix(scope): weight for weight in self.weights}

    def weights_scope(self):
        """Return the name scope that the model was made in: a prefix of all its paths."""
        return self.get_layer("patch_encoder").path.removesuffix("patch_encoder")

    def __new__(cls, *args, **kwargs):
        model = super().__new__(cls, *args, **kwargs)
        # Keras has wrapped the method in a check that asks for a config of GPTQ first.
        wrapped = model.quantize

        @functools.wraps(wrapped)
        def quantize(mode=None, config=None, **kwargs):
            check_mode(mode, config)
            return wrapped(mode, config, **kwargs)

        model.quantize = quantize
        return model

    def quantize(self, mode=None, config=None, filters=None, **kwargs):
        """Quantize the dense layers, as `keras.Model.quantize` does.

        Args:
            mode: `"int8"`, `"int4"` or `"float8"`; may be left out with a `config`.
            config: None, or one of Keras's quantization configs.
            filters: None, or which layers: see `keras.Model.quantize`.
            **kwargs: as for `keras.Model.quantize`.

        Raises:
            ValueError: another mode: `"gptq"` and `"awq"` calibrate text models.
        """
        super().quantize(mode, config=config, filters=filters, **kwargs)

    def get_config(self):
        """Exactly the constructor's arguments, but those about loading `weights`.

        Weights that were frozen (`trainable = False`) are named in one more entry, so
        that a saved model comes back as it was.
        """
        policy = self.dtype_policy
        plain = type(policy) is keras.dtype_policies.DTypePolicy
        config = {
            **self._constructor_config,
            "preprocessor": keras.saving.serialize_keras_object(self.preprocessor),
            "name": self.name,
            "dtype": policy.name if plain else keras.dtype_policies.serialize(policy),
        }
        weights = self.weights_by_path().items()
        fixed = self._fixed | bases(self)
        frozen = [p for p, w in weights if not w.trainable and p not in fixed]
        if frozen:
            config["frozen"] = frozen
        return {**config, **adaptations(self, self.weights_scope())}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        frozen = set(config.pop("frozen", ()))
        added = {name: config.pop(name, {}) for name in ("lora", "quantized")}
        for argument in ("stem", "preprocessor"):
            if isinstance(config.get(argument), dict):
                config[argument] = keras.saving.deserialize_keras_object(
                    config[argument], custom_objects=custom_objects
                )
        model = cls(**config)
        adapt(model, model.weights_scope(), added)
        for path, weight in model.weights_by_path().items():
            if path in frozen:
                weight.trainable = False
        for layer in (*model.layers, model):
            if layer.weights and not any(weight.trainable for weight in layer.weights):
                layer.trainable = False
        return model


def _grid_shape(input_shape, patch_size, stem):
    """Rows and columns of patches, in the image or in the map that the stem makes."""
    if stem is None:
        return grid_shape(input_shape, patch_size)
    if not isinstance(stem, keras.layers.Layer):
        raise ValueError(
            "stem must be None or a Keras layer from images to a map of features, such "
            f"as keras_vit.layers.ResNetStem(); received {stem!r}."
        )
    if stem.weights:
        raise ValueError(
            f"The stem {stem.name!r} has weights already. The model makes its own stem "
            "from the config, as it does when it is saved, so these would be lost: pass "
            "type(stem).from_config(stem.get_config()), and give the weights to "
            "model.get_layer('stem').set_weights(...)."
        )
    grid_shape(input_shape, patch_size=1)  # Whether it is a shape at all.
    features = tuple(stem.compute_output_shape((None, *input_shape)))[1:]
    if len(features) != 3 or None in features:
        raise ValueError(
            "stem must give maps of features (batch, height, width, channels) of known "
            f"size; {stem!r} gives {(None, *features)} for images of {input_shape}."
        )
    if math.prod(features) > _LARGEST_IMAGE:
        raise ValueError(
            f"The stem gives maps of {features}, more than {_LARGEST_IMAGE} numbers an "
            "image: make it smaller."
        )
    sides = features[:2]
    if isinstance(patch_size, int) and any(side % max(patch_size, 1) for side in sides):
        nearest = [_nearest_side(axis, input_shape, patch_size, stem) for axis in (0, 1)]
        remedy = "Change patch_size: the stem makes no map of such a size."
        if None not in nearest:
            remedy = (
                f"Resize to {nearest[0]}x{nearest[1]}, "
                f"input_shape={(*nearest, input_shape[2])}, or change patch_size."
            )
        raise ValueError(
            f"An image of {input_shape[0]}x{input_shape[1]} pixels leaves the stem as a "
            f"map of {sides[0]}x{sides[1]} positions, which cannot be cut into patches "
            f"of {patch_size}x{patch_size}: both sides must be multiples of "
            f"{patch_size}. {remedy}"
        )
    return grid_shape(features, patch_size)


def _nearest_side(axis, input_shape, patch_size, stem):
    """The height (axis 0) or width nearest to the image's that can be cut, or None."""

    def fits(size):
        shape = [None, *input_shape]
        shape[1 + axis] = size
        try:
            side = stem.compute_output_shape(tuple(shape))[1 + axis]
        except ValueError:  # Too small for the stem.
            return False
        return side > 0 and side % patch_size == 0

    size = input_shape[axis]
    candidates = filter(fits, range(1, size * (patch_size + 1)))
    return min(candidates, key=lambda candidate: abs(candidate - size), default=None)


def _check_class_names(class_names, classes):
    """Raise a `ValueError` unless there is one str for each class, or None."""
    if class_names is None:
        return
    if (
        isinstance(class_names, str)
        or not isinstance(class_names, Sequence)
        or not all(isinstance(name, str) for name in class_names)
    ):
        raise ValueError(
            "class_names must be None or a sequence of str, one for each class; received "
            f"{class_names!r}."
        )
    if len(class_names) != classes:
        raise ValueError(
            f"class_names must have one name for each of the {classes} classes; received "
            f"{len(class_names)} names: {', '.join(class_names[:3])}, ..."
        )


# Larger than any that was ever trained (ViT-22B has 48 blocks of a width of 6144).
_LARGEST_SIZES = {
    "hidden_dim": 2**17,
    "num_layers": 10_000,
    "num_heads": 2**17,
    "mlp_dim": 2**20,
    "classes": 10**8,
    "representation_size": 2**20,
    "registers": 10**6,
}
_LARGEST_MODEL = 10**11  # Weights: 400 GB as float32.
_LARGEST_IMAGE = 2**28  # Numbers: 1 GB as float32.


def _is_int(value):
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value):
    """Return True for a finite int or float that a float32 can hold."""
    number = _is_int(value) or isinstance(value, float)
    return number and abs(value) < 1e38


def _is_activation(name):
    try:
        return isinstance(name, str) and callable(keras.activations.get(name))
    except (ValueError, TypeError):
        return False


def _shorten(value):
    """Return `repr(value)`, which may have thousands of digits, in one line."""
    if _is_int(value) and abs(value) > 10**20:
        return "an int of more than 20 digits"
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:100]}..."


def _check_total(config, grid):
    """Check roughly how many weights the model would have."""
    height, width, channels = config["input_shape"]
    if height * width * channels > _LARGEST_IMAGE:
        raise ValueError(
            f"input_shape={_shorten(config['input_shape'])} has more than "
            f"{_LARGEST_IMAGE} numbers an image: make it smaller."
        )
    d, rows = config["hidden_dim"], grid[0] * grid[1]
    if config["stem"] is None:
        rows += config["patch_size"] ** 2 * channels
    if config["include_top"]:
        rows += config["classes"]
    rows += config["registers"] + config["num_layers"] * (4 * d + 2 * config["mlp_dim"])
    if d * rows > _LARGEST_MODEL:
        raise ValueError(
            f"The model would have about {d * rows:.1e} weights, more than "
            f"{_LARGEST_MODEL:.0e}: make hidden_dim, num_layers, mlp_dim, classes, "
            "patch_size or input_shape smaller."
        )


def _check_config(config):
    """Raises before anything is built; returns the grid's rows and columns."""
    for argument, largest in _LARGEST_SIZES.items():
        size = config[argument]
        if size is None and argument == "representation_size":
            continue
        smallest = 0 if argument == "registers" else 1
        if not _is_int(size) or not smallest <= size <= largest:
            what = {
                "registers": "an int, 0 or more",
                "representation_size": "None or a positive int",
            }.get(argument, "a positive int")
            raise ValueError(
                f"{argument} must be {what}, at most {largest} (int(...) makes an int of "
                f"a NumPy number); received {_shorten(size)}."
            )
    _check_class_names(config["class_names"], config["classes"])
    representation_size = config["representation_size"]
    epsilon = config["layer_norm_epsilon"]
    if not isinstance(epsilon, float) or not 0 < epsilon < 1:
        raise ValueError(
            f"layer_norm_epsilon must be a float between 0 and 1; received {epsilon!r}."
        )
    layer_scale = config["layer_scale"]
    if layer_scale is not None and not (_is_number(layer_scale) and layer_scale > 0):
        raise ValueError(
            "layer_scale must be None or a positive number, the initial scale; received "
            f"{layer_scale!r}."
        )
    bias = config["classifier_bias"]
    if not _is_number(bias):
        raise ValueError(f"classifier_bias must be a finite number; received {bias!r}.")
    for argument in (
        "include_top",
        "qkv_bias",
        "class_token",
        "class_token_position",
        "distillation_token",
    ):
        if config[argument] not in (True, False, None):
            raise ValueError(f"{argument} must be a bool; received {config[argument]!r}.")
    for argument in (
        "dropout_rate",
        "attention_dropout_rate",
        "stochastic_depth_rate",
    ):
        rate = config[argument]
        if not _is_number(rate) or not 0 <= rate < 1:
            raise ValueError(
                f"{argument} must be a number, at least 0 and below 1; received {rate!r}."
            )
    grid = _grid_shape(config["input_shape"], config["patch_size"], config["stem"])
    _check_total(config, grid)
    head_dim(config["hidden_dim"], config["num_heads"])
    get_activation(config["activation"])
    activation = config["classifier_activation"]
    if activation is not None and not _is_activation(activation):
        raise ValueError(
            f"Unknown classifier_activation {activation!r}; use None for logits, "
            "'softmax', 'sigmoid' or another name of keras.activations."
        )
    check_positions(config["positions"], config["hidden_dim"])
    check_choice("pooling", config["pooling"], _POOLINGS)
    check_choice("final_norm", config["final_norm"], _FINAL_NORMS)
    pooling, include_top = config["pooling"], config["include_top"]
    if pooling == "token" and config["class_token"] is False:
        raise ValueError(
            "pooling='token' needs the class token; received class_token=False. Use "
            "pooling='gap' or 'map' for a model without one."
        )
    if pooling is None and (include_top or config["final_norm"] == "after_pooling"):
        raise ValueError(
            "pooling=None gives tokens: it needs include_top=False and "
            f"final_norm='before_pooling'; received include_top={include_top}, "
            f"final_norm={config['final_norm']!r}."
        )
    if config["distillation_token"] and (
        pooling not in ("token", None) or representation_size is not None
    ):
        raise ValueError(
            "distillation_token=True is DeiT's head: it needs pooling='token' and "
            f"representation_size=None; received pooling={pooling!r}, "
            f"representation_size={representation_size!r}."
        )
    if representation_size is not None and not include_top:
        raise ValueError(
            "representation_size is part of the classification head; received "
            f"{representation_size} with include_top=False."
        )
    return grid
