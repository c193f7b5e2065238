"""DeiT III (arXiv:2204.07118): S, B and L on ImageNet-1k, and their fine-tuning.

The settings are those of the commands in the authors' README_revenge.md. B and L are
pretrained at 192x192 and fine-tuned at 224x224; S, B and L are fine-tuned at 384x384.
The loss is 1000 times the authors', a sum over classes instead of a mean, which LAMB does
not notice. Deviations in all configs: stochastic depth grows with depth up to the rate
instead of being constant, pixels are scaled to -1 to 1, crops are resized bilinearly,
evaluation resizes whole images to the model's size instead of resizing the shorter side
and cropping the center, and mixup mixes each image with the previous one of the batch.
"""

import dataclasses
from typing import Any

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Model, Optimization

# Arguments of the networks that differ from the defaults of `ViT`.
NETWORK: dict[str, Any] = {
    "activation": "gelu",
    "layer_scale": 1e-4,
    "class_token_position": False,
}

IMAGENET = Data(
    train="tfds:imagenet2012:train[:99%]",
    validation="tfds:imagenet2012:train[99%:]",
    test="tfds:imagenet2012:validation",
    cache=False,
    repeats=3,
)

# Pretraining: 3-Augment, binary cross-entropy, LAMB.

EPOCHS = 800

S16 = Config(
    about="DeiT III's ViT-S/16 on ImageNet-1k at 224x224 (arXiv:2204.07118): 3-Augment, "
    "mixup and CutMix with both labels in full, three copies of an image in a batch. The "
    "paper's table 1 has a weight decay of 0.02; the authors' command has 0.05.",
    command="keras-vit pretrain deit_iii_s16_imagenet "
    "--workdir runs/deit_iii_s16_imagenet",
    hardware="as many accelerators as hold 2048 images; the authors: 8 GPUs",
    expected="81.4 % top-1 (authors' README)",
    model=Model(
        architecture="ViTS16", arguments={**NETWORK, "stochastic_depth_rate": 0.05}
    ),
    data=IMAGENET,
    augmentation=Augmentation(
        crop_area=(0.08, 1.0),
        horizontal_flip=True,
        three_augment=True,
        color_jitter=0.3,
        mixup=0.8,
        cutmix=1.0,
    ),
    optimization=Optimization(
        optimizer="lamb",
        learning_rate=4e-3,
        weight_decay=0.05,
        warmup_steps=5 / EPOCHS,
        warmup_start=1e-6,
        final_learning_rate=1e-5,
        clip_norm=None,
        loss="sigmoid",
        binary_labels=True,
    ),
    epochs=EPOCHS,
    batch_size=2048,
    dtype="mixed_bfloat16",
)

B16 = dataclasses.replace(
    S16,
    about="DeiT III's ViT-B/16 on ImageNet-1k at 192x192, like deit_iii_s16_imagenet.",
    command="keras-vit pretrain deit_iii_b16_imagenet "
    "--workdir runs/deit_iii_b16_imagenet",
    expected="83.8 % top-1 after deit_iii_b16_imagenet_224 (authors' README)",
    model=Model(
        architecture="ViTB16",
        arguments={
            **NETWORK,
            "stochastic_depth_rate": 0.2,
            "input_shape": [192, 192, 3],
        },
    ),
    optimization=dataclasses.replace(S16.optimization, learning_rate=3e-3),
)

L16 = dataclasses.replace(
    B16,
    about="DeiT III's ViT-L/16 on ImageNet-1k at 192x192, like deit_iii_s16_imagenet.",
    command="keras-vit pretrain deit_iii_l16_imagenet "
    "--workdir runs/deit_iii_l16_imagenet",
    hardware="as many accelerators as hold 2048 images; the authors: 32 GPUs",
    expected="84.9 % top-1 after deit_iii_l16_imagenet_224 (authors' README)",
    model=Model(
        architecture="ViTL16",
        arguments={
            **NETWORK,
            "stochastic_depth_rate": 0.45,
            "input_shape": [192, 192, 3],
        },
    ),
)

# Fine-tuning at a higher resolution: AdamW, softmax, RandAugment, 20 epochs.

TUNING_EPOCHS = 20

