"""Libraries that the benchmark compares, with one small class for each.

All models have random weights, output logits for 1000 classes, and train with cross
entropy and AdamW(1e-4). A forward pass takes a batch in host memory and returns the
logits in host memory, so its time includes all transfers and waits.

Optional packages are imported with `import_module`, so that mypy does not need them.
"""

import contextlib
import importlib.util
import time
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from recipes.benchmark import original_t2t, torchvision_stub
from recipes.benchmark.jimm_model import JimmModel
from recipes.benchmark.timing import seconds

CLASSES = 1000
# DINOv3 with class token, without biases of queries, keys and values, as timm has it.
DINOV3 = {
    "positions": "rope_axial",
    "registers": 4,
    "layer_scale": 1e-5,
    "qkv_bias": False,
    "activation": "gelu",
    "layer_norm_epsilon": 1e-5,
}
LEARNING_RATE = 1e-4


@dataclass(frozen=True)
class Contestant:
    """Library on a backend.

    Attributes:
        library: `keras_vit`, `keras_hub`, `timm`, `transformers`, `jimm` or `t2t_vit`,
            the code of the authors of T2T-ViT.
        backend: `jax`, `tensorflow` or `torch`.
        compiled: None for the library's default, or True for XLA (TensorFlow does not use
            it on CPUs by default) or `torch.compile`.
        kernels: `"plain"` for keras_vit without its fast forms (`keras_vit.kernels`).
    """

    library: str
    backend: str
    compiled: bool | None = None
    kernels: str = "fast"

    @property
    def name(self) -> str:
        if self.library in ("timm", "transformers", "t2t_vit"):
            return self.library + ("-compile" if self.compiled else "")
        ending = "-xla" * bool(self.compiled) + "-plain" * (self.kernels == "plain")
        return f"{self.library}-{self.backend}{ending}"

    @property
    def is_default(self) -> bool:
        """Whether the library runs as its users run it."""
        asked_for = self.compiled or self.library in ("jimm", "t2t_vit")
        return not asked_for and self.kernels == "fast"

    @property
    def missing(self) -> list[str]:
        """Names of the required packages that are not installed."""
        library = "timm" if self.library == "t2t_vit" else self.library
        packages = (library, self.backend)
        return [p for p in packages if importlib.util.find_spec(p) is None]

    def build(self, sizes: dict, dtype: str) -> Any:
        """Build a model.

        Args:
            sizes: dict with `image_size`, `patch_size` (not for T2T-ViT), `hidden_dim`,
                `num_layers`, `num_heads` and `mlp_dim`, optionally `family` (`"vit"`,
                `"dinov3"` or `"t2t"`), and for `keras_vit` optionally `remat`.
            dtype: name of a Keras dtype policy. A torch model uses the equivalent
                settings.

        Returns:
            A `KerasModel` or a `TorchModel`.
        """
        if self.kernels == "plain":
            import_module("keras_vit").kernels.use("plain")
        return _MODELS[self.library](sizes, dtype, self.compiled)


_ALL = [
    *(Contestant("keras_vit", backend) for backend in ("jax", "tensorflow", "torch")),
    *(Contestant("keras_hub", backend) for backend in ("jax", "tensorflow")),
    Contestant("timm", "torch"),
    Contestant("transformers", "torch"),
    Contestant("keras_vit", "tensorflow", True),
    Contestant("keras_hub", "tensorflow", True),
    Contestant("timm", "torch", True),
    Contestant("jimm", "jax"),
    *(Contestant("t2t_vit", "torch", compiled) for compiled in (None, True)),
    *(Contestant("keras_vit", b, kernels="plain") for b in ("jax", "tensorflow")),
]
CONTESTANTS = {contestant.name: contestant for contestant in _ALL}
DEFAULT_CONTESTANTS = [c.name for c in _ALL if c.is_default]


