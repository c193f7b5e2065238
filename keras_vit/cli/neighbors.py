"""The command `keras-vit neighbors`."""

import argparse
import csv
import io
import pathlib
import sys

import numpy as np

from keras_vit.atomic_files import write_text
from keras_vit.cli import command_line
from keras_vit.evaluation.features import feature_network
from keras_vit.evaluation.neighbors import duplicates, nearest, outliers, plane
from keras_vit.evaluation.predictions import images_in, predict, read_images
from keras_vit.visualize import page, pictures

# Side of the pictures of the page, in pixels.
SIDE = 160


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.writing(options.workdir):
        config = command_line.trained_config(options)
        model = feature_network(config, options.block)
        paths, features, thumbnails = _read(model, options.images, config)
        _write(options, paths, features, thumbnails)


def _read(model, names, config):
    """Return the paths, the features and small pictures of all readable images."""
    paths, features = [], []
    files, exif = images_in(names), config.data.exif
    for path, row in predict(model, files, config.batch_size, exif):
        if isinstance(row, str):
            print(f"{path} cannot be read: {row}", file=sys.stderr)
            continue
        paths.append(path)
        features.append(row)
        if len(paths) % config.batch_size == 0:
            print(f"{len(paths)} of {len(files)} images", flush=True)
    if len(paths) < 2:
        raise ValueError(f"Neighbors need two images; {len(paths)} could be read.")
    small = [
        pictures.thumbnail(np.asarray(pixels), SIDE)
        for _, pixels in read_images(paths, model.input_shape[-1], exif)
    ]
    return paths, np.stack(features), small


def _write(options, paths, features, thumbnails):
    similarities, _ = nearest(features, options.neighbors)
    pairs = duplicates(features, options.duplicates)
    for similarity, first, second in pairs:
        print(f"{similarity:.3f}  {paths[first]}  {paths[second]}")
    uris = [page.picture(thumbnail) for thumbnail in thumbnails]
    print(f"{len(pairs)} pairs of near duplicates among {len(paths)} images")

    def shown(image, text):
        name = paths[image].name
        return page.figure(uris[image], name, f"{name}: {text}")

    alike = [
        page.row([shown(first, f"{similarity:.3f}"), shown(second, "")])
        for similarity, first, second in pairs[:50]
    ]
    means = similarities.mean(axis=1)
    unusual = [
        shown(image, f"{means[image]:.3f}") for image in outliers(similarities)[:12]
    ]
    sheet = pictures.scattered(thumbnails, plane(features))
    uri = pictures.data_uri(pictures.png(sheet))
    sections = [
        page.section(
            "Near duplicates",
            f"Pairs with a similarity of {options.duplicates:g} or more: {len(pairs)}. "
            "The first 50 are shown.",
            alike,
        ),
        page.section(
            "Unusual images",
            f"Images with the smallest mean similarity to their {similarities.shape[1]} "
            "nearest neighbors.",
            [page.row(unusual)],
        ),
        page.section(
            "Map",
            "Similar images are close to each other (t-SNE of the features).",
            [page.whole([page.figure(uri, "map of all images", "")])],
        ),
    ]
    title = f"{len(paths)} images by {pathlib.Path(options.what).name}"
    directory = pathlib.Path(options.workdir)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("similarity", "image", "other"))
    writer.writerows((f"{s:.4f}", paths[i], paths[j]) for s, i, j in pairs)
    write_text(directory / "duplicates.csv", text.getvalue())
    path = page.write_page(directory / "neighbors.html", title, sections)
    print(f"page: {path}")
