"""Masked autoencoder of ViT-B/16 on ImageNet-1k, and fine-tuning at 224x224.

"Masked Autoencoders Are Scalable Vision Learners" (arXiv:2111.06377), section 4 and
appendix A.1: table 8 (pretraining) and table 9 (fine-tuning).
"""

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Masking, Model, Optimization

DATA = Data(
    train="tfds:imagenet2012:train",
    validation="tfds:imagenet2012:validation",
    cache=False,
)

PRETRAIN_BATCH = 4096
PRETRAIN_EPOCHS = 800

PRETRAIN = Config(
    about="MAE of ViT-B/16 (arXiv:2111.06377, section 4 and appendix A.1, table 8), with "
    "normalized pixels as targets. Deviations: pixels are scaled to -1 to 1 instead of "
    "by ImageNet's mean and standard deviation; crops are resized bilinearly.",
    command="keras-vit pretrain mae_b16_imagenet --workdir runs/mae_b16_imagenet",
    hardware="as many accelerators as hold 4096 images (in the paper's code 64 GPUs), "
    "days",
    expected="83.6 % top-1 after mae_b16_imagenet_finetune, pretrained for 1600 epochs "
    "(table 3)",
    objective="mae",
    masking=Masking(ratio=0.75, decoder_dim=512, decoder_layers=8, decoder_heads=16),
    model=Model(
        architecture="ViTB16",
        arguments={
            "class_token": True,
            "pooling": "gap",
            "positions": "sincos_2d",
            "activation": "gelu",
        },
    ),
    data=DATA,
    augmentation=Augmentation(crop_area=(0.2, 1.0), horizontal_flip=True),
    optimization=Optimization(
        learning_rate=1.5e-4 * PRETRAIN_BATCH / 256,
        beta_2=0.95,
        weight_decay=0.05,
        warmup_steps=40 / PRETRAIN_EPOCHS,
        clip_norm=None,
    ),
    epochs=PRETRAIN_EPOCHS,
    batch_size=PRETRAIN_BATCH,
    dtype="mixed_bfloat16",
)

FINETUNE_BATCH = 1024
FINETUNE_EPOCHS = 100

FINETUNE = Config(
    about="ViT-B/16 of mae_b16_imagenet, fine-tuned on ImageNet-1k (arXiv:2111.06377, "
    "appendix A.1, table 9). Learning rate, layer decay and random erasing are those of "
    "FINETUNE.md in its code for normalized pixels (5e-4, 0.65, 0.25); table 9 has 1e-3, "
    "0.75 and none. Deviations: position embeddings keep their values; the norm after "
    "pooling starts from the encoder's; evaluation resizes whole images to 224x224 "
    "instead of cropping the center of 256.",
    command="keras-vit finetune mae_b16_imagenet_finetune "
    "--set model.weights=runs/mae_b16_imagenet/best.keras "
    "--workdir runs/mae_b16_imagenet_finetune",
    hardware="32 GPUs, hours; on one, with --set batch_size=128 --set "
    "optimization.accumulation_steps=8, days",
    expected="83.6 % top-1, pretrained for 1600 epochs (table 3; its code: 83.57 on "
    "average over 4 seeds)",
    model=Model(
        architecture="ViTB16",
        arguments={"final_norm": "after_pooling", "stochastic_depth_rate": 0.1},
    ),
    data=DATA,
    augmentation=Augmentation(
        crop_area=(0.08, 1.0),
        horizontal_flip=True,
        randaugment="rand-m9-mstd0.5-inc1",
        random_erasing=0.25,
        mixup=0.8,
        cutmix=1.0,
    ),
    optimization=Optimization(
        learning_rate=5e-4 * FINETUNE_BATCH / 256,
        weight_decay=0.05,
        warmup_steps=5 / FINETUNE_EPOCHS,
        final_learning_rate=1e-6,
        clip_norm=None,
        layer_decay=0.65,
        label_smoothing=0.1,
    ),
    epochs=FINETUNE_EPOCHS,
    batch_size=FINETUNE_BATCH,
    dtype="mixed_bfloat16",
)

CONFIGS = {
    "mae_b16_imagenet": PRETRAIN,
    "mae_b16_imagenet_finetune": FINETUNE,
}
