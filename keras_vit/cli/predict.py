"""Classify image files.

keras-vit predict CHECKPOINT IMAGE [IMAGE ...] [--workdir DIR] [--top 5]

CHECKPOINT is the directory of a run (its best model) or anything that
`keras_vit.load_checkpoint` reads. IMAGE is an image file, or a folder of them. The class
names are those of the run, or ImageNet's for 1,000 classes. An image that cannot be read
is reported and skipped. Scores are the outputs of the model:
probabilities in percent if it ends in a softmax or a sigmoid, otherwise plain numbers. A
model that predicts values prints all of them.

Examples:

  keras-vit predict runs/flowers photographs/ --workdir predictions
  keras-vit predict vit_b16.augreg_in21k_ft_in1k_224 dog.jpg

--workdir DIR writes predictions.csv, one line for each image and class, or for an image
that cannot be read the reason; and predictions.html, a page with a small picture of every
image and its best classes.
"""

import pathlib
import sys
from collections.abc import Sequence

import keras_vit
from keras_vit.cli import command_line
from keras_vit.evaluation.contact_sheet import Entry, write_contact_sheet, write_table
from keras_vit.evaluation.predictions import images_in, predict
from keras_vit.export.head import Head
from keras_vit.training import known_class_names
from keras_vit.training.objectives import classifier


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command_line.parser(
        "predict", __doc__, "CHECKPOINT", "directory for predictions.csv and a page"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.top < 1:
        parser.error(f"--top must be 1 or more; received {options.top}.")
    with command_line.writing(options.workdir):
        config = command_line.evaluation_config(options)
        paths = images_in(options.images)
        head = command_line.head_of(config.model.weights or "")
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
