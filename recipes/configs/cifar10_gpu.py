"""A ViT on CIFAR-10, from scratch on one GPU."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Data, Model, Optimization

EPOCHS = 200

CONFIG = Config(
    about="A ViT on CIFAR-10 at 32x32: patches of 4, 12 blocks of S/16's width, with the "
    "augmentation of DeiT (arXiv:2012.12877, table 9).",
    command="python -m recipes.pretrain cifar10_gpu --workdir runs/cifar10_gpu",
    hardware="one H100, under an hour",
    expected="none published; the aim is 93 %",
    model=Model(
        architecture="ViTS16",
        arguments={
            "input_shape": [32, 32, 3],
            "patch_size": 4,
            "pooling": "gap",
            "stochastic_depth_rate": 0.1,
        },
    ),
    data=Data(
        train="tfds:cifar10:train[:98%]",
        validation="tfds:cifar10:train[98%:]",
        test="tfds:cifar10:test",
    ),
    augmentation=Augmentation(
        pad_and_crop=4,
        horizontal_flip=True,
        randaugment="rand-m9-mstd0.5-inc1",
        random_erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
    ),
    optimization=Optimization(
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_steps=10 / EPOCHS,
        label_smoothing=0.1,
    ),
    epochs=EPOCHS,
    batch_size=256,
    dtype="mixed_bfloat16",
    # Five epochs, about, and a multiple of the steps that TensorFlow takes at once.
    checkpoint_steps=960,
)
