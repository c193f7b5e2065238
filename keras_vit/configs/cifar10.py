"""Models on CIFAR-10 from scratch: an hour on two CPU cores or on one GPU.

- `cifar10_cpu`, `cifar10_cpu_48`: a hybrid at 32x32 and its fine-tuning at 48x48.
- `cifar10_compact`: a compact convolutional transformer, trained with Muon.
- `cifar10_gpu`: a ViT with DeiT's augmentation.
- `cifar10_vit_64`, `cifar10_t2t_64`: a ViT and a T2T-ViT of the same number of parameters
  on images enlarged to 64x64.
- `cifar10_vit_tiny`: a sweep over position embeddings (the ViT paper's appendix D.4).
- `cifar10_masked_patches`, `cifar10_mae`: pretraining without labels.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Masking, Model, Optimization

DATA = Data(
    train="tfds:cifar10:train[:45000]",
    validation="tfds:cifar10:train[45000:]",
    test="tfds:cifar10:test",
)

CPU = Config(
    about="A hybrid on CIFAR-10 at 32x32: a ResNet's first stage of one unit, 64 tokens, "
    "4 blocks of width 128.",
    command="KERAS_BACKEND=tensorflow keras-vit pretrain cifar10_cpu "
    "--workdir runs/cifar10_cpu",
    hardware="two CPU cores, under an hour",
    expected="none published",
    measured="measured on 2026-11-21: 77.49 % test accuracy after 58 minutes on two "
    "cores that also ran other work (docs/results/cifar10_cpu)",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 3],
            "stem": {"num_blocks": [1]},
            "patch_size": 1,
            "hidden_dim": 128,
            "num_layers": 4,
            "num_heads": 4,
            "mlp_dim": 256,
            "pooling": "gap",
        },
    ),
    data=DATA,
    augmentation=Augmentation(pad_and_crop=4, horizontal_flip=True),
    optimization=Optimization(
        learning_rate=1e-3,
        weight_decay=0.05,
        warmup_steps=0.05,
        label_smoothing=0.1,
    ),
    epochs=24,
    batch_size=128,
    jit_compile=False,
)

CPU_48 = dataclasses.replace(
    CPU,
    about="The hybrid of cifar10_cpu, fine-tuned at 48x48: 144 tokens instead of 64.",
    command="KERAS_BACKEND=tensorflow keras-vit finetune cifar10_cpu_48 "
    "--set model.weights=runs/cifar10_cpu/last.keras --workdir runs/cifar10_cpu_48",
    expected="better than cifar10_cpu",
    measured="measured on 2026-11-21: 78.24 % test accuracy, from 77.49 % at 32x32 "
    "(docs/results/cifar10_cpu_48)",
    model=Model(
        architecture="ViT", arguments={"input_shape": [48, 48, 3], "head": "keep"}
    ),
    augmentation=Augmentation(pad_and_crop=6, horizontal_flip=True),
    optimization=dataclasses.replace(CPU.optimization, learning_rate=3e-4),
    epochs=2,
)

COMPACT = dataclasses.replace(
    CPU,
    about="A compact convolutional transformer (arXiv:2104.05704) on CIFAR-10 at 32x32: "
    "three convolutions, 16 tokens, 4 blocks of width 192, trained with Muon.",
    command="KERAS_BACKEND=tensorflow keras-vit pretrain cifar10_compact "
    "--workdir runs/cifar10_compact",
    hardware="two CPU cores, under an hour",
    expected="none published",
    measured="measured on 2026-11-27: 81.46 % test accuracy after 56 minutes on two "
    "cores that also ran other work at first (docs/results/cifar10_compact)",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 3],
            "stem": {"kind": "ConvTokenizer", "filters": [32, 96, 192]},
            "patch_size": 1,
            "hidden_dim": 192,
            "num_layers": 4,
            "num_heads": 6,
            "mlp_dim": 384,
            "pooling": "sequence",
        },
    ),
    optimization=dataclasses.replace(
        CPU.optimization, optimizer="muon", momentum=0.95, learning_rate=2e-3
    ),
    epochs=14,
)

GPU_EPOCHS = 200

GPU = Config(
    about="A ViT on CIFAR-10 at 32x32: patches of 4, 12 blocks of S/16's width, with the "
    "augmentation of DeiT (arXiv:2012.12877, table 9).",
    command="keras-vit pretrain cifar10_gpu --workdir runs/cifar10_gpu",
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
        warmup_steps=10 / GPU_EPOCHS,
        label_smoothing=0.1,
    ),
    epochs=GPU_EPOCHS,
    batch_size=256,
    dtype="mixed_bfloat16",
    # About five epochs, and a multiple of the steps that TensorFlow executes at once.
    checkpoint_steps=960,
)

VIT_64 = Config(
    about="A ViT on CIFAR-10 at 64x64, patches of 16, 880,200 parameters, ten epochs.",
    command="keras-vit pretrain cifar10_vit_64 --workdir runs/cifar10_vit_64",
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
    data=DATA,
    augmentation=Augmentation(pad_and_crop=8, horizontal_flip=True),
    optimization=Optimization(learning_rate=1e-3, weight_decay=0.05),
    epochs=10,
    batch_size=128,
)

T2T_64 = dataclasses.replace(
    VIT_64,
    about="A T2T-ViT on CIFAR-10 at 64x64, 880,528 trainable parameters, ten epochs.",
    command="keras-vit pretrain cifar10_t2t_64 --workdir runs/cifar10_t2t_64",
    measured="measured on 2026-11-21: 59.2, 60.3, 59.6 % test accuracy after 5 epochs "
    "(seeds 0, 1, 2), JAX",
    model=Model(
        architecture="T2TViT",
        arguments={
            "input_shape": [64, 64, 3],
            "token_dim": 32,
            "hidden_dim": 128,
            "num_layers": 6,
            "num_heads": 4,
            "mlp_dim": 256,
        },
    ),
)

VIT_TINY = Config(
    about="A ViT on CIFAR-10 at 32x32, patches of 8, 4 blocks of width 96, for the "
    "comparisons of the ViT paper's appendices D.3 (heads) and D.4 (positions).",
    command="keras-vit sweep cifar10_vit_tiny --workdir runs/cifar10_positions",
    hardware="two CPU cores, minutes",
    expected="none published",
    measured="measured on 2026-11-21: 48.9, 49.4, 48.8 % test accuracy with learned "
    "positions (seeds 0, 1, 2), JAX",
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
    data=DATA,
    augmentation=Augmentation(horizontal_flip=True),
    optimization=Optimization(learning_rate=1e-3, weight_decay=0.05),
    epochs=3,
    batch_size=128,
    grid={
        "model.arguments.positions": ["none", "learned", "learned_2d", "relative"],
        "seed": [0, 1, 2],
    },
)

MASKED_PATCHES = Config(
    about="The ViT paper's masked patch prediction (arXiv:2010.11929, appendix B.1.2) on "
    "CIFAR-10 at 32x32: patches of 4, 4 blocks of width 128.",
    command="keras-vit pretrain cifar10_masked_patches "
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
    data=DATA,
    augmentation=Augmentation(pad_and_crop=4, horizontal_flip=True),
    optimization=Optimization(learning_rate=1e-3, weight_decay=0.05),
    epochs=10,
    batch_size=128,
)

MAE = dataclasses.replace(
    MASKED_PATCHES,
    about="MAE (arXiv:2111.06377) on CIFAR-10 at 32x32: patches of 4, 4 blocks of width "
    "128, a decoder of 2 blocks of width 64.",
    command="keras-vit pretrain cifar10_mae --workdir runs/cifar10_mae",
    objective="mae",
    masking=Masking(ratio=0.75, decoder_dim=64, decoder_layers=2, decoder_heads=4),
    epochs=20,
)

CONFIGS = {
    "cifar10_cpu": CPU,
    "cifar10_cpu_48": CPU_48,
    "cifar10_compact": COMPACT,
    "cifar10_gpu": GPU,
    "cifar10_vit_64": VIT_64,
    "cifar10_t2t_64": T2T_64,
    "cifar10_vit_tiny": VIT_TINY,
    "cifar10_masked_patches": MASKED_PATCHES,
    "cifar10_mae": MAE,
}
