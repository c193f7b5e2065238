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
import pathlib
import sys
from collections.abc import Sequence

import keras_vit
from keras_vit.cli import command_line
from keras_vit.evaluation.predictions import images_in, read_images


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="keras-vit report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT")
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--output", metavar="FILE", required=True)
    command_line.add_image_size(parser)
    parser.add_argument(
        "--limit",
        type=int,
        default=16,
        help="largest number of images to show (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if options.limit < 1:
        parser.error(f"--limit must be 1 or more; received {options.limit}.")
    with command_line.reported():
        _write(options)


def _write(options):
    paths = images_in(options.images)
    if len(paths) > options.limit:
        print(f"{len(paths)} images; the report shows the first {options.limit}")
    model = keras_vit.load_checkpoint(
        command_line.checkpoint_file(options.checkpoint),
        **command_line.head_of(options.checkpoint),
    )
    model = command_line.at_image_size(model, options)
    images, names = [], []
    for path, pixels in read_images(paths[: options.limit], model.input_shape[-1]):
        if isinstance(pixels, str):
            print(f"{path} cannot be read: {pixels}", file=sys.stderr)
        else:
            images.append(pixels)
            names.append(path.name)
    if not images:
        raise ValueError("None of the images could be read.")
    title = f"{pathlib.Path(options.checkpoint).name} on {len(images)} images"
    path = keras_vit.visualize.report(model, images, options.output, names, title)
    print(f"report: {path}")
