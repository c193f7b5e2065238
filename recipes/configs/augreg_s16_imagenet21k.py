"""ViT-S/16 from scratch on ImageNet-21k, with AugReg's settings for this size."""

import dataclasses

from recipes.configs import augreg_ti16_imagenet21k

CONFIG = dataclasses.replace(
    augreg_ti16_imagenet21k.CONFIG,
    about="ViT-S/16 on ImageNet-21k, 'How to train your ViT?' (arXiv:2106.10270, section "
    "3), as the best published checkpoint of this size: augmentation 'light1' "
    "(RandAugment of magnitude 0, which is not nothing), weight decay 0.03, no dropout, "
    "no stochastic depth. TFDS does not have the set: see vit_b16_imagenet21k.",
    command="python -m recipes.pretrain augreg_s16_imagenet21k "
    "--workdir runs/augreg_s16_imagenet21k",
    expected="83.73 % top-1 on ImageNet-1k after augreg_s16_imagenet21k_finetune "
    "(the authors' index of checkpoints)",
    model=dataclasses.replace(
        augreg_ti16_imagenet21k.CONFIG.model, architecture="ViTS16"
    ),
    augmentation=dataclasses.replace(
        augreg_ti16_imagenet21k.CONFIG.augmentation, randaugment="randaug(2,0)"
    ),
)
