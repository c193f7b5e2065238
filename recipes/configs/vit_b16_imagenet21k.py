"""ViT-B/16 from scratch on ImageNet-21k, with the ViT paper's settings."""

import dataclasses

from recipes.config import Data, Model, Optimization
from recipes.configs import vit_b16_imagenet1k

CONFIG = dataclasses.replace(
    vit_b16_imagenet1k.CONFIG,
    about="ViT-B/16 on ImageNet-21k (arXiv:2010.11929, section 4.1 and table 3). TFDS "
    "does not have the set: download it from image-net.org and hold images of each of "
    "its classes out in a second folder (the authors' later code: 25,600 in all). Of the "
    "augmentation and the loss the paper says nothing: Inception's crop, mirroring and, "
    "as in that code (big_vision's vit_i21k.py), sigmoids with a bias of -10.",
    command="python -m recipes.pretrain vit_b16_imagenet21k "
    "--workdir runs/vit_b16_imagenet21k",
    expected="83.97 % top-1 on ImageNet-1k after vit_b16_imagenet_384 (table 5)",
    model=Model(
        architecture="ViTB16",
        arguments={
            "representation_size": 768,
            "dropout_rate": 0.1,
            "classifier_bias": -10.0,
        },
    ),
    data=Data(
        train="folder:imagenet21k/train",
        validation="folder:imagenet21k/validation",
        cache=False,
    ),
    optimization=Optimization(
        optimizer="adam",
        learning_rate=1e-3,
        schedule="linear",
        weight_decay=0.03,
        warmup_steps=10_000,
        # The paper found clipping beneficial for ImageNet-1k.
        clip_norm=None,
        loss="sigmoid",
    ),
    epochs=90,
    checkpoint_steps=1000,
)
