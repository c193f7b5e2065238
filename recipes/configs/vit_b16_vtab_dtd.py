"""ViT-B/16 from ImageNet-21k to a task of VTAB-1k, with the ViT paper's settings."""

import dataclasses

from keras_vit.training.augment import Augmentation
from recipes.config import Data
from recipes.configs import vit_b16_cifar10, vit_b16_imagenet_384

CONFIG = dataclasses.replace(
    vit_b16_cifar10.CONFIG,
    about="ViT-B/16 from ImageNet-21k to DTD with 800 + 200 images, one of VTAB-1k's 19 "
    "tasks, at 384x384 (arXiv:2010.11929, appendix B.1.1 and table 4, one setting for "
    "all tasks). Deviation: images are shifted by up to 32 pixels, where the paper cuts "
    "384 pixels out of 448. Other tasks: --set data.train=tfds:caltech101:train[:800], "
    "likewise data.validation with 200 other images, and data.test; also cifar100, "
    "oxford_flowers102, oxford_iiit_pet, svhn_cropped, sun397, patch_camelyon, eurosat, "
    "resisc45, diabetic_retinopathy_detection, and dmlab, which is a structured task and "
    "wants --set augmentation.horizontal_flip=False. Of clevr, dsprites, kitti and "
    "smallnorb VTAB derives the labels: prepare folders.",
    command="python -m recipes.finetune vit_b16_vtab_dtd --workdir runs/vit_b16_vtab_dtd",
    hardware="one GPU of 80 GB, an hour",
    expected="none published for B/16; L/16: 72.72 % on average over the 19 tasks "
    "(table 2)",
    data=Data(
        train="tfds:dtd:train[:800]",
        validation="tfds:dtd:validation[:200]",
        test="tfds:dtd:test",
    ),
    augmentation=Augmentation(pad_and_crop=32, horizontal_flip=True),
    steps=vit_b16_imagenet_384.PARTS * 2500,
    checkpoint_steps=vit_b16_imagenet_384.PARTS * 500,
    grid={},
)
