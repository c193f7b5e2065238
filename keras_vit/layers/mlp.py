"""The MLPs of a Transformer block, and the forms of GELU."""

import math
from typing import Any, ClassVar

import keras
from keras import ops

from keras_vit.choices import check_choice
from keras_vit.kernels import gelu as kernels
from keras_vit.kernels.recompute import memory_is_slow, recompute
from keras_vit.kernels.rows import over_rows
from keras_vit.kernels.switch import fast_form
from keras_vit.layers.base import Composite, copy_of, restored, stored
from keras_vit.layers.dense import Dense
from keras_vit.layers.norms import make_norm


@keras.saving.register_keras_serializable(package="keras_vit")
@fast_form(kernels.gelu_tanh)
def gelu_tanh(x):
    """Return the tanh approximation of GELU, which Flax and Google's checkpoints use.

    `0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))`.
    """
    # Not `ops.gelu`: TensorFlow runs a matrix product, its bias and a GELU as one
    # operation if the GELU has products instead of its power.
    inner = (2 / math.pi) ** 0.5 * (x + 0.044715 * x * x * x)
    return 0.5 * x * (1.0 + ops.tanh(inner))


@keras.saving.register_keras_serializable(package="keras_vit")
@fast_form(kernels.gelu_exact)
def gelu_exact(x):
    """Return the exact GELU of timm, transformers and T2T-ViT."""
    # Not `ops.gelu`: under TensorFlow that is `erfc`, which ONNX does not have.
    return 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))


@keras.saving.register_keras_serializable(package="keras_vit")
def quick_gelu(x):
    """Return `x * sigmoid(1.702 * x)`, the GELU of OpenAI's CLIP."""
    return x * ops.sigmoid(1.702 * x)


def get_activation(name):
    """Return the activation with this name.

    Args:
        name: `"gelu_tanh"`, `"gelu"` (exact), `"quick_gelu"` (CLIP), or any name of
            `keras.activations`.

    Returns:
        A function of a tensor.

    Raises:
        ValueError: there is no such activation.
    """
    own = {"gelu_tanh": gelu_tanh, "gelu": gelu_exact, "quick_gelu": quick_gelu}
    if name in own:
        return own[name]
    try:
        if not isinstance(name, str):
            raise ValueError
        return keras.activations.get(name)
    except ValueError:
        raise ValueError(
            f"Unknown activation {name!r}; use 'gelu_tanh' (Google's checkpoints), "
            "'gelu' (exact: timm, transformers, T2T-ViT), 'quick_gelu' (CLIP), or a name "
            "of keras.activations."
        ) from None


