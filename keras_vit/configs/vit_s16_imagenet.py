"""ViT-S/16 on ImageNet-1k from scratch in 90 or 300 epochs, with big_vision's settings.

"Better plain ViT baselines for ImageNet-1k" (arXiv:2205.01580), table 1, and big_vision's
`configs/vit_s16_i1k.py`.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Model, Optimization

EPOCHS_90 = Config(
    about="ViT-S/16 on ImageNet-1k, 'Better plain ViT baselines' (arXiv:2205.01580; "
    "big_vision's vit_s16_i1k.py). Deviation: evaluation resizes whole images to "
    "224x224 instead of cropping the center of 256.",
    command="keras-vit pretrain vit_s16_imagenet_90ep "
    "--workdir runs/vit_s16_imagenet_90ep",
    hardware="eight accelerators, hours (7 on a TPUv3-8); on one, with --set "
    "batch_size=256 --set optimization.accumulation_steps=4, a day",
    expected="76.5 % top-1 (table 1)",
    model=Model(
        architecture="ViTS16",
        arguments={
            "pooling": "gap",
            "positions": "sincos_2d",
            "representation_size": 384,
        },
    ),
    data=Data(
        train="tfds:imagenet2012:train[:99%]",
        validation="tfds:imagenet2012:train[99%:]",
        test="tfds:imagenet2012:validation",
        cache=False,
        shuffle_buffer=250_000,  # About 30 GB of memory.
    ),
    augmentation=Augmentation(
        crop_area=(0.05, 1.0),
        horizontal_flip=True,
        randaugment="randaug(2,10)",
        mixup=0.2,
    ),
    optimization=Optimization(
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=1e-4,
        scaled_decay=False,
        warmup_steps=10_000,
    ),
    epochs=90,
    batch_size=1024,
    dtype="mixed_bfloat16",
)

EPOCHS_300 = dataclasses.replace(
    EPOCHS_90,
    command="keras-vit pretrain vit_s16_imagenet_300ep "
    "--workdir runs/vit_s16_imagenet_300ep",
    hardware="eight accelerators, a day; on one, with --set batch_size=256 --set "
    "optimization.accumulation_steps=4, days",
    expected="80.0 % top-1 (table 1)",
    epochs=300,
)

CONFIGS = {
    "vit_s16_imagenet_90ep": EPOCHS_90,
    "vit_s16_imagenet_300ep": EPOCHS_300,
}
