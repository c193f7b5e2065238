"""Pictures from arrays: overlays, sheets of maps, charts, and files in data URIs."""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np


def overlay(pixels: np.ndarray, map_: np.ndarray, strength: float = 0.6) -> np.ndarray:
    """Show a map of the patches on its image.

    The map is scaled to the range 0 to 1 and to the size of the image (bilinear), and
    mixed with the image in proportion to its values, in the colors of "inferno".

    Args:
        pixels: `(h, w, c)`, pixel values 0 to 255. Of more than three channels the first
            three are shown, of two the first one.
        map_: `(gh, gw)`, any range; a constant map shows the image alone.
        strength: float, 0 to 1: weight of the color where the map is largest.

    Returns:
        `(h, w, 3)`, uint8.

    Raises:
        ValueError: `pixels` or `map_` has another rank.

    Example:

    >>> import numpy as np, keras_vit
    >>> pixels = np.full((32, 48, 3), 255.0)
    >>> keras_vit.visualize.overlay(pixels, np.eye(2)).shape
    (32, 48, 3)
    """
    from matplotlib import colormaps
    from PIL import Image

    if np.ndim(pixels) != 3 or np.ndim(map_) != 2:
        raise ValueError(
            "overlay needs pixels (height, width, channels) and a map (rows, columns) of "
            f"one image; received shapes {np.shape(pixels)} and {np.shape(map_)}."
        )
    pixels = to_rgb(pixels)
    height, width, _ = pixels.shape
    scaled = Image.fromarray(to_unit_range(map_).astype("float32"))
    scaled = np.asarray(scaled.resize((width, height), Image.Resampling.BILINEAR))
    colors = colormaps["inferno"](scaled)[..., :3] * 255
    weight = strength * scaled[..., None]
    return to_bytes((1 - weight) * pixels + weight * colors)


def to_rgb(pixels: np.ndarray) -> np.ndarray:
    """Return the channels of images that pictures show, `(..., h, w, 3)`.

    They are the first three of three or more channels, or else the first one as gray.
    """
    if pixels.shape[-1] >= 3:
        return pixels[..., :3]
    return np.repeat(pixels[..., :1], 3, axis=-1)


def to_unit_range(values: np.ndarray) -> np.ndarray:
    """Scale values linearly to the range 0 to 1; constant values become 0."""
    values = np.asarray(values, "float64")
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)


def to_bytes(values: np.ndarray) -> np.ndarray:
    """Round values to uint8, clipped to 0 and 255."""
    return np.clip(np.rint(values), 0, 255).astype("uint8")


def colored(map_: np.ndarray) -> np.ndarray:
    """Return a map in the colors of "viridis", `(gh, gw, 3)` uint8."""
    from matplotlib import colormaps

    return to_bytes(colormaps["viridis"](to_unit_range(map_))[..., :3] * 255)


def sheet(rows: np.ndarray, gap: int = 1) -> np.ndarray:
    """Arrange pictures in rows and columns, with transparent gaps between them.

    Args:
        rows: `(rows, columns, h, w, 3)`, uint8.
        gap: int, width of the gaps in pixels.

    Returns:
        `(height, width, 4)`, uint8, with an alpha channel.
    """
    down, across, height, width, _ = rows.shape
    whole = np.zeros(
        (down * (height + gap) - gap, across * (width + gap) - gap, 4), "uint8"
    )
    for row in range(down):
        for column in range(across):
            top, left = row * (height + gap), column * (width + gap)
            part = whole[top : top + height, left : left + width]
            part[..., :3], part[..., 3] = rows[row, column], 255
    return whole


def thumbnail(pixels: np.ndarray, side: int) -> np.ndarray:
    """Return a picture scaled to fit into a square, `(h, w, 3)` uint8.

    Args:
        pixels: `(h, w, c)`, pixel values 0 to 255; see `to_rgb`.
        side: int, side of the square.
    """
    from PIL import Image

    image = Image.fromarray(to_bytes(to_rgb(pixels)))
    image.thumbnail((side, side))
    return np.asarray(image)


def scattered(
    thumbnails: Sequence[np.ndarray], places: np.ndarray, side: int = 1000
) -> np.ndarray:
    """Return small pictures at their places in one picture.

    Args:
        thumbnails: pictures `(h, w, 3)`, uint8, of any sizes.
        places: `(n, 2)`, values 0 to 1: horizontal and vertical place.
        side: int, side of the result.

    Returns:
        `(side, side, 4)`, uint8, transparent where there is no picture.
    """
    whole = np.zeros((side, side, 4), "uint8")
    # The more pictures there are, the smaller they are.
    largest = int(np.clip(side / np.sqrt(len(thumbnails)) / 1.5, 16, 160))
    for pixels, (x, y) in zip(thumbnails, places, strict=True):
        small = thumbnail(pixels, largest)
        height, width = small.shape[:2]
        top, left = round(y * (side - height)), round(x * (side - width))
        part = whole[top : top + height, left : left + width]
        part[..., :3], part[..., 3] = small, 255
    return whole


def png(pixels: np.ndarray, scale: int = 1) -> bytes:
    """Encode pixels as a PNG file.

    Args:
        pixels: `(h, w)`, `(h, w, 3)` or `(h, w, 4)`, uint8.
        scale: int, side of the square that a pixel becomes.
    """
    from PIL import Image

    pixels = pixels.repeat(scale, axis=0).repeat(scale, axis=1)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG", optimize=True)
    return file.getvalue()


def jpeg(pixels: np.ndarray) -> bytes:
    """Encode pixels `(h, w, 3)`, uint8, as a JPEG file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=85)
    return file.getvalue()


def data_uri(content: bytes, kind: str = "image/png") -> str:
    """Return a file as a `data:` URI."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


# Charts are drawn in this color, which the page's own color then replaces.
_INK = "#010203"


def chart(
    series: Mapping[str, tuple[np.ndarray, np.ndarray]],
    x: str,
    y: str,
    lines: bool = False,
) -> str:
    """Draw points as SVG, in the color of the text around it.

    Args:
        series: dict from names to arrays of x and y values, `(n,)` each.
        x: label of the x axis.
        y: label of the y axis.
        lines: bool, whether the points of a series are connected. Without lines, the x
            axis has integers.

    Returns:
        An `<svg>` element.
    """
    import matplotlib
    from matplotlib.figure import Figure

    keys = ("axes.edgecolor", "axes.labelcolor", "text.color", "xtick.color")
    style = dict.fromkeys((*keys, "ytick.color"), _INK)
    style |= {"svg.hashsalt": "keras_vit"}
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        for name, (horizontal, vertical) in series.items():
            form = "o-" if lines else "o"
            axes.plot(horizontal, vertical, form, ms=4, alpha=0.7, label=name)
        axes.set(xlabel=x, ylabel=y, ylim=(0, None))
        if not lines:
            axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.25, color=_INK)
        axes.set_facecolor("none")
        if len(series) > 1:
            axes.legend(framealpha=0)
        file = io.StringIO()
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    return text[text.index("<svg") :].replace(_INK, "currentColor")
