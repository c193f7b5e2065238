r"""Fit a linear classifier to frozen features, and measure its accuracy.

keras-vit probe CONFIG_OR_CHECKPOINT [--workdir DIR] [--set key=value ...]

The classifier is a ridge regression from features to -1 and 1 for each class, solved
exactly, for 5 and 10 images per class and for all images. A checkpoint is the directory
of a run (its best model) or anything that `keras_vit.load_checkpoint` reads; the features
are the inputs of its head. A config without weights gives the features of a random model,
as a baseline. The regularization is chosen on `data.validation`, and the accuracy is
measured on `data.test`.

Examples:

  keras-vit probe runs/digits_mae
  keras-vit probe digits_vit
  keras-vit probe vit_b16.augreg_in21k_224 --data-dir tfds --set \
      data.train=tfds:cifar10 --set data.validation=tfds:cifar10:test[:5000] --set \
      data.test=tfds:cifar10:test[5000:]

--workdir DIR writes linear_probe.json. --features DIR keeps the features, so that they
are computed once.

Reference: ViT (arXiv:2010.11929) section 4.1, "Metrics"; big_vision's `fewshot_lsr`.
"""

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import shared


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = shared.parser(
        "probe",
        __doc__,
        "CONFIG_OR_CHECKPOINT",
        "directory for linear_probe.json",
    )
    shared.add_features(parser)
    return shared.parse_with_devices(parser, words)
