"""T2T-ViT-14, trained on ImageNet-1k, to CIFAR-10, with the paper's settings."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Data, Model, Optimization

CONFIG = Config(
    about="T2T-ViT-14 from ImageNet-1k to CIFAR-10 (arXiv:2101.11986, table 3).",
    command="python -m recipes.finetune t2t_vit_14_cifar10_transfer "
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
        # Of all but the head, as in the original's transfer_learning.py.
        backbone_multiplier=0.01,
        weight_decay=5e-4,
        warmup_steps=0,
        clip_norm=None,
    ),
    epochs=60,
    batch_size=64,
)
