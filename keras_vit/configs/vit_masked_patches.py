"""Masked patch prediction with ViT-B/16, and fine-tuning at 384x384.

"An Image is Worth 16x16 Words" (arXiv:2010.11929), section 4.6, appendix B.1.2 and, for
fine-tuning, table 4.
"""

from keras_vit.data.augment import Augmentation
from keras_vit.training.config import Config, Data, Masking, Model, Optimization

AUGMENTATION = Augmentation(crop_area=(0.05, 1.0), horizontal_flip=True)

# Fine-tuning's batch of 512 in parts that fit one GPU.
PARTS = 8

PRETRAIN = Config(
    about="Masked patch prediction of ViT-B/16 (arXiv:2010.11929, section 4.6 and "
    "appendix B.1.2). Deviations: ImageNet-1k for 100,000 steps instead of JFT for a "
    "million (the paper reports similar gains after 100,000 steps, and on ImageNet); no "
    "weight decay, no dropout and no clipping, which the paper does not state.",
    command="keras-vit pretrain vit_b16_masked_patches "
    "--workdir runs/vit_b16_masked_patches",
    hardware="as many accelerators as hold 4096 images, days",
    expected="79.9 % top-1 after vit_b16_masked_patches_finetune, pretrained on JFT "
    "(section 4.6)",
    objective="masked_patch_prediction",
    masking=Masking(ratio=0.5),
    model=Model(architecture="ViTB16"),
    data=Data(
        train="tfds:imagenet2012:train",
        validation="tfds:imagenet2012:validation",
        cache=False,
    ),
    augmentation=AUGMENTATION,
    optimization=Optimization(
        optimizer="adam",
        learning_rate=2e-4,
        warmup_steps=10_000,
        clip_norm=None,
    ),
    epochs=300,
    steps=100_000,
    checkpoint_steps=1000,
    batch_size=4096,
    dtype="mixed_bfloat16",
)

FINETUNE = Config(
    about="ViT-B/16 of vit_b16_masked_patches, fine-tuned on ImageNet-1k at 384x384 "
    "(arXiv:2010.11929, section 4.6; settings of table 4).",
    command="keras-vit sweep vit_b16_masked_patches_finetune "
    "--set model.weights=runs/vit_b16_masked_patches/best.keras "
    "--workdir runs/vit_b16_masked_patches_finetune",
    hardware="one GPU of 80 GB, hours for each learning rate",
    expected="79.9 % top-1, pretrained on JFT (section 4.6)",
    model=Model(architecture="ViTB16", arguments={"input_shape": [384, 384, 3]}),
    data=Data(
        train="tfds:imagenet2012:train[:99%]",
        validation="tfds:imagenet2012:train[99%:]",
        test="tfds:imagenet2012:validation",
        cache=False,
    ),
    augmentation=AUGMENTATION,
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
    grid={"optimization.learning_rate": [0.003, 0.01, 0.03, 0.06]},
)

CONFIGS = {
    "vit_b16_masked_patches": PRETRAIN,
    "vit_b16_masked_patches_finetune": FINETUNE,
}