def random_batch(batch: int, image_size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a random batch.

    Args:
        batch: int, number of images.
        image_size: int, height and width in pixels.

    Returns:
        Float32 images `(batch, image_size, image_size, 3)`, and int32 labels `(batch,)`.
    """
    generator = np.random.default_rng(0)
    shape = (batch, image_size, image_size, 3)
    images = generator.standard_normal(shape, dtype="float32")
    return images, generator.integers(0, CLASSES, batch, dtype="int32")


def torch_device() -> str:
    """Return the name of the device for torch, and enable TF32 if it is a GPU.

    JAX and TensorFlow use TF32 on GPUs by default.
    """
    torch = import_module("torch")

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_float32_matmul_precision("high" if device == "cuda" else "highest")
    return device


class KerasModel:
    """Base class of compiled Keras models.

    Args:
        sizes: see `Contestant.build`.
        dtype: see `Contestant.build`.
        compiled: see `Contestant`.
    """

    def __init__(self, sizes, dtype, compiled):
        import keras

        self.image_size = sizes["image_size"]
        if keras.backend.backend() == "torch":
            torch_device()  # Enables TF32 on a GPU, as for the other libraries on torch.
        keras.config.set_dtype_policy(dtype)
        self.model = self.network(sizes)
        self.model.compile(
            optimizer=keras.optimizers.AdamW(LEARNING_RATE),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            jit_compile="auto" if compiled is None else compiled,
        )

    def network(self, sizes):
        raise NotImplementedError

    def batch(self, size):
        return random_batch(size, self.image_size)

    def forward(self, images):
        return self.model.predict_on_batch(images)

    def steps(self, batch, count):
        """Train for `count` steps with `fit` on NumPy data and time each step.

        A step ends when the value of its loss is available.

        Args:
            batch: images and labels.
            count: int, number of steps.

        Returns:
            List of step times in seconds. The first one includes the start of `fit`.
        """
        import keras

        ends = [time.perf_counter()]

        class Clock(keras.callbacks.Callback):
            def on_train_batch_end(self, step, logs=None):
                float(logs["loss"])
                ends.append(time.perf_counter())

        images, labels = (np.concatenate([array] * count) for array in batch)
        ends[0] = time.perf_counter()
        self.model.fit(
            images,
            labels,
            batch_size=len(batch[0]),
            shuffle=False,
            verbose=0,
            callbacks=[Clock()],
        )
        return [float(interval) for interval in np.diff(ends)]


class KerasVit(KerasModel):
    """`keras_vit.ViT` or `keras_vit.T2TViT`."""

    def network(self, sizes):
        import keras_vit

        sizes = dict(sizes)
        size = sizes.pop("image_size")
        family = sizes.pop("family", "vit")
        if family == "dinov3":
            sizes |= DINOV3
        network = keras_vit.T2TViT if family == "t2t" else keras_vit.ViT
        return network((size, size, 3), classifier_activation=None, **sizes)


class KerasHub(KerasModel):
    """KerasHub's `ViTImageClassifier`, or its `DINOV3Backbone` with a dense layer."""

    def network(self, sizes):
        keras_hub = import_module("keras_hub")

        size = sizes["image_size"]
        if sizes.get("family") == "dinov3":
            return self._dinov3(sizes)
        backbone = keras_hub.models.ViTBackbone(
            image_shape=(size, size, 3),
            patch_size=sizes["patch_size"],
            num_layers=sizes["num_layers"],
            num_heads=sizes["num_heads"],
            hidden_dim=sizes["hidden_dim"],
            mlp_dim=sizes["mlp_dim"],
        )
        return keras_hub.models.ViTImageClassifier(
            backbone, num_classes=CLASSES, preprocessor=None, activation=None
        )

    def _dinov3(self, sizes):
        import keras

        biases = {f"use_{name}_bias": False for name in ("query", "key", "value")}
        backbone = import_module("keras_hub").models.DINOV3Backbone(
            image_shape=(sizes["image_size"], sizes["image_size"], 3),
            patch_size=sizes["patch_size"],
            num_layers=sizes["num_layers"],
            num_heads=sizes["num_heads"],
            hidden_dim=sizes["hidden_dim"],
            intermediate_dim=sizes["mlp_dim"],
            num_register_tokens=DINOV3["registers"],
            layer_scale_init_value=DINOV3["layer_scale"],
            **biases,
        )
        logits = keras.layers.Dense(CLASSES)(backbone.output[:, 0])
        return keras.Model(backbone.input, logits)


class TorchModel:
    """Base class of torch modules that train in a plain eager loop.

    Args:
        sizes: see `Contestant.build`.
        dtype: see `Contestant.build`.
        compiled: see `Contestant`.
    """

    def __init__(self, sizes, dtype, compiled):
        torch = import_module("torch")

        self.image_size = sizes["image_size"]
        self.device = torch_device()
        self.dtype = torch.bfloat16 if dtype == "bfloat16" else torch.float32
        self.precision = (
            torch.autocast(self.device, torch.bfloat16)
            if dtype == "mixed_bfloat16"
            else contextlib.nullcontext()
        )
        self.model = self.network(sizes).to(self.device, self.dtype)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), LEARNING_RATE)
        self.call = torch.compile(self.logits) if compiled else self.logits

    def network(self, sizes):
        raise NotImplementedError

    def logits(self, images):
        return self.model(images)

    def batch(self, size):
        """Return a random batch as torch tensors; the images have the layout NCHW."""
        torch = import_module("torch")

        images, labels = random_batch(size, self.image_size)
        images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
        return torch.from_numpy(images).to(self.dtype), torch.from_numpy(labels).long()

    def forward(self, images):
        torch = import_module("torch")

        self.model.eval()
        with torch.inference_mode(), self.precision:
            return self.call(images.to(self.device)).float().cpu()

    def steps(self, batch, count):
        """Train for some steps and return the seconds of each.

        A step ends when the value of its loss is available.
        """
        self.model.train()
        return [seconds(lambda: self.step(*batch)) for _ in range(count)]

    def step(self, images, labels):
        """Train for one step and return its loss."""
        torch = import_module("torch")

        self.optimizer.zero_grad()
        with self.precision:
            logits = self.call(images.to(self.device))
            loss = torch.nn.functional.cross_entropy(logits, labels.to(self.device))
        loss.backward()
        self.optimizer.step()
        return loss.item()


