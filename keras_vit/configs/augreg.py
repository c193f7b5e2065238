"""AugReg's ViT-Ti/16, -S/16 and -B/16: pretraining, and fine-tuning at 384x384.

"How to train your ViT? Data, Augmentation, and Regularization" (arXiv:2106.10270),
sections 3 and 3.4. Each size has the augmentation and weight decay of its best published
checkpoint; fine-tuning has the learning rate in the name of that checkpoint.
"""

import dataclasses

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Model, Optimization

# The paper's levels of augmentation, from none to strong.
NONE = Augmentation(crop_area=(0.05, 1.0), horizontal_flip=True)
LIGHT1 = dataclasses.replace(NONE, randaugment="randaug(2,0)")
LIGHT2 = dataclasses.replace(NONE, randaugment="randaug(2,10)", mixup=0.2)
# The paper's 'strong2' has RandAugment of magnitude 20.
STRONG2_M10 = dataclasses.replace(LIGHT2, mixup=0.8)

IMAGENET1K = Data(
    train="tfds:imagenet2012:train[:99%]",
    validation="tfds:imagenet2012:train[99%:]",
    test="tfds:imagenet2012:validation",
    cache=False,
)

# Pretraining on ImageNet-21k, and ViT-B/16 on ImageNet-1k.

TI16_21K = Config(
    about="ViT-Ti/16 on ImageNet-21k, 'How to train your ViT?' (arXiv:2106.10270, "
    "section 3), with the settings of the best published checkpoint of this size: "
    "augmentation 'none' (crop and mirroring), weight decay 0.03, no dropout, no "
    "stochastic depth. TFDS does not have the set: see vit_b16_imagenet21k.",
    command="keras-vit pretrain augreg_ti16_imagenet21k "
    "--workdir runs/augreg_ti16_imagenet21k",
    hardware="as many accelerators as hold 4096 images, days; on one, with --set "
    "batch_size=128 --set optimization.accumulation_steps=32, weeks",
    expected="78.22 % top-1 on ImageNet-1k after augreg_ti16_imagenet21k_finetune "
    "(the authors' index of checkpoints)",
    model=Model(architecture="ViTTi16", arguments={"classifier_bias": -10.0}),
    data=Data(
        train="folder:imagenet21k/train",
        validation="folder:imagenet21k/validation",
        cache=False,
    ),
    augmentation=NONE,
    optimization=Optimization(
        optimizer="adam",
        learning_rate=1e-3,
        weight_decay=0.03,
        warmup_steps=10_000,
        loss="sigmoid",
    ),
    epochs=300,
    batch_size=4096,
    dtype="mixed_bfloat16",
    checkpoint_steps=1000,
)

S16_21K = dataclasses.replace(
    TI16_21K,
    about="ViT-S/16 on ImageNet-21k, 'How to train your ViT?' (arXiv:2106.10270, section "
    "3), with the settings of the best published checkpoint of this size: augmentation "
    "'light1' (RandAugment of magnitude 0, which still changes images), weight decay "
    "0.03, no dropout, no stochastic depth. TFDS does not have the set: see "
    "vit_b16_imagenet21k.",
    command="keras-vit pretrain augreg_s16_imagenet21k "
    "--workdir runs/augreg_s16_imagenet21k",
    expected="83.73 % top-1 on ImageNet-1k after augreg_s16_imagenet21k_finetune "
    "(the authors' index of checkpoints)",
    model=Model(architecture="ViTS16", arguments={"classifier_bias": -10.0}),
    augmentation=LIGHT1,
)

B16_21K = dataclasses.replace(
    TI16_21K,
    about="ViT-B/16 on ImageNet-21k, 'How to train your ViT?' (arXiv:2106.10270, section "
    "3): weight decay 0.1, no dropout, no stochastic depth, like the best published "
    "checkpoint of this size. Deviation: augmentation 'light2', the authors' later "
    "choice (big_vision's vit_i21k.py); that checkpoint has 'medium1', the same Mixup "
    "with RandAugment of magnitude 15 instead of 10. TFDS does not have the set: see "
    "vit_b16_imagenet21k.",
    command="keras-vit pretrain augreg_b16_imagenet21k "
    "--workdir runs/augreg_b16_imagenet21k",
    expected="85.49 % top-1 on ImageNet-1k after augreg_b16_imagenet21k_finetune, with "
    "'medium1' (the authors' index of checkpoints)",
    model=Model(architecture="ViTB16", arguments={"classifier_bias": -10.0}),
    augmentation=LIGHT2,
    optimization=dataclasses.replace(TI16_21K.optimization, weight_decay=0.1),
)

B16_1K = dataclasses.replace(
    B16_21K,
    about="ViT-B/16 on ImageNet-1k, 'How to train your ViT?' (arXiv:2106.10270, section "
    "3), with the settings of the best published checkpoint of this size: Mixup of "
    "'strong2', weight decay 0.1, dropout and stochastic depth 0.1, sigmoids with a bias "
    "of -6.9. Deviation: RandAugment of magnitude 10; 'strong2' has 20.",
    command="keras-vit pretrain augreg_b16_imagenet1k "
    "--workdir runs/augreg_b16_imagenet1k",
    expected="81.10 % top-1 after augreg_b16_imagenet1k_finetune, with magnitude 20 "
    "(timm's measurement of the published checkpoint)",
    model=Model(
        architecture="ViTB16",
        arguments={
            "classifier_bias": -6.9,
            "dropout_rate": 0.1,
            "stochastic_depth_rate": 0.1,
        },
    ),
    data=IMAGENET1K,
    augmentation=STRONG2_M10,
    checkpoint_steps=None,
)

