"""Small models on scikit-learn's handwritten digits, for minutes on two CPU cores.

`digits_vit` and `digits_t2t` have the same number of parameters and the same recipe.
`digits_masked_patches` and `digits_mae` pretrain without labels on 32x32 pixels, with one
patch for each of the 8x8 pixels of the original images.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Masking, Model, Optimization

LAYERS = {"hidden_dim": 96, "num_layers": 6, "num_heads": 4}

VIT = Config(
    about="A ViT on scikit-learn's digits at 64x64, patches of 16, 515,638 parameters.",
    command="keras-vit pretrain digits_vit --workdir runs/digits_vit",
    hardware="two CPU cores, minutes",
    expected="none published",
    measured="measured on 2026-11-21: 97.2, 97.8, 98.6 % test accuracy, seeds 0-2, JAX",
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [64, 64, 1],
            "patch_size": 16,
            **LAYERS,
            "mlp_dim": 226,
        },
    ),
    data=Data(train="digits:train", validation="digits:validation", test="digits:test"),
    augmentation=Augmentation(pad_and_crop=8),
    optimization=Optimization(learning_rate=2e-3, weight_decay=0.05),
    epochs=60,
    batch_size=32,
)

T2T = dataclasses.replace(
    VIT,
    about="A T2T-ViT on scikit-learn's digits at 64x64, 515,660 trainable parameters.",
    command="keras-vit pretrain digits_t2t --workdir runs/digits_t2t",
    measured="measured on 2026-11-21: 99.2, 98.9, 97.8 % test accuracy, seeds 0-2, JAX",
    model=Model(
        architecture="T2TViT",
        arguments={
            "input_shape": [64, 64, 1],
            "token_dim": 32,
            **LAYERS,
            "mlp_dim": 192,
        },
    ),
)

VIT_FINETUNE = dataclasses.replace(
    VIT,
    about="The ViT of digits_vit, fine-tuned at 96x96 with the ViT paper's optimizer "
    "(arXiv:2010.11929, appendix B.1.1).",
    command="keras-vit finetune digits_vit_finetune "
    "--set model.weights=runs/digits_vit/best.keras --workdir runs/digits_vit_finetune",
    measured="not measured here",
    model=Model(
        architecture="ViT", arguments={"input_shape": [96, 96, 1], "head": "keep"}
    ),
    optimization=Optimization(optimizer="sgd", learning_rate=0.01),
    epochs=10,
)

MASKED_PATCHES = dataclasses.replace(
    VIT,
    about="The ViT paper's masked patch prediction (arXiv:2010.11929, appendix B.1.2) on "
    "scikit-learn's digits at 32x32, a patch for each of their 8x8 pixels.",
    command="keras-vit pretrain digits_masked_patches "
    "--workdir runs/digits_masked_patches",
    expected="none published; a linear probe better than of random features",
    measured="measured on 2026-11-21: 92.2, 94.7, 89.4 % test accuracy of a linear probe "
    "(seeds 0, 1, 2; random features: 86.4, 84.2, 82.8 %), JAX",
    objective="masked_patch_prediction",
    masking=Masking(ratio=0.5),
    model=Model(
        architecture="ViT",
        arguments={
            "input_shape": [32, 32, 1],
            "patch_size": 4,
            **LAYERS,
            "mlp_dim": 226,
            "pooling": "gap",
        },
    ),
    augmentation=Augmentation(pad_and_crop=4),
    epochs=30,
)

MAE = dataclasses.replace(
    MASKED_PATCHES,
    about="MAE (arXiv:2111.06377) on scikit-learn's digits at 32x32.",
    command="keras-vit pretrain digits_mae --workdir runs/digits_mae",
    measured="measured on 2026-11-21: 95.6, 95.0, 94.2 % test accuracy of a linear probe "
    "(seeds 0, 1, 2; random features: 86.4, 84.2, 82.8 %), JAX",
    objective="mae",
    masking=Masking(ratio=0.75, decoder_dim=64, decoder_layers=2, decoder_heads=4),
)

CONFIGS = {
    "digits_vit": VIT,
    "digits_t2t": T2T,
    "digits_vit_finetune": VIT_FINETUNE,
    "digits_masked_patches": MASKED_PATCHES,
    "digits_mae": MAE,
}
