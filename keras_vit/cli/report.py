"""The command `keras-vit report`."""

import argparse
import pathlib
import sys

import keras_vit
from keras_vit.cli import command_line
from keras_vit.evaluation.predictions import images_in, read_images


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.reported():
        _write(options)


def _write(options):
    paths = images_in(options.images)
    if len(paths) > options.limit:
        print(f"{len(paths)} images; the report shows the first {options.limit}")
    model = keras_vit.load_checkpoint(
        command_line.chosen_file(options.checkpoint),
        **command_line.head_of(options.checkpoint),
    )
    model = command_line.at_image_size(model, options)
    images, names = [], []
    exif = command_line.exif_of(options.checkpoint)
    shown = paths[: options.limit]
    for path, pixels in read_images(shown, model.input_shape[-1], exif):
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