B16_224 = dataclasses.replace(
    S16,
    about="DeiT III's ViT-B/16, fine-tuned from 192x192 to 224x224.",
    command="keras-vit finetune deit_iii_b16_imagenet_224 "
    "--set model.weights=runs/deit_iii_b16_imagenet/best.keras "
    "--workdir runs/deit_iii_b16_imagenet_224",
    hardware="as many accelerators as hold 512 images, or accumulation_steps",
    expected="83.8 % top-1 (authors' README)",
    model=Model(
        architecture="ViTB16",
        arguments={
            "stochastic_depth_rate": 0.2,
            "input_shape": [224, 224, 3],
            "head": "keep",
        },
    ),
    data=dataclasses.replace(IMAGENET, repeats=1),
    augmentation=Augmentation(
        crop_area=(0.08, 1.0),
        horizontal_flip=True,
        randaugment="rand-m9-mstd0.5-inc1",
        random_erasing=0.0,
        mixup=0.8,
        cutmix=1.0,
    ),
    optimization=Optimization(
        learning_rate=1e-5,
        weight_decay=0.1,
        warmup_steps=5 / TUNING_EPOCHS,
        warmup_start=1e-6,
        final_learning_rate=1e-5,
        clip_norm=None,
        label_smoothing=0.1,
    ),
    epochs=TUNING_EPOCHS,
    batch_size=512,
)

L16_224 = dataclasses.replace(
    B16_224,
    about="DeiT III's ViT-L/16, fine-tuned from 192x192 to 224x224.",
    command="keras-vit finetune deit_iii_l16_imagenet_224 "
    "--set model.weights=runs/deit_iii_l16_imagenet/best.keras "
    "--workdir runs/deit_iii_l16_imagenet_224",
    expected="84.9 % top-1 (authors' README)",
    model=Model(
        architecture="ViTL16",
        arguments={**B16_224.model.arguments, "stochastic_depth_rate": 0.45},
    ),
)

S16_384 = dataclasses.replace(
    B16_224,
    about="DeiT III's ViT-S/16, fine-tuned from 224x224 to 384x384.",
    command="keras-vit finetune deit_iii_s16_imagenet_384 "
    "--set model.weights=runs/deit_iii_s16_imagenet/best.keras "
    "--workdir runs/deit_iii_s16_imagenet_384",
    expected="83.4 % top-1 (authors' README)",
    model=Model(
        architecture="ViTS16",
        arguments={
            "stochastic_depth_rate": 0.0,
            "input_shape": [384, 384, 3],
            "head": "keep",
        },
    ),
)

B16_384 = dataclasses.replace(
    S16_384,
    about="DeiT III's ViT-B/16, fine-tuned from 192x192 to 384x384.",
    command="keras-vit finetune deit_iii_b16_imagenet_384 "
    "--set model.weights=runs/deit_iii_b16_imagenet/best.keras "
    "--workdir runs/deit_iii_b16_imagenet_384",
    expected="85.0 % top-1 (authors' README)",
    model=Model(
        architecture="ViTB16",
        arguments={**S16_384.model.arguments, "stochastic_depth_rate": 0.15},
    ),
)

L16_384 = dataclasses.replace(
    S16_384,
    about="DeiT III's ViT-L/16, fine-tuned from 192x192 to 384x384.",
    command="keras-vit finetune deit_iii_l16_imagenet_384 "
    "--set model.weights=runs/deit_iii_l16_imagenet/best.keras "
    "--workdir runs/deit_iii_l16_imagenet_384",
    expected="85.8 % top-1 (authors' README)",
    model=Model(
        architecture="ViTL16",
        arguments={**S16_384.model.arguments, "stochastic_depth_rate": 0.4},
    ),
)

# ImageNet-21k: the simple random crop, CutMix without mixup, softmax.

S16_21K = dataclasses.replace(
    S16,
    about="DeiT III's ViT-S/16 on ImageNet-21k at 224x224 (arXiv:2204.07118): 3-Augment, "
    "simple random crop, CutMix. TFDS does not have the set: see vit_b16_imagenet21k.",
    command="keras-vit pretrain deit_iii_s16_imagenet21k "
    "--workdir runs/deit_iii_s16_imagenet21k",
    expected="83.1 % top-1 on ImageNet-1k after deit_iii_s16_imagenet21k_finetune "
    "(authors' README)",
    data=Data(
        train="folder:imagenet21k/train",
        validation="folder:imagenet21k/validation",
        cache=False,
    ),
    augmentation=Augmentation(
        simple_crop=4,
        horizontal_flip=True,
        three_augment=True,
        color_jitter=0.3,
        cutmix=1.0,
    ),
    optimization=dataclasses.replace(
        S16.optimization,
        learning_rate=1e-3,
        weight_decay=0.02,
        warmup_steps=5 / 240,
        loss="softmax",
        binary_labels=False,
        label_smoothing=0.1,
    ),
    epochs=240,
)

