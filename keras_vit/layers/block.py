"""The Transformer block, with its residual branches."""

from typing import Any, ClassVar

import keras

from keras_vit.choices import check_choice
from keras_vit.kernels.recompute import recompute
from keras_vit.layers.attention import SelfAttention
from keras_vit.layers.base import Composite, Layer, copy_of, stored
from keras_vit.layers.mlp import MLP, make_mlp
from keras_vit.layers.norms import make_norm
from keras_vit.layers.relative_positions import from_earlier


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerScale(Layer):
    """Multiplication by a learned vector that starts small.

    Input and output: `(..., d)`.

    Args:
        initial_value: float, initial value of every entry.

    Example:

    >>> import keras, keras_vit
    >>> x = keras.ops.ones((1, 2))
    >>> keras.ops.convert_to_numpy(keras_vit.layers.LayerScale(0.5)(x)).tolist()
    [[0.5, 0.5]]

    Reference: CaiT (arXiv:2103.17239) section 2.
    """

    def __init__(self, initial_value: float = 1e-5, **kwargs):
        super().__init__(**kwargs)
        self.initial_value = initial_value

    def build(self, input_shape):
        self.gamma = self.add_weight(
            name="gamma",
            shape=(input_shape[-1],),
            initializer=keras.initializers.Constant(self.initial_value),
        )

    def call(self, x):
        return x * self.gamma


