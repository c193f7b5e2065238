"""AugReg's ViT-S/16 from ImageNet-21k to ImageNet-1k at 384x384."""

import dataclasses

from recipes.config import Model
from recipes.configs import augreg_ti16_imagenet21k_finetune

CONFIG = dataclasses.replace(
    augreg_ti16_imagenet21k_finetune.CONFIG,
    about="The authors' ViT-S/16 from ImageNet-21k to ImageNet-1k at 384x384, as "
    "augreg_ti16_imagenet21k_finetune. From a run of augreg_s16_imagenet21k: --set "
    "model.weights=runs/augreg_s16_imagenet21k/best.keras.",
    command="python -m recipes.finetune augreg_s16_imagenet21k_finetune "
    "--workdir runs/augreg_s16_imagenet21k_finetune",
    expected="83.73 % top-1 (the authors' index of checkpoints)",
    model=Model(
        architecture="ViTS16",
        arguments={"input_shape": [384, 384, 3]},
        weights="vit_s16.augreg_in21k_224",
    ),
)
