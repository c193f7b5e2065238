"""Report on a model and some images: one HTML file that needs no other file."""

import html
import os
import pathlib
from collections.abc import Iterable, Sequence

import keras
import numpy as np
from keras import ops

from keras_vit.labels import decode_predictions
from keras_vit.models.features import blocks_of
from keras_vit.visualize import pictures
from keras_vit.visualize.attention import (
    attention_rollout,
    attention_weights,
    has_class_token,
    head_maps,
    mean_attention_distance,
)
from keras_vit.visualize.batches import check_vit, in_batches
from keras_vit.visualize.features import channels_of, colors_of, grid_features
from keras_vit.visualize.filters import has_filters, patch_filters
from keras_vit.visualize.gradient import gradient_attention
from keras_vit.visualize.page import figure, picture, row, section, whole, write_page
from keras_vit.visualize.positions import position_similarity, similarity_and_distance
from keras_vit.visualize.soft_splits import NO_WEIGHTS, soft_split_maps, stem_of

# Largest number of attention weights that are computed together, 400 MB.
_MOST_WEIGHTS = 100_000_000


def report(
    model: keras.Model,
    images: Iterable[np.ndarray],
    path: str | os.PathLike,
    image_names: Sequence[str] | None = None,
    title: str | None = None,
) -> pathlib.Path:
    """Write a report on what a model sees in some images.

    The report has, for every image, the attention of each block and head, rollout, the
    relevance for the predicted class (with a classifier), and principal components and
    single channels of the features; for a T2T-ViT with Transformers between the soft
    splits also their attention; and for the model the mean attention distance of the
    heads, the similarity of positions and the principal components of the patch filters.

    Args:
        model: a `keras_vit` model.
        images: arrays `(h, w, c)` of any sizes, pixel values 0 to 255.
        path: HTML file to write. It is replaced when the new one is complete.
        image_names: None, or one name for each image.
        title: title of the page; by default the name of the model.

    Returns:
        The path of the file, which opens without a network.

    Raises:
        IsADirectoryError: `path` is a directory.
        ValueError: the model is not a `ViT`, there are no images or another number of
            names, an image has a shape other than `(h, w, c)`, or its pixels are not
            finite.

    Example:

    >>> import keras_vit, numpy as np, pathlib, tempfile
    >>> model = keras_vit.ViT((32, 48, 3), num_layers=2)
    >>> photo = np.random.default_rng(0).integers(0, 256, (60, 80, 3))
    >>> path = pathlib.Path(tempfile.mkdtemp(), "report.html")
    >>> keras_vit.visualize.report(model, [photo], path).name
    'report.html'
    """
    check_vit(model)
    path = pathlib.Path(path)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a directory: pass the path of a file in it, such as "
            f"{path / 'report.html'}."
        )
    originals = [_checked(image, model.input_shape[-1]) for image in images]
    if not originals:
        raise ValueError("A report needs one image or more; received none.")
    names = [f"image {i}" for i, _ in enumerate(originals, 1)]
    if image_names is not None:
        names = [str(name) for name in image_names]
    if len(names) != len(originals):
        raise ValueError(f"{len(originals)} images have {len(names)} image_names.")
    page = _Page(model, originals, names)
    return write_page(path, title or model.name, page.sections())


def _checked(image, channels):
    """Return the pixels of an image, float32; raise if the model cannot take them."""
    if isinstance(image, str | os.PathLike):
        raise ValueError(
            f"A report needs arrays of pixels; received the path {os.fspath(image)!r}. "
            "Read the file first, or use the command keras-vit report, which takes files."
        )
    pixels = np.asarray(image, "float32")
    if pixels.ndim != 3 or pixels.shape[-1] != channels or not pixels.size:
        raise ValueError(
            f"Each image must have shape (height, width, {channels}), with the channels "
            f"of the model; received shape {pixels.shape}. A gray image (height, width) "
            f"needs np.repeat(image[..., None], {channels}, axis=-1)."
        )
    if not np.isfinite(pixels).all():
        raise ValueError("An image has pixels that are not finite (NaN or infinity).")
    return pixels


