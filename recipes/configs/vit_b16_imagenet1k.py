"""ViT-B/16 from scratch on ImageNet-1k, with the ViT paper's settings."""

from keras_vit.training.augment import Augmentation
from recipes.config import Config, Data, Model, Optimization

CONFIG = Config(
    about="ViT-B/16 on ImageNet-1k (arXiv:2010.11929, section 4.1 and table 3). Of the "
    "augmentation and the loss the paper says nothing: Inception's crop, mirroring and "
    "a softmax are chosen here, and 1 % of the training set to validate on.",
    command="python -m recipes.pretrain vit_b16_imagenet1k "
    "--workdir runs/vit_b16_imagenet1k",
    hardware="as many accelerators as hold 4096 images, days; on one, with --set "
    "batch_size=128 --set optimization.accumulation_steps=32, weeks",
    expected="77.91 % top-1 after fine-tuning at 384 (table 5)",
    model=Model(
        architecture="ViTB16",
        arguments={"representation_size": 768, "dropout_rate": 0.1},
    ),
    data=Data(
        train="tfds:imagenet2012:train[:99%]",
        validation="tfds:imagenet2012:train[99%:]",
        test="tfds:imagenet2012:validation",
        cache=False,
    ),
    augmentation=Augmentation(crop_area=(0.05, 1.0), horizontal_flip=True),
    optimization=Optimization(
        optimizer="adam",
        learning_rate=3e-3,
        weight_decay=0.3,
        warmup_steps=10_000,
    ),
    epochs=300,
    batch_size=4096,
    dtype="mixed_bfloat16",
)
