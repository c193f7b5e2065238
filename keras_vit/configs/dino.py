"""Self-distillation without labels (DINO) on digits and CIFAR-10.

"Emerging Properties in Self-Supervised Vision Transformers" (arXiv:2104.14294), with
networks of the size of `digits_mae` and `cifar10_mae`, for minutes on two CPU cores.
Deviations: a constant weight decay (the paper's grows from 0.04 to 0.4), and neither blur
nor solarize.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Dino, Model, Optimization

DIGITS = Config(
    about="DINO (arXiv:2104.14294) on scikit-learn's digits at 32x32, patches of 8: two "
    "large crops and two small ones at 16x16.",
    command="keras-vit pretrain digits_dino --workdir runs/digits_dino",
    hardware="two CPU cores, minutes",
    expected="none published",
    measured="measured on 2026-11-28 with JAX, in 10 minutes: linear probe 92.8 % "
    "(random weights 80.6 %), nearest neighbors 86.7 % (60.0 %)",
    objective="dino",
    dino=Dino(
        local_crops=2,
        local_size=16,
        global_area=(0.6, 1.0),
        local_area=(0.3, 0.7),
        prototypes=256,
        head_dim=256,
        bottleneck_dim=64,
        momentum=0.996,
        # docs/self_supervised.md has what other temperatures gave.
        warmup_temperature=0.03,
        teacher_temperature=0.06,
        warmup=0.25,
        frozen=0.01,
    ),
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 1],
            "patch_size": 8,
            "hidden_dim": 96,
            "num_layers": 6,
            "num_heads": 4,
            "mlp_dim": 226,
            "pooling": "gap",
        },
    ),
    data=Data(train="digits:train", validation="digits:validation", test="digits:test"),
    augmentation=Augmentation(color_jitter=0.4),
    optimization=Optimization(
        learning_rate=5e-4, weight_decay=0.05, warmup_steps=0.1, clip_norm=3.0
    ),
    epochs=200,
    checkpoint_steps=500,
    batch_size=64,
)

CIFAR10 = dataclasses.replace(
    DIGITS,
    about="DINO (arXiv:2104.14294) on CIFAR-10 at 32x32: patches of 4, 4 blocks of width "
    "128, two large crops and two small ones at 16x16.",
    command="keras-vit pretrain cifar10_dino --workdir runs/cifar10_dino",
    measured="not measured here",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 3],
            "patch_size": 4,
            "hidden_dim": 128,
            "num_layers": 4,
            "num_heads": 4,
            "mlp_dim": 512,
            "pooling": "gap",
        },
    ),
    data=Data(
        train="tfds:cifar10:train[:45000]",
        validation="tfds:cifar10:train[45000:]",
        test="tfds:cifar10:test",
    ),
    augmentation=Augmentation(horizontal_flip=True, color_jitter=0.4),
    epochs=5,
    checkpoint_steps=None,
    batch_size=128,
)

CONFIGS = {"digits_dino": DIGITS, "cifar10_dino": CIFAR10}
