"""T2T-ViT-7 from scratch on ImageNet-1k, with the paper's settings."""

import dataclasses

from recipes.configs import t2t_vit_14_imagenet

CONFIG = dataclasses.replace(
    t2t_vit_14_imagenet.CONFIG,
    about="T2T-ViT-7 on ImageNet-1k (arXiv:2101.11986, section 4.1 and its code).",
    command="python -m recipes.pretrain t2t_vit_7_imagenet --workdir runs/t2t_vit_7",
    expected="71.7 % top-1 (README of its code)",
    model=dataclasses.replace(t2t_vit_14_imagenet.CONFIG.model, architecture="T2TViT7"),
    optimization=dataclasses.replace(
        t2t_vit_14_imagenet.CONFIG.optimization, learning_rate=1e-3, weight_decay=0.03
    ),
)
