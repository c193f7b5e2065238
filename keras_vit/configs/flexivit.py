"""FlexiViT: one model for patches of many sizes.

"FlexiViT: One Model for All Patch Sizes" (arXiv:2212.08013), section 3.1. Every step
draws a patch size. The weights are those of patches of 32 pixels and a grid of 7x7.

The saved model has patches of 32. Evaluate it at others:
`keras-vit evaluate runs/flexivit_b_imagenet21k --set model.arguments.patch_size=16 --set
model.arguments.input_shape=240,240,3`.
"""

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import (
    Config,
    Data,
    FlexibleSizes,
    Model,
    Optimization,
)

B_21K = Config(
    about="FlexiViT-B on ImageNet-21k for 90 epochs (arXiv:2212.08013, section 3.1), "
    "with the settings of its code (big_vision's flexivit/i21k_sup.py). TFDS does not "
    "have the set: see vit_b16_imagenet21k. Deviations: position embeddings are resized "
    "with aligned corners, and images for evaluation without a crop.",
    command="keras-vit pretrain flexivit_b_imagenet21k "
    "--workdir runs/flexivit_b_imagenet21k",
    hardware="as many accelerators as hold 4096 images, days",
    expected="none published for this model alone",
    model=Model(
        architecture="ViTB32",
        arguments={"input_shape": [224, 224, 3], "classifier_bias": -10.0},
    ),
    flexible=FlexibleSizes(
        patch_sizes=(8, 10, 12, 15, 16, 20, 24, 30, 40, 48), image_size=240
    ),
    data=Data(
        train="folder:imagenet21k/train",
        validation="folder:imagenet21k/validation",
        cache=False,
    ),
    augmentation=Augmentation(
        crop_area=(0.05, 1.0),
        horizontal_flip=True,
        randaugment="randaug(2,10)",
        mixup=0.2,
    ),
    optimization=Optimization(
        learning_rate=1e-3,
        weight_decay=0.1,
        warmup_steps=10_000,
        loss="sigmoid",
    ),
    epochs=90,
    batch_size=4096,
    dtype="mixed_bfloat16",
    checkpoint_steps=1000,
)

DIGITS = Config(
    about="A FlexiViT on scikit-learn's digits at 64x64, with patches of 8, 16 and 32.",
    command="keras-vit pretrain flexivit_digits --workdir runs/flexivit_digits",
    hardware="two CPU cores, a quarter of an hour",
    expected="none published",
    measured="measured on 2026-11-27: 79.4, 71.1, 93.3 % test accuracy with patches of "
    "8, 16, 32, seed 0, JAX",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [224, 224, 1],
            "patch_size": 32,
            "hidden_dim": 96,
            "num_layers": 6,
            "num_heads": 4,
            "mlp_dim": 226,
        },
    ),
    flexible=FlexibleSizes(patch_sizes=(8, 16, 32), image_size=64),
    data=Data(train="digits:train", validation="digits:validation", test="digits:test"),
    augmentation=Augmentation(pad_and_crop=8),
    optimization=Optimization(learning_rate=2e-3, weight_decay=0.05),
    epochs=60,
    batch_size=32,
)

CONFIGS = {"flexivit_b_imagenet21k": B_21K, "flexivit_digits": DIGITS}
