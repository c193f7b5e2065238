"""ViT-B/16 from ImageNet-21k to Oxford-IIIT Pets at 384x384, by the ViT paper."""

import dataclasses

from recipes.config import Data
from recipes.configs import vit_b16_cifar10, vit_b16_imagenet_384

CONFIG = dataclasses.replace(
    vit_b16_cifar10.CONFIG,
    about="ViT-B/16 from ImageNet-21k to Oxford-IIIT Pets at 384x384 (arXiv:2010.11929, "
    "appendix B.1.1 and table 4): the learning rate is chosen on 10 % of the training "
    "set. The paper then trains on all of it: --set "
    "data.train=tfds:oxford_iiit_pet:train. 100 steps of warm-up, as in the authors' "
    "later code (big_vision's transfer.py); the run has 500 in all.",
    command="python -m recipes.sweep vit_b16_pets --workdir runs/vit_b16_pets",
    hardware="one GPU of 80 GB, minutes for each learning rate",
    expected="94.43 % (table 5)",
    data=Data(
        train="tfds:oxford_iiit_pet:train[:90%]",
        validation="tfds:oxford_iiit_pet:train[90%:]",
        test="tfds:oxford_iiit_pet:test",
    ),
    optimization=dataclasses.replace(
        vit_b16_cifar10.CONFIG.optimization, warmup_steps=100
    ),
    steps=vit_b16_imagenet_384.PARTS * 500,
    checkpoint_steps=vit_b16_imagenet_384.PARTS * 100,
)
