"""Image GPT on small images: prediction of the next pixel or of masked pixels.

"Generative Pretraining from Pixels" (Chen et al., ICML 2020), on scikit-learn's digits
and on CIFAR-10 instead of ImageNet, for minutes on two CPU cores. Probe any block of a
run: `keras-vit probe runs/digits_igpt --block 4`.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Masking, Model, Optimization

DIGITS = Config(
    about="iGPT on scikit-learn's digits: 8x8 pixels of 17 gray levels, 6 blocks of "
    "width 96, next-pixel prediction.",
    command="keras-vit pretrain digits_igpt --workdir runs/digits_igpt",
    hardware="two CPU cores, minutes",
    expected="none published; a linear probe better than of random features, the best "
    "one in the middle",
    measured="measured on 2026-11-27: 95.8 % test accuracy of a linear probe of block 2 "
    "(random features: 50 to 58 %), JAX (docs/results/igpt_digits)",
    objective="pixels",
    masking=Masking(ratio=0.15),
    model=Model(
        architecture="ImageGPT",
        arguments={
            "input_shape": [8, 8, 1],
            "colors": 17,
            "hidden_dim": 96,
            "num_layers": 6,
            "num_heads": 4,
            "mlp_dim": 384,
            "causal": True,
        },
    ),
    data=Data(train="digits:train", validation="digits:validation", test="digits:test"),
    augmentation=Augmentation(pad_and_crop=1),
    optimization=Optimization(learning_rate=2e-3, beta_2=0.95, weight_decay=0.05),
    epochs=20,
    batch_size=32,
)


def masked(config: Config, name: str, measured: str) -> Config:
    """Return the config of masked instead of next pixels, called `name`."""
    arguments = {**config.model.arguments, "causal": False}
    return dataclasses.replace(
        config,
        about=config.about.replace("next-pixel", "masked-pixel"),
        command=f"keras-vit pretrain {name} --workdir runs/{name}",
        measured=measured,
        model=dataclasses.replace(config.model, arguments=arguments),
    )


CIFAR10 = dataclasses.replace(
    DIGITS,
    about="iGPT on CIFAR-10 at 8x8 pixels of 64 colors, 6 blocks of width 96, "
    "next-pixel prediction.",
    command="keras-vit pretrain cifar10_igpt --workdir runs/cifar10_igpt",
    measured="not measured here",
    model=Model(
        architecture="ImageGPT",
        arguments={
            "input_shape": [8, 8, 3],
            "colors": 64,
            "hidden_dim": 96,
            "num_layers": 6,
            "num_heads": 4,
            "mlp_dim": 384,
            "causal": True,
        },
    ),
    data=Data(
        train="tfds:cifar10:train[:45000]",
        validation="tfds:cifar10:train[45000:]",
        test="tfds:cifar10:test",
    ),
    augmentation=Augmentation(horizontal_flip=True),
    epochs=1,
    batch_size=128,
)

CONFIGS = {
    "digits_igpt": DIGITS,
    "digits_igpt_masked": masked(
        DIGITS,
        "digits_igpt_masked",
        "measured on 2026-11-27: 89.7 % test accuracy of a linear probe of block 1, JAX "
        "(docs/results/igpt_digits)",
    ),
    "cifar10_igpt": CIFAR10,
    "cifar10_igpt_masked": masked(CIFAR10, "cifar10_igpt_masked", CIFAR10.measured),
}
