"""What stands on a residual branch: LayerScale and stochastic depth."""

import keras


@keras.saving.register_keras_serializable(package="keras_vit")
class LayerScale(keras.layers.Layer):
    """Multiplies by a learned vector that starts small.

    Input and output: `(..., d)`.

    Args:
        initial_value: float, every entry's start.

    Example:

    >>> import keras, keras_vit
    >>> x = keras.ops.ones((1, 2))
    >>> keras.ops.convert_to_numpy(keras_vit.layers.LayerScale(0.5)(x)).tolist()
    [[0.5, 0.5]]

    Source: CaiT (arXiv:2103.17239) section 2.
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
        self.built = True

    def call(self, x):
        return x * self.gamma

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "initial_value": self.initial_value}


@keras.saving.register_keras_serializable(package="keras_vit")
class StochasticDepth(keras.layers.Dropout):
    """Drops a whole residual branch for some images of a batch, in training.

    What is kept is divided by the probability of being kept. It is Keras's dropout with
    one draw an image.

    Input and output: `(b, n, d)`.

    Args:
        rate: probability that an image's branch is dropped.

    Example:

    >>> import keras, keras_vit
    >>> branch = keras.random.uniform((2, 5, 64))
    >>> out = keras_vit.layers.StochasticDepth(0.5)(branch, training=False)
    >>> bool(keras.ops.all(out == branch))
    True

    Source: Deep Networks with Stochastic Depth (arXiv:1603.09382).
    """

    def __init__(self, rate: float, **kwargs):
        super().__init__(rate, noise_shape=(None, 1, 1), **kwargs)

    def get_config(self):
        config = super().get_config()
        del config["noise_shape"]
        return config
