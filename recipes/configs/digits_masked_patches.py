"""Masked patch prediction on handwritten digits."""

import dataclasses

from recipes.config import Masking, Model
from recipes.configs import digits_vit

CONFIG = dataclasses.replace(
    digits_vit.CONFIG,
    about="The ViT paper's masked patch prediction (arXiv:2010.11929, appendix B.1.2) on "
    "scikit-learn's digits at 64x64.",
    command="python -m recipes.pretrain digits_masked_patches "
    "--workdir runs/digits_masked_patches",
    hardware="two CPU cores, about a minute",
    expected="none published; a linear probe better than of random features",
    objective="masked_patch_prediction",
    masking=Masking(ratio=0.5),
    model=Model(
        architecture="ViT",
        arguments={**digits_vit.CONFIG.model.arguments, "pooling": "gap"},
    ),
)
