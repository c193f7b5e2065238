"""`augreg_b16_imagenet1k`, fine-tuned at 384x384."""

import dataclasses

from recipes.config import Model
from recipes.configs import vit_b16_imagenet_384

CONFIG = dataclasses.replace(
    vit_b16_imagenet_384.CONFIG,
    about="ViT-B/16 of augreg_b16_imagenet1k, fine-tuned on the same set at 384x384, "
    "'How to train your ViT?' (arXiv:2106.10270, section 3.4), with the learning rate in "
    "the name of the best published checkpoint. Without dropout and stochastic depth, as "
    "the authors' configs/augreg.py has it for fine-tuning.",
    command="python -m recipes.finetune augreg_b16_imagenet1k_finetune "
    "--set model.weights=runs/augreg_b16_imagenet1k/best.keras "
    "--workdir runs/augreg_b16_imagenet1k_finetune",
    hardware="one GPU of 80 GB, hours",
    expected="81.10 % top-1, with RandAugment of magnitude 20 in pretraining (timm's "
    "measurement of the published checkpoint)",
    model=Model(
        architecture="ViTB16",
        arguments={
            "input_shape": [384, 384, 3],
            "dropout_rate": 0.0,
            "stochastic_depth_rate": 0.0,
        },
    ),
    optimization=dataclasses.replace(
        vit_b16_imagenet_384.CONFIG.optimization, learning_rate=0.01
    ),
    grid={},
)