@keras.saving.register_keras_serializable(package="keras_vit")
class StochasticDepth(keras.layers.Dropout):
    """Dropout of a whole residual branch for some images of a batch, in training only.

    Branches that are kept are divided by the probability of keeping them. This is
    Keras's dropout with one draw for each image.

    Input and output: `(b, n, d)`.

    Args:
        rate: probability that an image's branch is dropped.

    Example:

    >>> import keras, keras_vit
    >>> branch = keras.random.uniform((2, 5, 64))
    >>> out = keras_vit.layers.StochasticDepth(0.5)(branch, training=False)
    >>> bool(keras.ops.all(out == branch))
    True

    Reference: Deep Networks with Stochastic Depth (arXiv:1603.09382).
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(rate, noise_shape=(None, 1, 1), **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config


# Parts of a block that the backward pass can compute again.
REMAT = (False, True, "block", "attention", "mlp")
# Orders of norms and branches in a block.
BLOCK_ORDERS = ("pre_norm", "post_norm", "parallel")


@keras.saving.register_keras_serializable(package="keras_vit")
class TransformerBlock(Composite):
    """`x + attention(norm(x))`, then `x + mlp(norm(x))`.

    Each branch may be scaled (LayerScale) and dropped (stochastic depth).

    Input and output: `(b, n, d)`, any float dtype. Norms and softmax are computed in
    float32.

    Args:
        num_heads: int, number of attention heads; must divide `d`.
        mlp_dim: int, width of the MLP.
        activation: `"gelu_tanh"`, `"gelu"` (exact), `"quick_gelu"` or a name of
            `keras.activations`.
        layer_norm_epsilon: float, added to the variance.
        qkv_bias: bool, whether q, k and v have biases, or `"qv"`; see `SelfAttention`.
        layer_scale: None for no LayerScale, or its initial value.
        dropout_rate: dropout rate after every dense layer except the QKV projection.
        attention_dropout_rate: dropout rate of the attention weights.
        stochastic_depth_rate: probability that a branch is dropped for an image.
        positions: None, or positions of the attention; see `SelfAttention`.
        remat: whether the backward pass computes the block again instead of storing its
            intermediate tensors: False, True or `"block"`; `"attention"` or `"mlp"` for
            that branch only, which saves less memory and takes less time.
        norm: kind of all norms: `"layer"`, `"rms"`, or a `LayerNorm` or `RMSNorm`.
        mlp: `"plain"`, `"swiglu"`, or an `MLP`, such as
            `GatedMLP(inner_norm=True)`. Copies of layers are used, with the other
            arguments filled in.
        attention: None, or a `SelfAttention` with further options, such as
            `SelfAttention(qk_norm=True)`.
        order: `"pre_norm"`; `"post_norm"` for `x + norm(attention(x))`, then
            `x + norm(mlp(x))`; or `"parallel"` for
            `x + attention(norm(x)) + mlp(norm(x))` with one norm.

    Raises:
        ValueError: `num_heads` does not divide `d`, an unknown activation or order, or a
            layer that contradicts another argument.

    Example:

    >>> import keras, keras_vit
    >>> block = keras_vit.layers.TransformerBlock(num_heads=4, mlp_dim=128)
    >>> tuple(block(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Reference: ViT (arXiv:2010.11929) equations 2 and 3; norms after the branches: Swin
    Transformer V2 (arXiv:2111.09883) section 3.2; parallel branches: ViT-22B
    (arXiv:2302.05442) section 2.
    """

    _attributes: ClassVar = {
        "attention": "attention_prototype",
        "mlp": "mlp_prototype",
        "norm": "norm_kind",
        "positions": "position_layer",
    }
    # Subclasses replace these.
    attention_class = SelfAttention
    mlp_class = MLP

    def __init__(
        self,
        num_heads: int,
        mlp_dim: int,
        activation: str = "gelu_tanh",
        layer_norm_epsilon: float = 1e-6,
        qkv_bias: bool | str = True,
        layer_scale: float | None = None,
        dropout_rate: float = 0.0,
        attention_dropout_rate: float = 0.0,
        stochastic_depth_rate: float = 0.0,
        positions: keras.layers.Layer | None = None,
        remat: bool | str = False,
        norm: str | keras.layers.Layer = "layer",
        mlp: str | keras.layers.Layer = "plain",
        attention: keras.layers.Layer | None = None,
        order: str = "pre_norm",
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_choice("order", order, BLOCK_ORDERS)
        check_choice("remat", remat, REMAT)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.activation = activation
        self.layer_norm_epsilon = layer_norm_epsilon
        self.qkv_bias = qkv_bias
        self.layer_scale = layer_scale
        self.dropout_rate = dropout_rate
        self.attention_dropout_rate = attention_dropout_rate
        self.stochastic_depth_rate = stochastic_depth_rate
        self.position_layer = stored(positions)
        self.remat = remat
        self.norm_kind = stored(norm)
        self.mlp_prototype = stored(mlp)
        self.attention_prototype = stored(attention)
        self.order = order
        self._make_layers()

    def _make_layers(self):
        dtype = self.dtype_policy
        norms = {"norm": self.norm_kind, "layer_norm_epsilon": self.layer_norm_epsilon}

        def norm(name):
            return make_norm(
                self.norm_kind, self.layer_norm_epsilon, dtype=dtype, name=name
            )

        def scale(name):
            if self.layer_scale is None:
                return None
            return LayerScale(self.layer_scale, dtype=dtype, name=name)

        # Parallel branches have the first norm and the first scale in common.
        parallel = self.order == "parallel"
        self.attention_norm = norm("attention_norm")
        self.attention = copy_of(
            "attention",
            self.attention_prototype or self.attention_class(),
            (self.attention_class,),
            num_heads=self.num_heads,
            use_qkv_bias=self.qkv_bias,
            dropout_rate=self.attention_dropout_rate,
            positions=self.position_layer,
            **norms,
            dtype=dtype,
            name="attention",
        )
        self.attention_dropout = keras.layers.Dropout(
            self.dropout_rate, dtype=dtype, name="attention_dropout"
        )
        self.attention_scale = scale("attention_scale")
        self.mlp_norm: Any = None if parallel else norm("mlp_norm")
        plain = self.mlp_prototype == "plain"
        self.mlp = make_mlp(
            self.mlp_class() if plain else self.mlp_prototype,
            self.activation,
            self.mlp_class,
            hidden_dim=self.mlp_dim,
            dropout_rate=self.dropout_rate,
            **norms,
            dtype=dtype,
            name="mlp",
        )
        self.mlp_scale = None if parallel else scale("mlp_scale")
        self.stochastic_depth = StochasticDepth(
            self.stochastic_depth_rate, dtype=dtype, name="stochastic_depth"
        )

    @classmethod
    def from_config(cls, config):
        return super().from_config(from_earlier(config))

    def build(self, input_shape):
        for layer in (
            self.attention_norm,
            self.attention,
            self.attention_scale,
            self.mlp_norm,
            self.mlp,
            self.mlp_scale,
        ):
            if layer is not None:
                layer.build(input_shape)

    def call(self, x, training=None):
        if self.remat in (True, "block") and training:
            return recompute(self, lambda x: self._transform(x, training), x)
        return self._transform(x, training)

    def attention_weights(self, x):
        """Return the attention weights of the block in inference.

        Args:
            x: `(b, n, d)`, the input of the block.

        Returns:
            `(b, num_heads, n, n)`, float32: for each query a row that sums to 1.

        Example:

        >>> import keras, keras_vit
        >>> model = keras_vit.ViTTi16(input_shape=(32, 48, 3), classes=10)
        >>> block = model.get_layer("block_5")
        >>> tokens = keras.Model(model.input, block.input)
        >>> images = model.preprocessor(keras.random.uniform((1, 32, 48, 3), maxval=255))
        >>> tuple(block.attention_weights(tokens(images)).shape)
        (1, 3, 7, 7)
        """
        if self.order != "post_norm":
            x = self.attention_norm(x)
        return self.attention.attention_weights(x)

    def _transform(self, x, training):
        if self.order == "parallel":
            normal = self.attention_norm(x)
            branch = self._branch("attention", normal, training)
            branch = branch + self._branch("mlp", normal, training)
            return self._add(x, branch, self.attention_scale, training)
        branch = self._branch("attention", x, training)
        x = self._add(x, branch, self.attention_scale, training)
        branch = self._branch("mlp", x, training)
        return self._add(x, branch, self.mlp_scale, training)

    def _branch(self, part, x, training):
        """Return the attention or the MLP of the tokens, with its norm if it has one."""
        norm = self.attention_norm if part == "attention" else self.mlp_norm

        def branch(x):
            if self.order == "pre_norm":
                x = norm(x)
            if part == "attention":
                x = self._attend(x, training)
            else:
                x = self.mlp(x, training=training)
            return norm(x) if self.order == "post_norm" else x

        if training and self.remat == part:
            return recompute(self, branch, x)
        return branch(x)

    def _attend(self, x, training):
        branch = self.attention(x, training=training)
        return self.attention_dropout(branch, training=training)

    def _add(self, x, branch, scale, training):
        if scale is not None:
            branch = scale(branch)
        return x + self.stochastic_depth(branch, training=training)