class _Page:
    """Sections of the report, each a method that returns HTML."""

    def __init__(self, model, originals, names):
        self.model, self.names = model, names
        inputs = [
            ops.convert_to_numpy(model.preprocessor(image[None])) for image in originals
        ]
        self.inputs = np.concatenate(inputs)
        scale = np.asarray(model.preprocessor.std), np.asarray(model.preprocessor.mean)
        # The pixels that the model sees: resized and cropped.
        self.pixels = pictures.to_bytes(
            pictures.to_rgb(self.inputs * scale[0] + scale[1])
        )
        depth, self.batch_size = len(blocks_of(model)), _batch_size(model)
        self.maps, self.distances = self._attention()
        self.colored = sorted({depth // 3, 2 * depth // 3, depth - 1})
        self.shown = sorted({0, depth // 2, depth - 1})
        blocks = sorted({*self.colored, *self.shown})
        grids = grid_features(model, self.inputs, blocks)
        self.features = dict(zip(blocks, grids, strict=True))

    def sections(self):
        yield self._summary()
        yield self._images()
        yield self._heads()
        if (stem := stem_of(self.model)) is not None:
            yield self._soft_splits(stem.tokens)
        yield self._distance()
        if _has_positions(self.model):
            yield self._positions()
        if has_filters(self.model):
            yield self._filters()
        yield self._components()
        yield self._channels()

    def _attention(self):
        """Return the maps of all heads, and the mean distances over which they attend.

        The weights of all images together may not fit in memory.
        """
        model, maps, distances = self.model, [], []
        patch_size = model.input_shape[1] / model.grid_shape[0]
        for start in range(0, len(self.inputs), self.batch_size):
            images = self.inputs[start : start + self.batch_size]
            weights = attention_weights(model, images, batch_size=self.batch_size)
            maps.append(head_maps(weights, model))
            distance = mean_attention_distance(
                weights, model.grid_shape, patch_size, model.num_prefix_tokens
            )
            distances += [distance] * len(images)
        return np.concatenate(maps), np.mean(distances, axis=0)

    def _summary(self):
        model, (height, width, _) = self.model, self.model.input_shape[1:]
        gh, gw = model.grid_shape
        rows = {
            "model": f"{type(model).__name__} {model.name}",
            "parameters": f"{model.count_params():,}",
            "image": f"{height} x {width} pixels",
            "tokens": f"{gh} x {gw} patches, {model.num_prefix_tokens} in front of them",
            "blocks": f"{len(blocks_of(model))}",
        }
        cells = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(text)}</td></tr>"
            for name, text in rows.items()
        )
        return f"<table>{cells}</table>"

    def _images(self):
        one = "the class token" if has_class_token(self.model) else "the average patch"
        about = (
            f"Left: the image as the model sees it. Last block: the patches that {one} "
            "attends to, as the mean over the heads. Rollout: the contribution of each "
            "patch to the result through all blocks, from attention alone."
        )
        last = self.maps[:, -1].mean(axis=1)
        rollout = attention_rollout(self.model, self.inputs, self.batch_size)
        views = {"last block": last, "rollout": rollout}
        if self.model.get_config()["include_top"]:
            views["relevance"] = gradient_attention(
                self.model, self.inputs, batch_size=self.batch_size
            )
            about += (
                " Relevance: attention weighted by the gradient of the predicted class."
            )
        best = self._predictions()
        rows = []
        for index, (name, pixels) in enumerate(zip(self.names, self.pixels, strict=True)):
            figures = [figure(picture(pixels), name, f"{name}{best[index]}")]
            for view, maps in views.items():
                shown = pictures.overlay(pixels, maps[index])
                figures.append(figure(picture(shown), f"{view} on {name}", view))
            rows.append(row(figures))
        return section("Where the model looks", about, rows)

    def _predictions(self):
        if not self.model.get_config()["include_top"]:
            return [""] * len(self.inputs)
        scores = in_batches(self.model, self.model, self.inputs, 8)
        names = self.model.get_config()["class_names"]
        if names is None and scores.shape[-1] != 1000:
            names = [str(number) for number in range(scores.shape[-1])]
        best = decode_predictions(scores, min(3, scores.shape[-1]), names)
        return [
            ": " + ", ".join(f"{name} {score:.2f}" for _, name, score in rows)
            for rows in best
        ]

    def _heads(self):
        figures = []
        for name, image in zip(self.names, self.maps, strict=True):
            rows = np.stack([[pictures.colored(head) for head in row] for row in image])
            uri = pictures.data_uri(pictures.png(pictures.sheet(rows), scale=3))
            text = f"attention of every block and head on {name}"
            figures.append(figure(uri, text, name, kind="patches"))
        about = (
            "One row for each block, from the first to the last, and one column for each "
            "head. Each map has its own scale: yellow is the largest attention."
        )
        return section("All heads", about, [whole(figures)])

    def _soft_splits(self, tokens):
        title = "Between the soft splits"
        if tokens in NO_WEIGHTS:
            return section(title, f"No maps. {NO_WEIGHTS[tokens]}", [])
        steps = soft_split_maps(self.model, self.inputs)
        rows = []
        for index, name in enumerate(self.names):
            figures = [figure(picture(self.pixels[index]), name, name)]
            for after, maps in zip(("first", "second"), steps, strict=True):
                shown = pictures.overlay(self.pixels[index], maps[index])
                text = f"attention after the {after} split of {name}"
                figures.append(figure(picture(shown), text, f"{after} split"))
            rows.append(row(figures))
        about = (
            "The mean attention that each token receives in the Transformers after the "
            "first and the second soft split, which have one head each."
        )
        return section(title, about, rows)

    def _distance(self):
        distances = self.distances
        depth = np.repeat(np.arange(len(distances)), distances.shape[1])
        chart = pictures.chart(
            {"heads": (depth, distances.reshape(-1))},
            "block",
            "mean attention distance (pixels)",
        )
        about = (
            "One point for each head: the distance between patches, weighted by the "
            "attention between them. "
            f"The means of the blocks: {_numbers(distances.mean(axis=1))}."
        )
        return section("How far each head looks", about, [chart])

    def _positions(self):
        similarity = position_similarity(self.model)
        rows = np.stack([[pictures.colored(map_) for map_ in row] for row in similarity])
        uri = pictures.data_uri(pictures.png(pictures.sheet(rows)))
        text = "similarity of the position of every patch with all positions"
        shown = figure(uri, text, "", kind="patches")
        rho = similarity_and_distance(similarity)
        about = (
            "The map in row y and column x shows how similar the position of that patch "
            "is to the positions of all patches."
        )
        if np.isfinite(rho):  # There is none if all distances are equal.
            about += f" Rank correlation of similarity with distance: {rho:.3f}."
        return section("Positions", about, [whole([shown])])

    def _filters(self):
        filters = patch_filters(self.model, 28)
        scaled = [pictures.to_bytes(255 * pictures.to_unit_range(f)) for f in filters]
        shown = pictures.to_rgb(np.stack(scaled))
        columns = min(14, len(shown))
        shown = shown[: len(shown) // columns * columns]
        uri = pictures.data_uri(
            pictures.png(
                pictures.sheet(shown.reshape(-1, columns, *shown.shape[1:])), scale=3
            )
        )
        text = f"{len(shown)} principal components of the patch embedding"
        about = (
            "Principal components of the linear embedding of the patches, in descending "
            "order of variance."
        )
        return section("Filters", about, [whole([figure(uri, text, "", "patches")])])

    def _components(self):
        rows = []
        colors = {block: colors_of(self.features[block]) for block in self.colored}
        for index, name in enumerate(self.names):
            figures = [figure(picture(self.pixels[index]), name, name)]
            for block, maps in colors.items():
                uri = picture(pictures.to_bytes(255 * maps[index]))
                text = f"principal components of {name} after block {block}"
                figures.append(figure(uri, text, f"block {block}", kind="patches"))
            rows.append(row(figures))
        about = (
            "The first three principal components of the patches of all images as red, "
            "green and blue: patches of the same color have similar features."
        )
        return section("Features", about, rows)

    def _channels(self):
        figures = []
        for block in self.shown:
            channels = channels_of(self.features[block])
            rows = np.stack([[pictures.colored(c) for c in image] for image in channels])
            uri = pictures.data_uri(pictures.png(pictures.sheet(rows), scale=3))
            text = f"channels of the features after block {block}, one row per image"
            figures.append(figure(uri, text, f"block {block}", kind="patches"))
        about = (
            "The channels with the largest variance, one row for each image, each with "
            "its own scale."
        )
        return section("Channels", about, [whole(figures)])


def _batch_size(model):
    """Return the number of images, 1 to 4, whose weights are computed together."""
    tokens = model.num_prefix_tokens + int(np.prod(model.grid_shape))
    numbers = sum(block.num_heads * tokens**2 for block in blocks_of(model))
    return int(np.clip(_MOST_WEIGHTS // numbers, 1, 4))


def _has_positions(model):
    inside = blocks_of(model)[0].attention.attention_positions()
    return inside is not None or model.get_layer("patch_encoder").positions is not None


def _numbers(values):
    return ", ".join(f"{value:.1f}" for value in values)
