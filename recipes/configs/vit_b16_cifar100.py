"""ViT-B/16 from ImageNet-21k to CIFAR-100 at 384x384, with the ViT paper's settings."""

import dataclasses

from recipes.config import Data
from recipes.configs import vit_b16_cifar10

CONFIG = dataclasses.replace(
    vit_b16_cifar10.CONFIG,
    about="ViT-B/16 from ImageNet-21k to CIFAR-100 at 384x384 (arXiv:2010.11929, "
    "appendix B.1.1 and table 4): the learning rate is chosen on 2 % of the training "
    "set. The paper then trains on all of it: --set data.train=tfds:cifar100:train.",
    command="python -m recipes.sweep vit_b16_cifar100 --workdir runs/vit_b16_cifar100",
    expected="91.67 % (table 5)",
    data=Data(
        train="tfds:cifar100:train[:98%]",
        validation="tfds:cifar100:train[98%:]",
        test="tfds:cifar100:test",
    ),
)
