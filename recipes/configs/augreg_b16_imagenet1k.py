"""ViT-B/16 from scratch on ImageNet-1k, with AugReg's settings for this size."""

import dataclasses

from recipes.config import Model
from recipes.configs import augreg_b16_imagenet21k, vit_b16_imagenet1k

CONFIG = dataclasses.replace(
    vit_b16_imagenet1k.CONFIG,
    about="ViT-B/16 on ImageNet-1k, 'How to train your ViT?' (arXiv:2106.10270, section "
    "3), as the best published checkpoint of this size: Mixup of 'strong2', weight decay "
    "0.1, dropout and stochastic depth 0.1, sigmoids with a bias of -6.9. Deviation: "
    "RandAugment of magnitude 10, where 'strong2' has 20.",
    command="python -m recipes.pretrain augreg_b16_imagenet1k "
    "--workdir runs/augreg_b16_imagenet1k",
    expected="81.10 % top-1 after augreg_b16_imagenet1k_finetune, with magnitude 20 "
    "(timm's measurement of the published checkpoint)",
    model=Model(
        architecture="ViTB16",
        arguments={
            "classifier_bias": -6.9,
            "dropout_rate": 0.1,
            "stochastic_depth_rate": 0.1,
        },
    ),
    augmentation=dataclasses.replace(
        augreg_b16_imagenet21k.CONFIG.augmentation, mixup=0.8
    ),
    optimization=augreg_b16_imagenet21k.CONFIG.optimization,
)
