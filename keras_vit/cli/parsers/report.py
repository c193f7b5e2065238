"""Show what a model sees in some images, as one HTML page that needs no other file.

keras-vit report CHECKPOINT IMAGE [IMAGE ...] --output report.html

CHECKPOINT is the directory of a run (its best model) or anything that
`keras_vit.load_checkpoint` reads. IMAGE is an image file, or a folder of them. The page
has the attention of every block and head, overlays on the images, the attention
distances, the similarity of positions, the patch filters and the features as colors.

Example:

  keras-vit report vit_b16.augreg_in21k_ft_in1k_224 photographs/ --output report.html
"""

import argparse
from collections.abc import Sequence

from keras_vit.cli.parsers import shared


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Return the options of the command.

    Args:
        words: the arguments of the command.
    """
    parser = argparse.ArgumentParser(
        prog="keras-vit report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--output", metavar="FILE", required=True)
    shared.add_image_size(parser)
    parser.add_argument(
        "--limit",
        type=int,
        default=16,
        help="largest number of images to show (default: %(default)s)",
    )
    options = parser.parse_args(words)
    if options.limit < 1:
        parser.error(f"--limit must be 1 or more; received {options.limit}.")
    return options
