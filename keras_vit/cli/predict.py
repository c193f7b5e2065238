"""The command `keras-vit predict`."""

import argparse
import pathlib
import sys

import keras_vit
from keras_vit.cli import command_line
from keras_vit.evaluation.contact_sheet import Entry, write_contact_sheet, write_table
from keras_vit.evaluation.predictions import images_in, predict
from keras_vit.export.head import Head
from keras_vit.training import known_class_names
from keras_vit.training.networks import classifier


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.writing(options.workdir):
        config = command_line.trained_config(options)
        paths = images_in(options.images)
        command_line.chosen_file(options.what)
        head = command_line.head_of(str(config.model.weights))
        model = classifier(config, **head)
        shown = Head.of(model.get_config()).shown
        names, classes = known_class_names.known(model, config), model.output_shape[-1]
        if names is None and classes != 1000:
            names = [str(number) for number in range(classes)]
        entries = []
        for path, scores in predict(model, paths, config.batch_size, config.data.exif):
            print(path)
            if isinstance(scores, str):
                print(f"  cannot be read: {scores}")
                entries.append(Entry(path, error=scores))
                continue
            if config.data.labels == "regression":
                values = names or list(map(str, range(classes)))
                best = list(zip(range(classes), values, scores, strict=True))
            else:
                scored = keras_vit.decode_predictions(scores[None], options.top, names)
                ((*best,),) = scored
            for _, name, score in best:
                print(f"  {shown(score)}  {name}")
            entries.append(Entry(path, best))
        if options.workdir is not None:
            directory = pathlib.Path(options.workdir)
            write_table(entries, directory / "predictions.csv")
            print(f"predictions: {directory / 'predictions.csv'}")
            page = directory / "predictions.html"
            about = f"{config.model.weights} on {len(paths):,} images"
            write_contact_sheet(entries, page, about, shown, config.data.exif)
            print(f"contact sheet: {page}")
    unreadable = sum(entry.error is not None for entry in entries)
    if unreadable:
        sys.exit(f"{unreadable} of {len(paths)} images could not be read.")
