"""AugReg's ViT-Ti/16 from ImageNet-21k to ImageNet-1k at 384x384."""

import dataclasses

from recipes.config import Model
from recipes.configs import vit_b16_imagenet_384

CONFIG = dataclasses.replace(
    vit_b16_imagenet_384.CONFIG,
    about="The authors' ViT-Ti/16 from ImageNet-21k to ImageNet-1k at 384x384, 'How to "
    "train your ViT?' (arXiv:2106.10270, section 3.4), with the learning rate in the "
    "name of the best published checkpoint. From a run of augreg_ti16_imagenet21k: --set "
    "model.weights=runs/augreg_ti16_imagenet21k/best.keras.",
    command="python -m recipes.finetune augreg_ti16_imagenet21k_finetune "
    "--workdir runs/augreg_ti16_imagenet21k_finetune",
    hardware="one GPU of 80 GB, hours",
    expected="78.22 % top-1 (the authors' index of checkpoints)",
    model=Model(
        architecture="ViTTi16",
        arguments={"input_shape": [384, 384, 3]},
        weights="vit_ti16.augreg_in21k_224",
    ),
    grid={},
)
