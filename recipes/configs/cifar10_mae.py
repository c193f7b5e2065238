"""MAE on CIFAR-10, small enough for two CPU cores."""

import dataclasses

from recipes.config import Masking
from recipes.configs import cifar10_masked_patches

CONFIG = dataclasses.replace(
    cifar10_masked_patches.CONFIG,
    about="MAE (arXiv:2111.06377) on CIFAR-10 at 32x32: patches of 4, 4 blocks of width "
    "128, a decoder of 2 blocks of width 64.",
    command="python -m recipes.pretrain cifar10_mae --workdir runs/cifar10_mae",
    objective="mae",
    masking=Masking(ratio=0.75, decoder_dim=64, decoder_layers=2, decoder_heads=4),
    epochs=20,
)
