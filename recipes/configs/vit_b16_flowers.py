"""ViT-B/16 from ImageNet-21k to Oxford Flowers at 384x384, by the ViT paper."""

import dataclasses

from recipes.config import Data
from recipes.configs import vit_b16_pets

CONFIG = dataclasses.replace(
    vit_b16_pets.CONFIG,
    about="ViT-B/16 from ImageNet-21k to Oxford Flowers-102 at 384x384 "
    "(arXiv:2010.11929, appendix B.1.1 and table 4): the learning rate is chosen on 10 % "
    "of the 1,020 training images. The paper then trains on all of them: --set "
    "data.train=tfds:oxford_flowers102:train. Warm-up as in vit_b16_pets.",
    command="python -m recipes.sweep vit_b16_flowers --workdir runs/vit_b16_flowers",
    expected="99.38 % (table 5)",
    data=Data(
        train="tfds:oxford_flowers102:train[:90%]",
        validation="tfds:oxford_flowers102:train[90%:]",
        test="tfds:oxford_flowers102:test",
    ),
)