B16_21K = dataclasses.replace(
    S16_21K,
    about="DeiT III's ViT-B/16 on ImageNet-21k, like deit_iii_s16_imagenet21k.",
    command="keras-vit pretrain deit_iii_b16_imagenet21k "
    "--workdir runs/deit_iii_b16_imagenet21k",
    expected="85.7 % top-1 on ImageNet-1k after deit_iii_b16_imagenet21k_finetune "
    "(authors' README)",
    model=Model(
        architecture="ViTB16", arguments={**NETWORK, "stochastic_depth_rate": 0.1}
    ),
)

L16_21K = dataclasses.replace(
    S16_21K,
    about="DeiT III's ViT-L/16 on ImageNet-21k, like deit_iii_s16_imagenet21k.",
    command="keras-vit pretrain deit_iii_l16_imagenet21k "
    "--workdir runs/deit_iii_l16_imagenet21k",
    expected="87.0 % top-1 on ImageNet-1k after deit_iii_l16_imagenet21k_finetune "
    "(authors' README)",
    model=Model(
        architecture="ViTL16", arguments={**NETWORK, "stochastic_depth_rate": 0.3}
    ),
)

S16_21K_FINETUNE = dataclasses.replace(
    S16_21K,
    about="DeiT III's ViT-S/16 from ImageNet-21k to ImageNet-1k at 224x224, with the "
    "augmentation of its pretraining.",
    command="keras-vit finetune deit_iii_s16_imagenet21k_finetune "
    "--set model.weights=runs/deit_iii_s16_imagenet21k/best.keras "
    "--workdir runs/deit_iii_s16_imagenet21k_finetune",
    expected="83.1 % top-1 (authors' README)",
    model=Model(architecture="ViTS16", arguments={"stochastic_depth_rate": 0.05}),
    data=dataclasses.replace(IMAGENET, repeats=1),
    optimization=dataclasses.replace(
        S16_21K.optimization, learning_rate=3e-4, warmup_steps=5 / 50
    ),
    epochs=50,
)

B16_21K_FINETUNE = dataclasses.replace(
    S16_21K_FINETUNE,
    about="DeiT III's ViT-B/16 from ImageNet-21k to ImageNet-1k at 224x224.",
    command="keras-vit finetune deit_iii_b16_imagenet21k_finetune "
    "--set model.weights=runs/deit_iii_b16_imagenet21k/best.keras "
    "--workdir runs/deit_iii_b16_imagenet21k_finetune",
    expected="85.7 % top-1 (authors' README)",
    model=Model(architecture="ViTB16", arguments={"stochastic_depth_rate": 0.15}),
)

L16_21K_FINETUNE = dataclasses.replace(
    S16_21K_FINETUNE,
    about="DeiT III's ViT-L/16 from ImageNet-21k to ImageNet-1k at 224x224.",
    command="keras-vit finetune deit_iii_l16_imagenet21k_finetune "
    "--set model.weights=runs/deit_iii_l16_imagenet21k/best.keras "
    "--workdir runs/deit_iii_l16_imagenet21k_finetune",
    expected="87.0 % top-1 (authors' README)",
    model=Model(architecture="ViTL16", arguments={"stochastic_depth_rate": 0.4}),
)

CONFIGS = {
    "deit_iii_s16_imagenet": S16,
    "deit_iii_b16_imagenet": B16,
    "deit_iii_l16_imagenet": L16,
    "deit_iii_b16_imagenet_224": B16_224,
    "deit_iii_l16_imagenet_224": L16_224,
    "deit_iii_s16_imagenet_384": S16_384,
    "deit_iii_b16_imagenet_384": B16_384,
    "deit_iii_l16_imagenet_384": L16_384,
    "deit_iii_s16_imagenet21k": S16_21K,
    "deit_iii_b16_imagenet21k": B16_21K,
    "deit_iii_l16_imagenet21k": L16_21K,
    "deit_iii_s16_imagenet21k_finetune": S16_21K_FINETUNE,
    "deit_iii_b16_imagenet21k_finetune": B16_21K_FINETUNE,
    "deit_iii_l16_imagenet21k_finetune": L16_21K_FINETUNE,
}
