"""ViT-B/16 from scratch on ImageNet-21k, with AugReg's settings for this size."""

import dataclasses

from recipes.configs import augreg_ti16_imagenet21k

CONFIG = dataclasses.replace(
    augreg_ti16_imagenet21k.CONFIG,
    about="ViT-B/16 on ImageNet-21k, 'How to train your ViT?' (arXiv:2106.10270, section "
    "3): weight decay 0.1, no dropout, no stochastic depth, as the best published "
    "checkpoint of this size. Deviation: augmentation 'light2', the authors' later "
    "choice (big_vision's vit_i21k.py); that checkpoint has 'medium1', the same Mixup "
    "with RandAugment of magnitude 15 in place of 10. TFDS does not have the set: see "
    "vit_b16_imagenet21k.",
    command="python -m recipes.pretrain augreg_b16_imagenet21k "
    "--workdir runs/augreg_b16_imagenet21k",
    expected="85.49 % top-1 on ImageNet-1k after augreg_b16_imagenet21k_finetune, with "
    "'medium1' (the authors' index of checkpoints)",
    model=dataclasses.replace(
        augreg_ti16_imagenet21k.CONFIG.model, architecture="ViTB16"
    ),
    augmentation=dataclasses.replace(
        augreg_ti16_imagenet21k.CONFIG.augmentation,
        randaugment="randaug(2,10)",
        mixup=0.2,
    ),
    optimization=dataclasses.replace(
        augreg_ti16_imagenet21k.CONFIG.optimization, weight_decay=0.1
    ),
)
