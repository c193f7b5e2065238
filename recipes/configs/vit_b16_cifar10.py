"""ViT-B/16 from ImageNet-21k to CIFAR-10 at 384x384, with the ViT paper's settings."""

import dataclasses

from recipes.config import Data
from recipes.configs import vit_b16_imagenet_384

CONFIG = dataclasses.replace(
    vit_b16_imagenet_384.CONFIG,
    about="ViT-B/16 from ImageNet-21k to CIFAR-10 at 384x384 (arXiv:2010.11929, appendix "
    "B.1.1 and table 4): the learning rate is chosen on 2 % of the training set. The "
    "paper then trains on all of it: --set data.train=tfds:cifar10:train.",
    command="python -m recipes.sweep vit_b16_cifar10 --workdir runs/vit_b16_cifar10",
    expected="98.95 % (table 5)",
    data=Data(
        train="tfds:cifar10:train[:98%]",
        validation="tfds:cifar10:train[98%:]",
        test="tfds:cifar10:test",
    ),
    optimization=dataclasses.replace(
        vit_b16_imagenet_384.CONFIG.optimization, learning_rate=0.01
    ),
    steps=vit_b16_imagenet_384.PARTS * 10_000,
    grid={"optimization.learning_rate": [0.001, 0.003, 0.01, 0.03]},
)
