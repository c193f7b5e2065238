"""Data: labeled images as `tf.data` batches, decoding and augmentation."""

from keras_vit.data.augment import Augmentation, mix_images
from keras_vit.data.decoding import decode_pixels
from keras_vit.data.folders import image_files
from keras_vit.data.multi_crop import MultiCrop
from keras_vit.data.pipeline import batch_ids, evaluation_batches, training_batches
from keras_vit.data.rand_augment import RandAugment
from keras_vit.data.source import Source
from keras_vit.data.sources import open_source
from keras_vit.data.splits import split_off

__all__ = [
    "Augmentation",
    "MultiCrop",
    "RandAugment",
    "Source",
    "batch_ids",
    "decode_pixels",
    "evaluation_batches",
    "image_files",
    "mix_images",
    "open_source",
    "split_off",
    "training_batches",
]
