"""ViT-B/16 on ImageNet-1k without labels: the ViT paper's masked patch prediction."""

import dataclasses

from recipes.config import Data, Masking, Model, Optimization
from recipes.configs import vit_b16_imagenet1k

CONFIG = dataclasses.replace(
    vit_b16_imagenet1k.CONFIG,
    about="Masked patch prediction of ViT-B/16 (arXiv:2010.11929, section 4.6 and "
    "appendix B.1.2). Deviations: on ImageNet-1k for 100,000 steps, where the paper has "
    "JFT and a million, and says that after 100,000, and on ImageNet, the gains are "
    "similar; no weight decay, no dropout and no clipping, of which it says nothing.",
    command="python -m recipes.pretrain vit_b16_masked_patches "
    "--workdir runs/vit_b16_masked_patches",
    expected="79.9 % top-1 after vit_b16_masked_patches_finetune, pretrained on JFT "
    "(section 4.6)",
    objective="masked_patch_prediction",
    masking=Masking(ratio=0.5),
    model=Model(architecture="ViTB16"),
    data=Data(
        train="tfds:imagenet2012:train",
        validation="tfds:imagenet2012:validation",
        cache=False,
    ),
    optimization=Optimization(
        optimizer="adam",
        learning_rate=2e-4,
        warmup_steps=10_000,
        clip_norm=None,
    ),
    hardware="as many accelerators as hold 4096 images, days",
    steps=100_000,
    checkpoint_steps=1000,
)
