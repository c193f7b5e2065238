"""DeiT (arXiv:2012.12877): Ti, S and B on ImageNet-1k, distilled, and B at 384x384.

The settings are those of the paper's table 9 and of the authors' code. Deviations in all
configs: pixels are scaled to -1 to 1 instead of by ImageNet's mean and standard
deviation, crops are resized bilinearly, evaluation resizes whole images to the model's
size instead of cropping the center of 256, and mixup mixes each image with the previous
one of the batch. Table 8 has no average of the weights (EMA), and neither have these.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Distillation, Model, Optimization

# Arguments of the networks that differ from the defaults of `ViT`.
NETWORK = {"activation": "gelu", "stochastic_depth_rate": 0.1}

IMAGENET = Data(
    train="tfds:imagenet2012:train[:99%]",
    validation="tfds:imagenet2012:train[99%:]",
    test="tfds:imagenet2012:validation",
    cache=False,
    repeats=3,
)

EPOCHS = 300

TI16 = Config(
    about="DeiT-Ti/16 on ImageNet-1k (arXiv:2012.12877, table 9): three copies of an "
    "image in a batch, RandAugment, random erasing, mixup and CutMix.",
    command="keras-vit pretrain deit_ti16_imagenet --workdir runs/deit_ti16_imagenet",
    hardware="as many accelerators as hold 1024 images; the paper: 4 GPUs, 3 days for S",
    expected="72.2 % top-1 (table 5)",
    model=Model(architecture="ViTTi16", arguments=NETWORK),
    data=IMAGENET,
    augmentation=Augmentation(
        crop_area=(0.08, 1.0),
        horizontal_flip=True,
        randaugment="rand-m9-mstd0.5-inc1",
        random_erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
    ),
    optimization=Optimization(
        learning_rate=1e-3,  # 5e-4 for each 512 images of the batch.
        weight_decay=0.05,
        warmup_steps=5 / EPOCHS,
        warmup_start=1e-6,
        final_learning_rate=1e-5,
        clip_norm=None,
        label_smoothing=0.1,
    ),
    epochs=EPOCHS,
    batch_size=1024,
    dtype="mixed_bfloat16",
)

S16 = dataclasses.replace(
    TI16,
    about="DeiT-S/16 on ImageNet-1k (arXiv:2012.12877, table 9), like "
    "deit_ti16_imagenet.",
    command="keras-vit pretrain deit_s16_imagenet --workdir runs/deit_s16_imagenet",
    expected="79.8 % top-1 (table 5)",
    model=Model(architecture="ViTS16", arguments=NETWORK),
)

B16 = dataclasses.replace(
    TI16,
    about="DeiT-B/16 on ImageNet-1k (arXiv:2012.12877, table 9), like "
    "deit_ti16_imagenet.",
    command="keras-vit pretrain deit_b16_imagenet --workdir runs/deit_b16_imagenet",
    expected="81.8 % top-1 (table 5)",
    model=Model(architecture="ViTB16", arguments=NETWORK),
)

# Distillation: the paper's best teacher, a RegNetY-16GF, is not among the networks of
# Keras; teacher.keras stands for any Keras classifier of ImageNet-1k.
TEACHER = Distillation(teacher="teacher.keras", kind="hard", alpha=0.5)
DISTILLED = {**NETWORK, "distillation_token": True}

TI16_DISTILLED = dataclasses.replace(
    TI16,
    about="DeiT-Ti/16 with a distillation token and hard labels of a teacher "
    "(arXiv:2012.12877, section 4), whose file is --set distillation.teacher=PATH.",
    command="keras-vit pretrain deit_ti16_distilled_imagenet "
    "--workdir runs/deit_ti16_distilled_imagenet",
    expected="74.5 % top-1 with a RegNetY-16GF (table 5)",
    model=Model(architecture="ViTTi16", arguments=DISTILLED),
    distillation=TEACHER,
)

S16_DISTILLED = dataclasses.replace(
    TI16_DISTILLED,
    about="DeiT-S/16 with a distillation token, like deit_ti16_distilled_imagenet.",
    command="keras-vit pretrain deit_s16_distilled_imagenet "
    "--workdir runs/deit_s16_distilled_imagenet",
    expected="81.2 % top-1 with a RegNetY-16GF (table 5)",
    model=Model(architecture="ViTS16", arguments=DISTILLED),
)

B16_DISTILLED = dataclasses.replace(
    TI16_DISTILLED,
    about="DeiT-B/16 with a distillation token, like deit_ti16_distilled_imagenet.",
    command="keras-vit pretrain deit_b16_distilled_imagenet "
    "--workdir runs/deit_b16_distilled_imagenet",
    expected="83.4 % top-1 with a RegNetY-16GF (table 5)",
    model=Model(architecture="ViTB16", arguments=DISTILLED),
)

# Fine-tuning at 384x384, with the settings of the authors' README.

TUNING_EPOCHS = 30

B16_384 = dataclasses.replace(
    B16,
    about="DeiT-B/16 of deit_b16_imagenet, fine-tuned at 384x384 with the command of the "
    "authors' README_deit.md.",
    command="keras-vit finetune deit_b16_imagenet_384 "
    "--set model.weights=runs/deit_b16_imagenet/best.keras "
    "--workdir runs/deit_b16_imagenet_384",
    hardware="as many accelerators as hold 512 images, or accumulation_steps",
    expected="83.1 % top-1 (table 5)",
    model=Model(
        architecture="ViTB16",
        arguments={**NETWORK, "input_shape": [384, 384, 3], "head": "keep"},
    ),
    optimization=dataclasses.replace(
        TI16.optimization,
        learning_rate=5e-6,
        final_learning_rate=5e-6,
        weight_decay=1e-8,
        warmup_steps=5 / TUNING_EPOCHS,
    ),
    epochs=TUNING_EPOCHS,
    batch_size=512,
)

CONFIGS = {
    "deit_ti16_imagenet": TI16,
    "deit_s16_imagenet": S16,
    "deit_b16_imagenet": B16,
    "deit_ti16_distilled_imagenet": TI16_DISTILLED,
    "deit_s16_distilled_imagenet": S16_DISTILLED,
    "deit_b16_distilled_imagenet": B16_DISTILLED,
    "deit_b16_imagenet_384": B16_384,
}
