"""MAE on handwritten digits."""

import dataclasses

from recipes.config import Masking
from recipes.configs import digits_masked_patches

CONFIG = dataclasses.replace(
    digits_masked_patches.CONFIG,
    about="MAE (arXiv:2111.06377) on scikit-learn's digits at 32x32.",
    command="python -m recipes.pretrain digits_mae --workdir runs/digits_mae",
    measured="measured on 2026-11-21: 95.6, 95.0, 94.2 % test accuracy of a linear probe "
    "(seeds 0, 1, 2; random features: 86.4, 84.2, 82.8 %), JAX",
    objective="mae",
    masking=Masking(ratio=0.75, decoder_dim=64, decoder_layers=2, decoder_heads=4),
)
