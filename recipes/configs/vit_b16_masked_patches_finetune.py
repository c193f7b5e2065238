"""`vit_b16_masked_patches`, fine-tuned at 384x384."""

import dataclasses

from recipes.config import Model
from recipes.configs import vit_b16_imagenet_384

CONFIG = dataclasses.replace(
    vit_b16_imagenet_384.CONFIG,
    about="ViT-B/16 of vit_b16_masked_patches, fine-tuned on ImageNet-1k at 384x384 "
    "(arXiv:2010.11929, section 4.6; settings of table 4).",
    command="python -m recipes.sweep vit_b16_masked_patches_finetune "
    "--set model.weights=runs/vit_b16_masked_patches/best.keras "
    "--workdir runs/vit_b16_masked_patches_finetune",
    expected="79.9 % top-1, pretrained on JFT (section 4.6)",
    model=Model(architecture="ViTB16", arguments={"input_shape": [384, 384, 3]}),
)