# Fine-tuning on ImageNet-1k at 384x384, with the ViT paper's schedule.

# The batch of 512 in parts that fit one GPU.
PARTS = 8

TI16_21K_FINETUNE = Config(
    about="The authors' ViT-Ti/16 from ImageNet-21k to ImageNet-1k at 384x384, 'How to "
    "train your ViT?' (arXiv:2106.10270, section 3.4), with the learning rate in the "
    "name of the best published checkpoint. To start from a run of "
    "augreg_ti16_imagenet21k: --set "
    "model.weights=runs/augreg_ti16_imagenet21k/best.keras.",
    command="keras-vit finetune augreg_ti16_imagenet21k_finetune "
    "--workdir runs/augreg_ti16_imagenet21k_finetune",
    hardware="one GPU of 80 GB, hours",
    expected="78.22 % top-1 (the authors' index of checkpoints)",
    model=Model(
        architecture="ViTTi16",
        arguments={"input_shape": [384, 384, 3]},
        weights="vit_ti16.augreg_in21k_224",
    ),
    data=IMAGENET1K,
    augmentation=NONE,
    optimization=Optimization(
        optimizer="sgd",
        learning_rate=0.03,
        warmup_steps=500,
        accumulation_steps=PARTS,
    ),
    steps=PARTS * 20_000,
    checkpoint_steps=PARTS * 1000,
    batch_size=512 // PARTS,
    dtype="mixed_bfloat16",
)

S16_21K_FINETUNE = dataclasses.replace(
    TI16_21K_FINETUNE,
    about="The authors' ViT-S/16 from ImageNet-21k to ImageNet-1k at 384x384, like "
    "augreg_ti16_imagenet21k_finetune. To start from a run of augreg_s16_imagenet21k: "
    "--set model.weights=runs/augreg_s16_imagenet21k/best.keras.",
    command="keras-vit finetune augreg_s16_imagenet21k_finetune "
    "--workdir runs/augreg_s16_imagenet21k_finetune",
    expected="83.73 % top-1 (the authors' index of checkpoints)",
    model=Model(
        architecture="ViTS16",
        arguments={"input_shape": [384, 384, 3]},
        weights="vit_s16.augreg_in21k_224",
    ),
)

B16_21K_FINETUNE = dataclasses.replace(
    TI16_21K_FINETUNE,
    about="The authors' ViT-B/16 from ImageNet-21k to ImageNet-1k at 384x384, like "
    "augreg_ti16_imagenet21k_finetune. To start from a run of augreg_b16_imagenet21k: "
    "--set model.weights=runs/augreg_b16_imagenet21k/best.keras.",
    command="keras-vit finetune augreg_b16_imagenet21k_finetune "
    "--workdir runs/augreg_b16_imagenet21k_finetune",
    expected="85.49 % top-1 (the authors' index of checkpoints)",
    model=Model(
        architecture="ViTB16",
        arguments={"input_shape": [384, 384, 3]},
        weights="vit_b16.augreg_in21k_224",
    ),
)

B16_1K_FINETUNE = dataclasses.replace(
    TI16_21K_FINETUNE,
    about="ViT-B/16 of augreg_b16_imagenet1k, fine-tuned on the same set at 384x384, "
    "'How to train your ViT?' (arXiv:2106.10270, section 3.4), with the learning rate in "
    "the name of the best published checkpoint. No dropout and no stochastic depth, like "
    "the authors' configs/augreg.py for fine-tuning.",
    command="keras-vit finetune augreg_b16_imagenet1k_finetune "
    "--set model.weights=runs/augreg_b16_imagenet1k/best.keras "
    "--workdir runs/augreg_b16_imagenet1k_finetune",
    expected="81.10 % top-1, with RandAugment of magnitude 20 in pretraining (timm's "
    "measurement of the published checkpoint)",
    model=Model(
        architecture="ViTB16",
        arguments={
            "input_shape": [384, 384, 3],
            "dropout_rate": 0.0,
            "stochastic_depth_rate": 0.0,
        },
    ),
    optimization=dataclasses.replace(TI16_21K_FINETUNE.optimization, learning_rate=0.01),
)

CONFIGS = {
    "augreg_ti16_imagenet21k": TI16_21K,
    "augreg_ti16_imagenet21k_finetune": TI16_21K_FINETUNE,
    "augreg_s16_imagenet21k": S16_21K,
    "augreg_s16_imagenet21k_finetune": S16_21K_FINETUNE,
    "augreg_b16_imagenet21k": B16_21K,
    "augreg_b16_imagenet21k_finetune": B16_21K_FINETUNE,
    "augreg_b16_imagenet1k": B16_1K,
    "augreg_b16_imagenet1k_finetune": B16_1K_FINETUNE,
}
