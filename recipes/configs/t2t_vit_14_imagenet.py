"""T2T-ViT-14 from scratch on ImageNet-1k, with the paper's settings."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Data, Model, Optimization

EPOCHS = 310  # 300, and 10 at the smallest rate.

CONFIG = Config(
    about="T2T-ViT-14 on ImageNet-1k (arXiv:2101.11986, section 4.1 and its code).",
    command="python -m recipes.pretrain t2t_vit_14_imagenet --workdir runs/t2t_vit_14",
    hardware="eight GPUs, days",
    expected="81.5 % top-1 (table 2)",
    model=Model(architecture="T2TViT14", arguments={"stochastic_depth_rate": 0.1}),
    data=Data(
        train="tfds:imagenet2012:train",
        validation="tfds:imagenet2012:validation",
        cache=False,
    ),
    augmentation=Augmentation(
        crop_area=(0.08, 1.0),
        horizontal_flip=True,
        randaugment="rand-m9-mstd0.5-inc1",
        # timm leaves the jitter of 0.4 out where there is RandAugment.
        random_erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
    ),
    optimization=Optimization(
        learning_rate=5e-4,
        weight_decay=0.05,
        warmup_steps=10 / EPOCHS,
        warmup_start=1e-6,
        final_learning_rate=1e-5,
        clip_norm=None,
        label_smoothing=0.1,
        ema=0.99996,
    ),
    epochs=EPOCHS,
    batch_size=512,
    dtype="mixed_bfloat16",
)
