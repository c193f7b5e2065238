"""Small ViTs with many tokens, and the same ones trained to stop tokens early (A-ViT).

`digits_vit_8` and `cifar10_vit_4` have 64 patches. `digits_adaptive` and
`cifar10_adaptive` fine-tune them; `python -m recipes.fewer_tokens` measures both.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Adaptive, Config, Data, Model, Optimization

LAYERS = {"hidden_dim": 64, "num_layers": 6, "num_heads": 4, "mlp_dim": 128}

DIGITS = Config(
    about="A ViT on scikit-learn's digits at 64x64, patches of 8, 6 blocks of width 64.",
    command="keras-vit pretrain digits_vit_8 --workdir runs/digits_vit_8",
    hardware="two CPU cores, minutes",
    expected="none published",
    measured="measured on 2026-11-27: 93.33 % test accuracy (seed 0), JAX",
    model=Model(
        architecture="ViT",
        arguments={"input_shape": [64, 64, 1], "patch_size": 8, **LAYERS},
    ),
    data=Data(train="digits:train", validation="digits:validation", test="digits:test"),
    augmentation=Augmentation(pad_and_crop=8),
    optimization=Optimization(learning_rate=2e-3, weight_decay=0.05),
    epochs=20,
    batch_size=64,
)

CIFAR10 = dataclasses.replace(
    DIGITS,
    about="A ViT on CIFAR-10 at 32x32, patches of 4, 6 blocks of width 64.",
    command="keras-vit pretrain cifar10_vit_4 --workdir runs/cifar10_vit_4",
    hardware="two CPU cores, an hour",
    measured="measured on 2026-11-27: 71.75 % test accuracy after 65 minutes on two "
    "cores that also ran other work at first (docs/results/cifar10_vit_4), JAX",
    model=Model(
        architecture="ViT",
        arguments={"input_shape": [32, 32, 3], "patch_size": 4, **LAYERS},
    ),
    data=Data(
        train="tfds:cifar10:train[:45000]",
        validation="tfds:cifar10:train[45000:]",
        test="tfds:cifar10:test",
    ),
    augmentation=Augmentation(pad_and_crop=4, horizontal_flip=True),
    optimization=Optimization(
        learning_rate=2e-3,
        weight_decay=0.05,
        optimizer="muon",
        momentum=0.95,
        warmup_steps=0.05,
        label_smoothing=0.1,
    ),
    epochs=16,
    batch_size=128,
)

ADAPTIVE = Adaptive(
    ponder_weight=0.02, prior_weight=0.02, target_depth=3, scale=5.0, center=5.0
)
FINETUNING = Optimization(learning_rate=5e-4, weight_decay=0.05)

DIGITS_ADAPTIVE = dataclasses.replace(
    DIGITS,
    about="The ViT of digits_vit_8, whose tokens learn to stop (arXiv:2112.07658).",
    command="keras-vit finetune digits_adaptive "
    "--set model.weights=runs/digits_vit_8/best.keras --workdir runs/digits_adaptive",
    model=Model(
        architecture="ViT", arguments={"input_shape": [64, 64, 1], "head": "keep"}
    ),
    measured="measured on 2026-11-27: 93.61 % test accuracy at a mean depth of 2.4 of 6 "
    "blocks (docs/results/digits_adaptive), JAX",
    adaptive=ADAPTIVE,
    optimization=FINETUNING,
    epochs=10,
)

CIFAR10_ADAPTIVE = dataclasses.replace(
    CIFAR10,
    about="The ViT of cifar10_vit_4, whose tokens learn to stop (arXiv:2112.07658).",
    command="keras-vit finetune cifar10_adaptive "
    "--set model.weights=runs/cifar10_vit_4/best.keras --workdir runs/cifar10_adaptive",
    model=Model(
        architecture="ViT", arguments={"input_shape": [32, 32, 3], "head": "keep"}
    ),
    measured="measured on 2026-11-28: 71.38 % test accuracy at a mean depth of 4.4 of 6 "
    "blocks, from 71.67 % (docs/results/cifar10_adaptive_first); trained on as in "
    "docs/fewer_tokens.md, 71.01 % at 3.6 (docs/results/cifar10_adaptive), JAX",
    # With the costs of digits_adaptive, validation accuracy fell from 73.7 to 59.5 % in
    # two epochs, and the mean depth to 2.1. With ponder_weight=0.005, prior_weight=0.005
    # and target_depth=4, test accuracy was 68.65 % at a mean depth of 2.8.
    adaptive=dataclasses.replace(
        ADAPTIVE, ponder_weight=0.001, prior_weight=0.01, target_depth=4
    ),
    optimization=dataclasses.replace(CIFAR10.optimization, learning_rate=1e-3),
    epochs=5,
)

CONFIGS = {
    "digits_vit_8": DIGITS,
    "cifar10_vit_4": CIFAR10,
    "digits_adaptive": DIGITS_ADAPTIVE,
    "cifar10_adaptive": CIFAR10_ADAPTIVE,
}
