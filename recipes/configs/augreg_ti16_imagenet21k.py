"""ViT-Ti/16 from scratch on ImageNet-21k, with AugReg's settings for this size."""

import dataclasses

from recipes.config import Model, Optimization
from recipes.configs import vit_b16_imagenet21k

CONFIG = dataclasses.replace(
    vit_b16_imagenet21k.CONFIG,
    about="ViT-Ti/16 on ImageNet-21k, 'How to train your ViT?' (arXiv:2106.10270, "
    "section 3), as the best published checkpoint of this size: augmentation 'none' "
    "(crop and mirroring), weight decay 0.03, no dropout, no stochastic depth. TFDS does "
    "not have the set: see vit_b16_imagenet21k.",
    command="python -m recipes.pretrain augreg_ti16_imagenet21k "
    "--workdir runs/augreg_ti16_imagenet21k",
    expected="78.22 % top-1 on ImageNet-1k after augreg_ti16_imagenet21k_finetune "
    "(the authors' index of checkpoints)",
    model=Model(architecture="ViTTi16", arguments={"classifier_bias": -10.0}),
    optimization=Optimization(
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.03,
        warmup_steps=10_000,
        loss="sigmoid",
    ),
    epochs=300,
)
