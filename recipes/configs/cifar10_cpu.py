"""A small hybrid on CIFAR-10, from scratch within an hour on two CPU cores."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Model, Optimization
from recipes.configs import cifar10_vit_64

CONFIG = Config(
    about="A hybrid on CIFAR-10 at 32x32: a ResNet's first stage of one unit, 64 tokens, "
    "4 blocks of width 128.",
    command="KERAS_BACKEND=tensorflow python -m recipes.pretrain cifar10_cpu "
    "--workdir runs/cifar10_cpu",
    hardware="two CPU cores, under an hour",
    expected="none published",
    measured="measured on 2026-11-21: 77.49 % test accuracy after 58 minutes on two "
    "cores with other work beside it (docs/results/cifar10_cpu)",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 3],
            "stem": {"num_blocks": [1]},
            "patch_size": 1,
            "hidden_dim": 128,
            "num_layers": 4,
            "num_heads": 4,
            "mlp_dim": 256,
            "pooling": "gap",
        },
    ),
    data=cifar10_vit_64.CONFIG.data,
    augmentation=Augmentation(pad_and_crop=4, horizontal_flip=True),
    optimization=Optimization(
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_steps=0.05,
        label_smoothing=0.1,
    ),
    epochs=24,
    batch_size=128,
    jit_compile=False,
)
