"""Says what is on photographs.

python -m recipes.predict CHECKPOINT IMAGE [IMAGE ...] [--workdir DIR] [--top 5]

CHECKPOINT is the directory of a run (its best model), or what `keras_vit.load_checkpoint`
reads. IMAGE is a JPEG, PNG, BMP, GIF or WebP file, or a folder of them. Names of classes
are those of the run, or ImageNet's for 1,000 classes. An image that cannot be read is
named and left out. Scores are the model's own outputs: probabilities in percent where it
ends in a softmax or a sigmoid, else plain numbers. Examples:

  python -m recipes.predict runs/flowers photographs/ --workdir predictions
  python -m recipes.predict vit_b16.augreg_in21k_ft_in1k_224 dog.jpg

With --workdir: predictions.csv, a line for each image and class.
"""

import csv
import io
import pathlib
import sys
from collections.abc import Iterator, Sequence

import numpy as np

import keras_vit
from keras_vit.export.head import Head
from keras_vit.training.decoding import decode_pixels, reason
from keras_vit.training.host import tensorflow
from keras_vit.training.sources import counted, image_files
from recipes import class_names, command_line, dark_images
from recipes import config as configs
from recipes.evaluate import NOTHING
from recipes.objectives import network
from recipes.run_directory import write_text


def images_in(paths: Sequence[str]) -> list[pathlib.Path]:
    """The images that paths name, those of folders in order.

    Raises:
        FileNotFoundError: nothing is at a path, or no image in a folder.
    """
    found = []
    for path in map(pathlib.Path, paths):
        inside = [path]
        if path.is_dir():
            images, others = image_files(path)
            inside = [pathlib.Path(image) for image in images]
            if others:
                print(f"{path}: left out {counted(others)}", file=sys.stderr)
        if not inside or not path.exists():
            raise FileNotFoundError(f"No image at {path}.")
        found += inside
    return found


def predict(
    model, paths: Sequence[pathlib.Path], batch_size: int, exif: bool = True
) -> Iterator[tuple[pathlib.Path, np.ndarray | str]]:
    """Pairs of a path and its class scores, or what is wrong with it.

    Args:
        model: a `keras_vit` model with its classifier.
        paths: of image files.
        batch_size: int, images at once.
        exif: bool, whether to turn images upright as their EXIF orientation asks for.
    """
    tf = tensorflow()
    for start in range(0, len(paths), batch_size):
        good, images = [], []
        for path in paths[start : start + batch_size]:
            try:
                content = path.read_bytes()
                if text := dark_images.warning(str(path), content):
                    print(text, file=sys.stderr)
                channels = model.input_shape[-1]
                pixels = decode_pixels(tf.constant(content), channels, exif=exif)
                images.append(model.preprocessor(pixels))
                good.append(path)
            except (OSError, tf.errors.OpError) as error:
                yield path, reason(error)
        if images:
            scores = model.predict_on_batch(np.stack([np.asarray(i) for i in images]))
            yield from zip(good, scores, strict=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = command_line.parser(
        "recipes.predict", __doc__, "CHECKPOINT", "where predictions.csv goes"
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE")
    parser.add_argument("--top", type=int, default=5, help="default: %(default)s")
    options = parser.parse_args(arguments)
    if options.top < 1:
        parser.error(f"--top must be 1 or more; received {options.top}.")
    with command_line.writing(options.workdir):
        config = command_line.config_of(options.what, NOTHING)
        config = configs.override(config, command_line.settings(options))
        paths = images_in(options.images)
        head = command_line.head_of(config.model.weights or "")
        model = network(config, include_top=True, head="keep", **head)
        shown = Head.of(model.get_config()["classifier_activation"]).shown
        names, classes = class_names.known(model, config), model.output_shape[-1]
        if names is None and classes != 1000:
            names = [str(number) for number in range(classes)]
        rows, unreadable = [], 0
        for path, scores in predict(model, paths, config.batch_size, config.data.exif):
            print(path)
            if isinstance(scores, str):
                unreadable += 1
                print(f"  cannot be read: {scores}")
                continue
            ((*best,),) = keras_vit.decode_predictions(scores[None], options.top, names)
            for place, name, score in best:
                print(f"  {shown(score)}  {name}")
                rows.append((str(path), place, name, f"{score:.6f}"))
        if options.workdir is not None:
            directory = pathlib.Path(options.workdir)
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerows([("image", "class", "name", "score"), *rows])
            write_text(directory / "predictions.csv", text.getvalue())
            print(f"predictions: {directory / 'predictions.csv'}")
    if unreadable:
        sys.exit(f"{unreadable} of {len(paths)} images could not be read.")


if __name__ == "__main__":
    main()
