"""T2T-ViT-7, -14 and -24 on ImageNet-1k from scratch, and T2T-ViT-14 to CIFAR-10.

"Tokens-to-Token ViT" (arXiv:2101.11986), section 4.1, tables 2 and 3, and its code.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Model, Optimization

EPOCHS = 310
DEVIATION = (
    "Deviation: the cosine spans all 310 epochs; in the code it spans 300, and 10 more "
    "train at its lowest learning rate."
)

T2T_14 = Config(
    about="T2T-ViT-14 on ImageNet-1k (arXiv:2101.11986, section 4.1 and its code). "
    + DEVIATION,
    command="keras-vit pretrain t2t_vit_14_imagenet --workdir runs/t2t_vit_14",
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
        # timm omits the color jitter of 0.4 when it uses RandAugment.
        randaugment="rand-m9-mstd0.5-inc1",
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

T2T_7 = dataclasses.replace(
    T2T_14,
    about="T2T-ViT-7 on ImageNet-1k (arXiv:2101.11986, section 4.1 and its code). "
    + DEVIATION,
    command="keras-vit pretrain t2t_vit_7_imagenet --workdir runs/t2t_vit_7",
    expected="71.7 % top-1 (README of its code)",
    model=Model(architecture="T2TViT7", arguments={"stochastic_depth_rate": 0.1}),
    optimization=dataclasses.replace(
        T2T_14.optimization, learning_rate=1e-3, weight_decay=0.03
    ),
)

T2T_24 = dataclasses.replace(
    T2T_14,
    about="T2T-ViT-24 on ImageNet-1k (arXiv:2101.11986, section 4.1 and its code). "
    + DEVIATION,
    command="keras-vit pretrain t2t_vit_24_imagenet --workdir runs/t2t_vit_24",
    expected="82.3 % top-1 (README of its code)",
    model=Model(architecture="T2TViT24", arguments={"stochastic_depth_rate": 0.1}),
    optimization=dataclasses.replace(T2T_14.optimization, weight_decay=0.065),
)

T2T_14_CIFAR10 = Config(
    about="T2T-ViT-14 from ImageNet-1k to CIFAR-10 (arXiv:2101.11986, table 3).",
    command="keras-vit finetune t2t_vit_14_cifar10_transfer "
    "--workdir runs/t2t_vit_14_cifar10",
    hardware="one GPU, hours",
    expected="98.3 % (table 3)",
    model=Model(architecture="T2TViT14", weights="t2t_vit_14.orig_in1k_224"),
    data=Data(
        train="tfds:cifar10:train[:49000]",
        validation="tfds:cifar10:train[49000:]",
        test="tfds:cifar10:test",
    ),
    augmentation=Augmentation(crop_area=(0.08, 1.0), horizontal_flip=True),
    optimization=Optimization(
        optimizer="sgd",
        learning_rate=0.05,
        # The original transfer_learning.py also slows everything except the head.
        backbone_multiplier=0.01,
        # The original has 5e-4, which torch's SGD adds to the gradient: the momentum of
        # 0.9 makes it ten times as much.
        weight_decay=5e-3,
        warmup_steps=0,
        clip_norm=None,
    ),
    epochs=60,
    batch_size=64,
)

CONFIGS = {
    "t2t_vit_7_imagenet": T2T_7,
    "t2t_vit_14_imagenet": T2T_14,
    "t2t_vit_24_imagenet": T2T_24,
    "t2t_vit_14_cifar10_transfer": T2T_14_CIFAR10,
}
