"""The MLP of a Transformer block, and the two forms of GELU."""

from typing import ClassVar

import keras
from keras import ops

from keras_vit.kernels import gelu as kernels
from keras_vit.kernels.rows import over_rows
from keras_vit.kernels.switch import fast_form
from keras_vit.layers.base import Composite
from keras_vit.layers.dense import Dense


@keras.saving.register_keras_serializable(package="keras_vit")
@fast_form(kernels.gelu_tanh)
def gelu_tanh(x):
    """Return the tanh approximation of GELU, which Flax and Google's checkpoints use.

    `0.5 * x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x ** 3)))`.
    """
    return ops.gelu(x, approximate=True)


@keras.saving.register_keras_serializable(package="keras_vit")
@fast_form(kernels.gelu_exact)
def gelu_exact(x):
    """Return the exact GELU of timm, transformers and T2T-ViT."""
    # Not `ops.gelu`: under TensorFlow that is `erfc`, which ONNX does not have.
    return 0.5 * x * (1.0 + ops.erf(x * 0.5**0.5))


def get_activation(name):
    """Return the activation with this name.

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
    """`contract(activation(expand(x)))`, with dropout after each dense layer.

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

    Reference: ViT (arXiv:2010.11929) section 3.1, equation 3.
    """

    _attributes: ClassVar = {"activation": "activation_name"}

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

    @over_rows
    def call(self, inputs, training=None):
        activation = self.activation
        if not training:
            activation = kernels.inference_form(activation)
        x = activation(self.expand(inputs))
        x = self.dropout(x, training=training)
        return self.dropout(self.contract(x), training=training)
