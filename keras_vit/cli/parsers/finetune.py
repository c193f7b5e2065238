r"""Train a model from a checkpoint, with other classes or at another size.

keras-vit finetune CONFIG_OR_CHECKPOINT --data PHOTOS --workdir DIR
keras-vit finetune CONFIG_OR_CHECKPOINT --workdir DIR [--set key=value ...]

PHOTOS is a folder with one folder of images for each class, a folder with train/, val/
and test/ in it, a CSV or Parquet file of paths and labels, a directory of Hugging Face's
datasets, or tfds:NAME. The command prints a summary of the images and of the run. With a
checkpoint, it asks on a terminal before it starts (--yes skips the question), and the
settings are chosen for the number of images, the size of the model and the machine. --set
changes them; --save-config FILE.py writes them as a config.

Without --data, the data sets are those of the config or of the checkpoint's run.
A checkpoint is then trained as in the ViT paper: SGD with momentum 0.9, a cosine
schedule, gradient clipping at 1 and no weight decay.

A config names its checkpoint in `model.weights`. A checkpoint is anything that
`keras_vit.load_checkpoint` reads, or the directory of a run. The head is replaced by a
new one and the position embeddings are resized.

Examples:

  keras-vit finetune vit_b16.augreg_in21k_224 --data photos --workdir runs/photos
  keras-vit finetune runs/digits --workdir runs/digits_96 \
      --set model.arguments.input_shape=96,96,1 --set epochs=10
  keras-vit finetune vit_b16_cifar10 --workdir runs/cifar10 \
      --set model.weights=ViT-B_16.npz
"""

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import training


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    return training.parse("finetune", __doc__, "CONFIG_OR_CHECKPOINT", words)