@keras.saving.register_keras_serializable(package="keras_vit")
class MLP(Composite):
    """`contract(activation(expand(x)))`, with dropout after each dense layer.

    Input and output: `(..., d)`.

    Args:
        hidden_dim: int, width between the two layers (a model's `mlp_dim`). None only in
            the argument `mlp` of a model, which fills in its own.
        activation: `"gelu_tanh"`, `"gelu"` (exact), `"quick_gelu"` or a name of
            `keras.activations`.
        dropout_rate: rate of both dropouts.
        inner_norm: bool, whether the hidden layer is normalized before `contract`.
        use_bias: bool, whether the dense layers have biases.
        norm: kind of the inner norm: `"layer"`, `"rms"`, or a `LayerNorm` or `RMSNorm`.
        layer_norm_epsilon: float, added to the variance in the inner norm.

    Raises:
        ValueError: unknown activation.

    Example:

    >>> import keras, keras_vit
    >>> tuple(keras_vit.layers.MLP(128)(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Reference: ViT (arXiv:2010.11929) section 3.1, equation 3; inner norm: NormFormer
    (arXiv:2110.09456).
    """

    _attributes: ClassVar = {
        "activation": "activation_name",
        "inner_norm": "has_inner_norm",
        "norm": "norm_kind",
    }

    def __init__(
        self,
        hidden_dim: int | None = None,
        activation: str = "gelu_tanh",
        dropout_rate: float = 0.0,
        inner_norm: bool = False,
        use_bias: bool = True,
        norm: str | keras.layers.Layer = "layer",
        layer_norm_epsilon: float = 1e-6,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim: Any = hidden_dim
        self.activation_name = activation
        self.activation = get_activation(activation)
        self.dropout_rate = dropout_rate
        self.has_inner_norm = inner_norm
        self.use_bias = use_bias
        self.norm_kind = stored(norm)
        self.layer_norm_epsilon = layer_norm_epsilon
        self.dropout = keras.layers.Dropout(
            dropout_rate, dtype=self.dtype_policy, name="dropout"
        )

    def _dense(self, units, name, **kwargs):
        return Dense(
            units,
            use_bias=self.use_bias,
            bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
            dtype=self.dtype_policy,
            name=name,
            **kwargs,
        )

    def _make_expand(self, width):
        return self._dense(self.hidden_dim, "expand")

    def build(self, input_shape):
        if self.hidden_dim is None:
            raise ValueError(f"{type(self).__name__} needs hidden_dim; received None.")
        hidden = (*input_shape[:-1], self.hidden_dim)
        self.expand = self._make_expand(input_shape[-1])
        self.expand.build(input_shape)
        self.inner_norm: Any = None
        if self.has_inner_norm:
            self.inner_norm = make_norm(
                self.norm_kind,
                self.layer_norm_epsilon,
                dtype=self.dtype_policy,
                name="inner_norm",
            )
            self.inner_norm.build(hidden)
        self.contract = self._dense(input_shape[-1], "contract")
        self.contract.build(hidden)

    @over_rows
    def call(self, inputs, training=None):
        x = self.expand(inputs)
        if training and not self.dropout_rate and memory_is_slow():
            return recompute(self, lambda x: self._contract(x, training), x)
        return self._contract(x, training)

    def _contract(self, x, training):
        activation = self.activation
        if not training:
            activation = kernels.inference_form(activation)
        x = self.dropout(self._activate(x, activation), training=training)
        if self.inner_norm is not None:
            x = self.inner_norm(x)
        return self.dropout(self.contract(x), training=training)

    def _activate(self, x, activation):
        return activation(x)


@keras.saving.register_keras_serializable(package="keras_vit")
class GatedMLP(MLP):
    """`contract(activation(gate(x)) * expand(x))`, an MLP with a gate (SwiGLU).

    One product computes the gate and the hidden layer: the kernel of `expand` has the
    columns of the gate, then those of the hidden layer.

    Input and output: `(..., d)`.

    Args:
        hidden_dim: int, width of the gate and of the hidden layer. None only in the
            argument `mlp` of a model, which fills in its own.
        activation: activation of the gate: `"silu"` for SwiGLU, or as for `MLP`.
        **kwargs: as for `MLP`.

    Example:

    >>> import keras, keras_vit
    >>> tuple(keras_vit.layers.GatedMLP(128)(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Reference: GLU Variants Improve Transformer (arXiv:2002.05202) equation 6.
    """

    def __init__(self, hidden_dim: int | None = None, activation="silu", **kwargs):
        super().__init__(hidden_dim, activation, **kwargs)

    def _make_expand(self, width):
        # Glorot uniform for each of the two, as in SelfAttention.
        hidden_dim = self.hidden_dim
        scale = (width + 2 * hidden_dim) / (width + hidden_dim)
        initializer = keras.initializers.VarianceScaling(
            scale=scale, mode="fan_avg", distribution="uniform"
        )
        return self._dense(2 * hidden_dim, "expand", kernel_initializer=initializer)

    def _activate(self, x, activation):
        gate, x = ops.split(x, 2, axis=-1)
        return activation(gate) * x


# MLPs by their name in constructors.
MLPS = {"plain": MLP, "swiglu": GatedMLP}


def make_mlp(mlp, activation, mlp_class=MLP, **settings):
    """Return a new MLP.

    Args:
        mlp: `"plain"`, `"swiglu"`, or an `MLP`, of which a copy is made.
        activation: activation of a plain MLP; a gated one has its own.
        mlp_class: class that the MLP must have.
        **settings: other arguments of the MLP, such as `hidden_dim` and `name`.
    """
    if isinstance(mlp, str):
        check_choice("mlp", mlp, MLPS)
        mlp = MLPS[mlp]()
    mlp = restored(mlp)
    if not isinstance(mlp, GatedMLP):
        settings = {"activation": activation, **settings}
    return copy_of("mlp", mlp, (mlp_class,), **settings)
