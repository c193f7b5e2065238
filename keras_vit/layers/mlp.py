"""The MLP of a Transformer block, and the two forms of GELU."""

import math

import keras
from keras import ops

from keras_vit.layers.adaptation import Composite
from keras_vit.layers.dense import Dense
from keras_vit.layers.gradient import hand_written_gradient, in_one_pass
from keras_vit.layers.precision import wide

_LINEAR = (2 / math.pi) ** 0.5
_CUBIC = 0.044715 * _LINEAR


def _plain_gelu_tanh(x):
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable(package="keras_vit")
@hand_written_gradient(_plain_gelu_tanh)
def gelu_tanh(x):
    """The tanh approximation of GELU: Flax's default, so Google's checkpoints'.

    `0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))`.
    """
    x_wide = wide(x)
    tanh = ops.tanh(x_wide * (_LINEAR + _CUBIC * x_wide * x_wide))
    outputs = ops.cast(0.5 * x_wide * (1.0 + tanh), x.dtype)
    return outputs, lambda upstream: (_gelu_tanh_gradient(x, upstream),)


@in_one_pass
def _gelu_tanh_gradient(x, upstream):
    x_wide = wide(x)
    square = x_wide * x_wide
    # 0.5 * (1 + tanh(a)) = sigmoid(2 * a). Written so, XLA does not find the forward
    # pass's tanh in it, which it would keep for the purpose.
    gate = ops.sigmoid(2.0 * x_wide * (_LINEAR + _CUBIC * square))
    slope = 2.0 * x_wide * (1.0 - gate) * (_LINEAR + 3.0 * _CUBIC * square)
    return ops.cast(wide(upstream) * gate * (1.0 + slope), x.dtype)


def _plain_gelu_exact(x):
    # Not `ops.gelu`, but for torch's kernel: under TensorFlow it becomes `erfc`, which
    # ONNX does not have.
    if keras.backend.backend() == "torch":
        return ops.gelu(x, approximate=False)
    return 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))


@keras.saving.register_keras_serializable(package="keras_vit")
@hand_written_gradient(_plain_gelu_exact)
def gelu_exact(x):
    """GELU by the error function: timm, transformers, T2T-ViT."""
    outputs = _plain_gelu_exact(x)
    return outputs, lambda upstream: (_gelu_exact_gradient(x, upstream),)


@in_one_pass
def _gelu_exact_gradient(x, upstream):
    x_wide = wide(x)
    cumulative = 0.5 * (1.0 + ops.erf(x_wide * 0.5**0.5))
    density = ops.exp(-0.5 * x_wide * x_wide) * (2 * math.pi) ** -0.5
    return ops.cast(wide(upstream) * (cumulative + x_wide * density), x.dtype)


def get_activation(name):
    """The activation that a constructor's argument names.

    Args:
        name: `"gelu_tanh"`, `"gelu"` (exact), or any name of `keras.activations`.

    Returns:
        A function of a tensor.

    Raises:
        ValueError: there is no such activation.
    """
    own = {"gelu_tanh": gelu_tanh, "gelu": gelu_exact}
    if name in own:
        return own[name]
    try:
        if not isinstance(name, str):
            raise ValueError
        return keras.activations.get(name)
    except ValueError:
        raise ValueError(
            f"Unknown activation {name!r}; use 'gelu_tanh' (Google's checkpoints), "
            "'gelu' (exact: timm, transformers, T2T-ViT), or a name of keras.activations."
        ) from None


@keras.saving.register_keras_serializable(package="keras_vit")
class MLP(Composite):
    """Two dense layers with an activation between; dropout after each.

    Input and output: `(..., d)`.

    Args:
        hidden_dim: int, width between the two layers (a model's `mlp_dim`).
        activation: `"gelu_tanh"`, `"gelu"` (exact) or a name of `keras.activations`.
        dropout_rate: rate of both dropouts.

    Raises:
        ValueError: unknown activation.

    Example:

    >>> import keras, keras_vit
    >>> tuple(keras_vit.layers.MLP(128)(keras.random.uniform((2, 5, 64))).shape)
    (2, 5, 64)

    Source: ViT (arXiv:2010.11929) section 3.1, equation 3.
    """

    def __init__(
        self,
        hidden_dim: int,
        activation: str = "gelu_tanh",
        dropout_rate: float = 0.0,
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.hidden_dim = hidden_dim
        self.activation_name = activation
        self.activation = get_activation(activation)
        self.dropout_rate = dropout_rate
        self.dropout = keras.layers.Dropout(
            dropout_rate, dtype=self.dtype_policy, name="dropout"
        )

    def _dense(self, units, name):
        return Dense(
            units,
            bias_initializer=keras.initializers.RandomNormal(stddev=1e-6),
            dtype=self.dtype_policy,
            name=name,
        )

    def _make_expand(self, width):
        return self._dense(self.hidden_dim, "expand")

    def build(self, input_shape):
        self.expand = self._make_expand(input_shape[-1])
        self.expand.build(input_shape)
        self.contract = self._dense(input_shape[-1], "contract")
        self.contract.build((*input_shape[:-1], self.hidden_dim))
        self.built = True

    def call(self, inputs, training=None):
        activation = self.activation
        if not training:
            # TensorFlow knows this form after a product over two axes, and runs product,
            # bias and GELU as one kernel.
            activation = getattr(activation, "plain", activation)
        x = ops.reshape(inputs, (-1, inputs.shape[-1]))
        x = activation(self.expand(x))
        x = self.dropout(x, training=training)
        x = self.dropout(self.contract(x), training=training)
        return ops.reshape(x, (-1, *ops.shape(inputs)[1:-1], inputs.shape[-1]))

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {
            **super().get_config(),
            "hidden_dim": self.hidden_dim,
            "activation": self.activation_name,
            "dropout_rate": self.dropout_rate,
        }
