"""Train a model from a config.

keras-vit pretrain CONFIG --workdir DIR [--set key=value ...]

CONFIG is the name of a config, a Python file that sets CONFIG (keras-vit new-config
prints one), or the config.json of a run. --data PHOTOS replaces its data sets: PHOTOS is
a folder with one folder of images for each class, a folder with train/, val/ and test/ in
it, a CSV or Parquet file of paths and labels, a directory of Hugging Face's datasets, or
tfds:NAME. Run the same command again to resume an interrupted run. Examples:

  keras-vit pretrain digits_vit --workdir runs/digits
  keras-vit pretrain digits_vit --workdir runs/small --set epochs=5
  keras-vit pretrain my_config.py --data photos --workdir runs/photos
  keras-vit pretrain digits_vit --dry-run
"""

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import training


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    return training.parse("pretrain", __doc__, "CONFIG", words)
