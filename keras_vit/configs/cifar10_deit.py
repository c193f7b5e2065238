"""DeiT's distillation (arXiv:2012.12877) on CIFAR-10 with a teacher trained here.

- `cifar10_teacher`: a small BiT at 48x48, the teacher.
- `cifar10_deit`: a small ViT at 32x32 with a distillation token.
- `cifar10_deit_plain`: the same ViT without a teacher and without the token.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Distillation, Model, Optimization

TEACHER = Config(
    about="A BiT of three units on CIFAR-10 at 48x48, 132,330 parameters: the teacher of "
    "cifar10_deit.",
    command="KERAS_BACKEND=tensorflow keras-vit pretrain cifar10_teacher "
    "--workdir runs/cifar10_teacher",
    hardware="two CPU cores, 20 minutes",
    expected="none published",
    measured="measured on 2026-11-27: 66.96 % test accuracy after 17 minutes on two "
    "cores that also ran other work (docs/results/cifar10_deit/teacher)",
    model=Model(
        architecture="BiT",
        arguments={
            "input_shape": [48, 48, 3],
            "num_blocks": [1, 1, 1],
            "channels": [64, 128, 256],
            "stem_channels": 32,
            "groups": 16,
        },
    ),
    data=Data(
        train="tfds:cifar10:train[:45000]",
        validation="tfds:cifar10:train[45000:]",
        test="tfds:cifar10:test",
    ),
    augmentation=Augmentation(pad_and_crop=6, horizontal_flip=True),
    optimization=Optimization(learning_rate=3e-3, weight_decay=0.05),
    epochs=8,
    batch_size=128,
    jit_compile=False,
)

PLAIN = dataclasses.replace(
    TEACHER,
    about="A ViT on CIFAR-10 at 32x32, patches of 8, 4 blocks of width 96, three epochs: "
    "cifar10_deit without its teacher.",
    command="KERAS_BACKEND=tensorflow keras-vit pretrain cifar10_deit_plain "
    "--workdir runs/cifar10_deit_plain",
    hardware="two CPU cores, minutes",
    measured="measured on 2026-11-27: 43.2, 43.0, 43.5 % test accuracy (seeds 0, 1, 2), "
    "TensorFlow (docs/results/cifar10_deit)",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 3],
            "patch_size": 8,
            "hidden_dim": 96,
            "num_layers": 4,
            "num_heads": 4,
            "mlp_dim": 192,
        },
    ),
    augmentation=Augmentation(pad_and_crop=4, horizontal_flip=True),
    optimization=Optimization(learning_rate=1e-3, weight_decay=0.05),
    epochs=3,
)

STUDENT = dataclasses.replace(
    PLAIN,
    about="A ViT on CIFAR-10 at 32x32, patches of 8, 4 blocks of width 96, three epochs, "
    "with DeiT's distillation token (arXiv:2012.12877, section 4) and the teacher "
    "cifar10_teacher. For the teacher's hard labels: --set distillation.kind=hard.",
    command="KERAS_BACKEND=tensorflow keras-vit pretrain cifar10_deit "
    "--workdir runs/cifar10_deit",
    expected="none published; at least 1 point above cifar10_deit_plain",
    measured="measured on 2026-11-27: 46.0, 45.8, 45.5 % test accuracy (seeds 0, 1, 2), "
    "45.1 % with hard labels (seed 0), TensorFlow (docs/results/cifar10_deit)",
    model=Model(
        architecture="ViT",
        arguments={**PLAIN.model.arguments, "distillation_token": True},
    ),
    distillation=Distillation(teacher="runs/cifar10_teacher", kind="soft", alpha=0.5),
)

CONFIGS = {
    "cifar10_teacher": TEACHER,
    "cifar10_deit": STUDENT,
    "cifar10_deit_plain": PLAIN,
}
