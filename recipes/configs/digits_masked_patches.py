"""Masked patch prediction on handwritten digits."""

import dataclasses

from keras_vit.training.augment import Augmentation
from recipes.config import Masking, Model
from recipes.configs import digits_vit

CONFIG = dataclasses.replace(
    digits_vit.CONFIG,
    about="The ViT paper's masked patch prediction (arXiv:2010.11929, appendix B.1.2) on "
    "scikit-learn's digits at 32x32, a patch for each of their 8x8 pixels.",
    command="python -m recipes.pretrain digits_masked_patches "
    "--workdir runs/digits_masked_patches",
    hardware="two CPU cores, minutes",
    expected="none published; a linear probe better than of random features",
    measured="measured on 2026-11-21: 92.2, 94.7, 89.4 % test accuracy of a linear probe "
    "(seeds 0, 1, 2; random features: 86.4, 84.2, 82.8 %), JAX",
    objective="masked_patch_prediction",
    masking=Masking(ratio=0.5),
    model=Model(
        architecture="ViT",
        arguments={
            **digits_vit.CONFIG.model.arguments,
            "input_shape": [32, 32, 1],
            "patch_size": 4,
            "pooling": "gap",
        },
    ),
    augmentation=Augmentation(pad_and_crop=4),
    epochs=30,
)
