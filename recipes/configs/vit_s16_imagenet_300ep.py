"""ViT-S/16 from scratch on ImageNet-1k in 300 epochs, with big_vision's settings."""

import dataclasses

from recipes.configs import vit_s16_imagenet_90ep

CONFIG = dataclasses.replace(
    vit_s16_imagenet_90ep.CONFIG,
    command="python -m recipes.pretrain vit_s16_imagenet_300ep "
    "--workdir runs/vit_s16_imagenet_300ep",
    hardware="eight accelerators, a day; on one, with --set batch_size=256 --set "
    "optimization.accumulation_steps=4, days",
    expected="80.0 % top-1 (table 1)",
    epochs=300,
)