class Timm(TorchModel):
    """timm's `VisionTransformer`, or its `vit_small_patch16_dinov3` in any size."""

    def network(self, sizes):
        torchvision_stub.install()
        timm = import_module("timm")

        arguments = {
            "img_size": sizes["image_size"],
            "patch_size": sizes["patch_size"],
            "embed_dim": sizes["hidden_dim"],
            "depth": sizes["num_layers"],
            "num_heads": sizes["num_heads"],
            "mlp_ratio": sizes["mlp_dim"] / sizes["hidden_dim"],
            "num_classes": CLASSES,
        }
        if sizes.get("family") == "dinov3":
            return timm.create_model("vit_small_patch16_dinov3", **arguments)
        return timm.models.vision_transformer.VisionTransformer(**arguments)


class OriginalT2T(TorchModel):
    """`T2T_ViT` of the authors."""

    def network(self, sizes):
        torchvision_stub.install()
        return original_t2t.network(sizes, CLASSES)


class Jimm(JimmModel):
    """jimm's `VisionTransformer`."""

    def __init__(self, sizes, dtype, compiled):
        super().__init__(sizes, dtype, CLASSES, LEARNING_RATE)

    def batch(self, size):
        return random_batch(size, self.image_size)


class Transformers(TorchModel):
    """`ViTForImageClassification` of transformers."""

    def network(self, sizes):
        transformers = import_module("transformers")

        if sizes.get("family") == "dinov3":
            raise ValueError("The benchmark has no DINOv3 of transformers.")
        config = transformers.ViTConfig(
            image_size=sizes["image_size"],
            patch_size=sizes["patch_size"],
            hidden_size=sizes["hidden_dim"],
            num_hidden_layers=sizes["num_layers"],
            num_attention_heads=sizes["num_heads"],
            intermediate_size=sizes["mlp_dim"],
            num_labels=CLASSES,
        )
        return transformers.ViTForImageClassification(config)

    def logits(self, images):
        return self.model(images).logits


_MODELS = {
    "keras_vit": KerasVit,
    "keras_hub": KerasHub,
    "timm": Timm,
    "jimm": Jimm,
    "t2t_vit": OriginalT2T,
    "transformers": Transformers,
}
