"""A very small ViT on CIFAR-10, to compare positions and heads in minutes a run."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Model, Optimization
from recipes.configs import cifar10_vit_64

CONFIG = Config(
    about="A ViT on CIFAR-10 at 32x32, patches of 8, 4 blocks of width 96: to compare "
    "as in the ViT paper's appendix D.3 (heads) and D.4 (positions).",
    command="python -m recipes.sweep cifar10_vit_tiny --workdir runs/cifar10_positions",
    hardware="two CPU cores, minutes",
    expected="none published",
    measured="measured on 2026-11-21: 48.9, 49.4, 48.8 % test accuracy with learned "
    "positions (seeds 0, 1, 2), JAX",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 3],
            "patch_size": 8,
            "hidden_dim": 96,
            "num_layers": 4,
            "num_heads": 4,
            "mlp_dim": 192,
        },
    ),
    data=cifar10_vit_64.CONFIG.data,
    augmentation=Augmentation(horizontal_flip=True),
    optimization=Optimization(learning_rate=1e-3, weight_decay=0.05),
    epochs=3,
    batch_size=128,
    grid={
        "model.arguments.positions": ["none", "learned", "learned_2d", "relative"],
        "seed": [0, 1, 2],
    },
)
