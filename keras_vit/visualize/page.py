"""HTML pages with pictures, each one file that needs no other file."""

import html
import os
import pathlib
import string
from collections.abc import Iterable, Sequence

import numpy as np

from keras_vit.atomic_files import write_text
from keras_vit.visualize import pictures

_TEMPLATE = pathlib.Path(__file__).with_name("page.html")


def write_page(
    path: str | os.PathLike, title: str, sections: Iterable[str]
) -> pathlib.Path:
    """Write an HTML page, replacing the file when the new one is complete.

    Args:
        path: the file.
        title: text of its title.
        sections: parts of the page, HTML.

    Returns:
        The path.
    """
    path = pathlib.Path(path)
    template = string.Template(_TEMPLATE.read_text(encoding="utf-8"))
    text = template.substitute(title=html.escape(title), body="\n".join(sections))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, text)
    return path


def section(title: str, about: str, parts: Iterable[str]) -> str:
    """Return a heading, a paragraph of text and some HTML."""
    heading, about = html.escape(title), html.escape(about)
    return f"<h2>{heading}</h2>\n<p>{about}</p>\n" + "\n".join(parts)


def figure(uri: str, alternative: str, caption: str, kind: str = "") -> str:
    """Return a picture with its caption.

    Args:
        uri: the picture, such as `pictures.data_uri` returns it.
        alternative: description for people who cannot see the picture.
        caption: text below it.
        kind: class of the element: `"patches"` for a picture with enlarged pixels.
    """
    return (
        f'<figure><img class="{kind}" src="{uri}" alt="{html.escape(alternative)}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def row(figures: Iterable[str]) -> str:
    """Return figures of one size, side by side."""
    return f'<div class="row">{"".join(figures)}</div>'


def whole(figures: Iterable[str]) -> str:
    """Return figures in the size of their pictures."""
    return f'<div class="whole">{"".join(figures)}</div>'


def thumbnails(figures: Iterable[str]) -> str:
    """Return small figures of one size, side by side."""
    return f'<div class="row thumbnails">{"".join(figures)}</div>'


def drawing(svg: str, alternative: str) -> str:
    """Return an `<svg>` element with a description.

    Args:
        svg: the element.
        alternative: description for people who cannot see the drawing.
    """
    return f'<div role="img" aria-label="{html.escape(alternative)}">{svg}</div>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column names its rows.

    Args:
        header: names of the columns, text.
        rows: cells of the rows, text.
    """
    names = "".join(f'<th scope="col">{html.escape(name)}</th>' for name in header)
    lines = [f"<thead><tr>{names}</tr></thead>"] if header else []
    for first, *others in rows:
        cells = "".join(f"<td>{html.escape(text)}</td>" for text in others)
        lines.append(f'<tr><th scope="row">{html.escape(first)}</th>{cells}</tr>')
    return f'<div class="scroll"><table>{"".join(lines)}</table></div>'


def folded(summary: str, content: str) -> str:
    """Return HTML that is shown after a click on its summary."""
    return f"<details><summary>{html.escape(summary)}</summary>{content}</details>"


def command(text: str) -> str:
    """Return a command with a button that copies it."""
    copy = (
        "navigator.clipboard.writeText(this.nextElementSibling.textContent)"
        ".then(() => { this.textContent = 'copied'; })"
    )
    return (
        f'<div class="command"><button type="button" onclick="{copy}">copy</button>'
        f"<pre><code>{html.escape(text)}</code></pre></div>"
    )


def photograph(pixels: np.ndarray, side: int) -> str:
    """Return a picture scaled to fit into a square as a URI.

    Pictures of up to 64 pixels are PNG files, in which every pixel is exact; larger ones
    are JPEG files.

    Args:
        pixels: `(h, w, c)`, pixel values 0 to 255; see `pictures.to_rgb`.
        side: int, side of the square.
    """
    small = pictures.thumbnail(pixels, side)
    if max(small.shape[:2]) <= 64:
        return pictures.data_uri(pictures.png(small))
    return pictures.data_uri(pictures.jpeg(small), "image/jpeg")


def picture(pixels: np.ndarray) -> str:
    """Return pixels `(h, w, 1)` or `(h, w, 3)`, uint8, as the URI of a PNG file."""
    if pixels.shape[-1] == 1:
        pixels = pixels.squeeze(axis=-1)
    return pictures.data_uri(pictures.png(pixels))
