r"""Measure the accuracy of a checkpoint or an export, over every image once.

keras-vit evaluate CHECKPOINT [--workdir DIR] [--set key=value ...]

CHECKPOINT is the directory of a run (its best model), anything that
`keras_vit.load_checkpoint` reads (a file, or a name that `keras_vit.checkpoints()`
lists), or an export: a .onnx or .tflite file, or the directory with the versions of a
SavedModel. Exports take images of one size only. The images are those of `data.test`. A
run has its own test set; without one, its validation set is used. Runs on multi-label
images and on values give the metrics of those. Examples:

  keras-vit evaluate runs/digits
  keras-vit evaluate runs/digits --set data.test=folder:photographs
  keras-vit evaluate runs/digits --report
  keras-vit evaluate vit_b16.augreg_in21k_ft_in1k_224 --set \
      data.test=tfds:imagenet2012:validation --set model.arguments.input_shape=384,384,3
  keras-vit evaluate digits.onnx --set data.test=digits:test

--workdir DIR writes evaluation.json, and confusion.png for up to 100 classes. --report
writes report.html and predictions.csv, to the same directory or to that of the run: the
accuracy with its confidence interval, the figures of every class, the confusion matrix,
calibration, and the most wrong images.
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
        "evaluate", __doc__, "CHECKPOINT", "directory for the results, if any"
    )
    parser.add_argument(
        "--report",
        action="store_true",
        help="write report.html and predictions.csv",
    )
    return shared.parse_with_devices(parser, words, processes=True)
