"""Masked patch prediction on CIFAR-10, small enough for two CPU cores."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Masking, Model, Optimization
from recipes.configs import cifar10_vit_64

CONFIG = Config(
    about="The ViT paper's masked patch prediction (arXiv:2010.11929, appendix B.1.2) on "
    "CIFAR-10 at 32x32: patches of 4, 4 blocks of width 128.",
    command="python -m recipes.pretrain cifar10_masked_patches "
    "--workdir runs/cifar10_masked_patches",
    hardware="two CPU cores, minutes",
    expected="none published; a linear probe better than of random features",
    objective="masked_patch_prediction",
    masking=Masking(ratio=0.5),
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 3],
            "patch_size": 4,
            "hidden_dim": 128,
            "num_layers": 4,
            "num_heads": 4,
            "mlp_dim": 512,
            "pooling": "gap",
        },
    ),
    data=cifar10_vit_64.CONFIG.data,
    augmentation=Augmentation(pad_and_crop=4, horizontal_flip=True),
    optimization=Optimization(learning_rate=1e-3, weight_decay=0.05),
    epochs=10,
    batch_size=128,
)
