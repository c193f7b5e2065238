"""A ViT and a BiT of the same number of parameters on fractions of CIFAR-10.

Everything but the network is the same. A run lasts until 5 checkpoints in a row have no
better validation accuracy, or 4,000 steps.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Model, Optimization

COMMAND = (
    "keras-vit scaling cifar10_scaling_vit cifar10_scaling_bit "
    "--fractions 0.01,0.03,0.1,0.3,1 --seeds 0,1,2 --workdir runs/scaling"
)

VIT = Config(
    about="A ViT on CIFAR-10: patches of 8, 4 blocks of width 64, 150,106 "
    "parameters, for the comparison with BiT on fractions of the images.",
    command=COMMAND,
    hardware="two CPU cores, two hours for the study",
    expected="the ViT paper, figures 3 and 4: ResNets win with few images",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 3],
            "patch_size": 8,
            "hidden_dim": 64,
            "num_layers": 4,
            "num_heads": 4,
            "mlp_dim": 132,
            "pooling": "gap",
        },
    ),
    data=Data(
        train="tfds:cifar10:train[:45000]",
        validation="tfds:cifar10:train[45000:]",
        test="tfds:cifar10:test",
    ),
    augmentation=Augmentation(pad_and_crop=4, horizontal_flip=True),
    optimization=Optimization(
        learning_rate=1e-3,
        schedule="constant",
        warmup_steps=100,
        weight_decay=0.05,
        label_smoothing=0.1,
        ema=0.99,
    ),
    steps=4000,
    checkpoint_steps=200,
    early_stopping=5,
    batch_size=64,
    jit_compile=False,
)

# The stem and three stages of a BiT reduce the sides by 16.
BIT = dataclasses.replace(
    VIT,
    about="A BiT on CIFAR-10: three stages of 1, 2 and 1 units, 150,122 "
    "parameters, for the comparison with a ViT on fractions of the images.",
    model=Model(
        architecture="BiT",
        arguments={
            "input_shape": [32, 32, 3],
            "num_blocks": [1, 2, 1],
            "channels": [64, 128, 256],
            "stem_channels": 32,
            "groups": 8,
        },
    ),
)

CONFIGS = {"cifar10_scaling_vit": VIT, "cifar10_scaling_bit": BIT}
