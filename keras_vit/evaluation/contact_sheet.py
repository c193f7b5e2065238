"""Predictions for image files as a table and as a page with small pictures."""

import csv
import dataclasses
import html
import io
import pathlib
from collections.abc import Callable, Sequence

import numpy as np

from keras_vit.atomic_files import write_text
from keras_vit.evaluation.predictions import read_images

# A thumbnail has about 8 kB, so that the largest page has about 10 MB.
MOST_PICTURES = 1000
SIDE = 200


@dataclasses.dataclass(frozen=True)
class Entry:
    """Result of one image file.

    Attributes:
        path: the file.
        best: the best classes as `keras_vit.decode_predictions` returns them; empty for
            an image that cannot be read.
        error: the reason why the image cannot be read, or None.
    """

    path: pathlib.Path
    best: Sequence[tuple] = ()
    error: str | None = None


def write_table(entries: Sequence[Entry], path: pathlib.Path) -> None:
    """Write predictions as CSV, one row for each image and class.

    Args:
        entries: the results. An image that cannot be read has one row with its `error`.
        path: the file to write.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("image", "class", "name", "score", "error"))
    for entry in entries:
        for place, name, score in entry.best:
            writer.writerow((entry.path, place, name, f"{score:.6f}", ""))
        if entry.error is not None:
            writer.writerow((entry.path, "", "", "", entry.error))
    write_text(path, text.getvalue())


def write_contact_sheet(
    entries: Sequence[Entry],
    path: pathlib.Path,
    about: str,
    shown: Callable[[float], str],
    exif: bool = True,
) -> None:
    """Write a page with a small picture of every image and its predictions.

    Args:
        entries: the results. Images that cannot be read are listed at the end.
        path: HTML file to write.
        about: text that names the model and the images.
        shown: function from a score to its text.
        exif: bool, whether to rotate images upright by their EXIF orientation.
    """
    from keras_vit.visualize.page import section, table, thumbnails, write_page

    good = [entry for entry in entries if entry.error is None]
    bad = [entry for entry in entries if entry.error is not None]
    files = read_images([entry.path for entry in good[:MOST_PICTURES]], 3, exif)
    figures = [
        _figure(entry, pixels, shown)
        for entry, (_, pixels) in zip(good, files, strict=False)
    ]
    if len(good) > MOST_PICTURES:
        about += (
            f". The page shows the first {MOST_PICTURES:,}; predictions.csv has all "
            f"{len(good):,}"
        )
    sections = [section("Best classes", f"{about}.", [thumbnails(figures)])]
    if bad:
        rows = [(str(entry.path), str(entry.error)) for entry in bad]
        sections.append(
            section(
                "Images that cannot be read",
                f"{len(bad):,} of {len(entries):,} images.",
                [table(("image", "reason"), rows)],
            )
        )
    write_page(path, "Predictions", sections)


def _figure(entry, pixels, shown):
    """Return a picture with its best class, its file name and its other classes."""
    from keras_vit.visualize.page import photograph

    (_, name, score), *others = entry.best
    texts = [f"{other} {shown(value).strip()}" for _, other, value in others]
    path = html.escape(str(entry.path))
    picture = ""
    if not isinstance(pixels, str):  # The file may have changed in the meantime.
        pixels = np.asarray(pixels)
        kind = ' class="patches"' if max(pixels.shape[:2]) <= 64 else ""
        uri = photograph(pixels, SIDE)
        picture = f'<img{kind} src="{uri}" alt="{path}: {html.escape(str(name))}">'
    return (
        f'<figure title="{path}">{picture}<figcaption><b>{html.escape(str(name))}</b> '
        f"{shown(score).strip()}<br>{html.escape(entry.path.name)}"
        f"<br><small>{html.escape(', '.join(texts))}</small></figcaption></figure>"
    )
