"""ViT-S/16 from scratch on ImageNet-1k in 90 epochs, with big_vision's settings."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Data, Model, Optimization

CONFIG = Config(
    about="ViT-S/16 on ImageNet-1k, 'Better plain ViT baselines' (arXiv:2205.01580; "
    "big_vision's vit_s16_i1k.py). Deviation: evaluated on whole images resized to "
    "224x224, not on the centre of 256.",
    command="python -m recipes.pretrain vit_s16_imagenet_90ep "
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
        # About 30 GB of memory.
        shuffle_buffer=250_000,
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
