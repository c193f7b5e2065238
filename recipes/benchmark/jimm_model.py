"""jimm's `VisionTransformer`, in JAX and Flax NNX (https://github.com/pythoncrazy/jimm).

The package of this name on PyPI is another one: install it from its repository, with
optax, as its example of training does.
"""

from importlib import import_module

import numpy as np

from recipes.benchmark.timing import seconds


class JimmModel:
    """A model that trains by a compiled step of NNX.

    Args:
        sizes: see `contestants.Contestant.build`.
        dtype: likewise.
        classes: number of classes.
        learning_rate: that of AdamW.

    Attributes:
        put: function that copies an array to the device.
    """

    def __init__(self, sizes, dtype, classes, learning_rate):
        if sizes.get("family", "vit") != "vit":
            raise ValueError(f"jimm has no {sizes['family']}.")
        jax, nnx, optax = map(import_module, ("jax", "flax.nnx", "optax"))
        half = "bfloat16" if dtype.endswith("bfloat16") else "float32"
        self.image_size = sizes["image_size"]
        self.model = import_module("jimm.models.vit").VisionTransformer(
            num_classes=classes,
            img_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            num_layers=sizes["num_layers"],
            num_heads=sizes["num_heads"],
            mlp_dim=sizes["mlp_dim"],
            hidden_size=sizes["hidden_dim"],
            dropout_rate=0.0,
            dtype=half,
            param_dtype="bfloat16" if dtype == "bfloat16" else "float32",
            rngs=nnx.Rngs(0),
        )
        rate = optax.adamw(learning_rate, weight_decay=0.004)  # Keras's weight decay.
        self.optimizer = nnx.Optimizer(self.model, rate, wrt=nnx.Param)

        def loss_of(model, images, labels):
            entropy = optax.softmax_cross_entropy_with_integer_labels
            logits = model(images).astype("float32")
            return entropy(logits, labels).mean()

        def step(model, optimizer, images, labels):
            loss, gradients = nnx.value_and_grad(loss_of)(model, images, labels)
            optimizer.update(model, gradients)
            return loss

        self._step = nnx.jit(step)
        self._call = nnx.jit(lambda model, images: model(images))
        self.put = jax.device_put

    def call(self, images):
        """Return the logits of images on the device, without waiting for them."""
        return self._call(self.model, images)

    def forward(self, images):
        """Return the logits of a batch."""
        return np.asarray(self.call(self.put(images)))

    def step(self, images, labels):
        """Train for one step on arrays on the device and return its loss."""
        return float(self._step(self.model, self.optimizer, images, labels))

    def steps(self, batch, count):
        """Train for some steps and return the seconds of each, as `KerasModel.steps`."""
        return [seconds(lambda: self.step(*map(self.put, batch))) for _ in range(count)]
