"""A small ViT on CIFAR-10, enlarged to 64x64, beside `cifar10_t2t_64`."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Data, Model, Optimization

CONFIG = Config(
    about="A ViT on CIFAR-10 at 64x64, patches of 16, 880,200 parameters, ten epochs.",
    command="python -m recipes.pretrain cifar10_vit_64 --workdir runs/cifar10_vit_64",
    hardware="two CPU cores, minutes",
    expected="none published",
    measured="measured on 2026-11-21: 44.7, 45.6, 44.6 % test accuracy after 5 epochs "
    "(seeds 0, 1, 2), JAX",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [64, 64, 3],
            "patch_size": 16,
            "hidden_dim": 128,
            "num_layers": 6,
            "num_heads": 4,
            "mlp_dim": 245,
        },
    ),
    data=Data(
        train="tfds:cifar10:train[:45000]",
        validation="tfds:cifar10:train[45000:]",
        test="tfds:cifar10:test",
    ),
    augmentation=Augmentation(pad_and_crop=8, horizontal_flip=True),
    optimization=Optimization(learning_rate=1e-3, weight_decay=0.05),
    epochs=10,
    batch_size=128,
)
