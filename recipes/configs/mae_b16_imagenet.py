"""ViT-B/16 on ImageNet-1k without labels: MAE, with its paper's settings."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Data, Masking, Model, Optimization

BATCH = 4096
EPOCHS = 800

CONFIG = Config(
    about="MAE of ViT-B/16 (arXiv:2111.06377, section 4 and appendix A.1, table 8), with "
    "normalised pixels as targets. Deviations: pixels scaled to -1 to 1, not by "
    "ImageNet's mean and deviation; crops resized bilinearly.",
    command="python -m recipes.pretrain mae_b16_imagenet --workdir runs/mae_b16_imagenet",
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
    data=Data(
        train="tfds:imagenet2012:train",
        validation="tfds:imagenet2012:validation",
        cache=False,
    ),
    augmentation=Augmentation(crop_area=(0.2, 1.0), horizontal_flip=True),
    optimization=Optimization(
        learning_rate=1.5e-4 * BATCH / 256,
        beta_2=0.95,
        weight_decay=0.05,
        warmup_steps=40 / EPOCHS,
        clip_norm=None,
    ),
    epochs=EPOCHS,
    batch_size=BATCH,
    dtype="mixed_bfloat16",
)
