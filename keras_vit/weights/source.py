"""Base class of all checkpoint sources: conversion of tensors to weights.

Each library that writes checkpoints has a subclass of `Source`. The subclass infers the
configuration of the model from the file (`infer_config`) and maps the tensors of the file
to the weights of the model (`pieces`). The base class does everything that the sources
have in common: it compares the file with the model, and adapts position embeddings,
patches and channels to other sizes.
"""

import functools
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from keras_vit.layers.relative_positions import RelativePositionBias
from keras_vit.layers.resize import resize_positions
from keras_vit.weights.checks import (
    announce_zeros,
    check_config,
    check_positions,
    check_tensors,
    check_values,
)
from keras_vit.weights.patch_kernels import adapt_channels, adapt_projection
from keras_vit.weights.pieces import (
    BIAS_TABLE,
    HEAD_PATHS,
    POSITIONS,
    PROJECTION,
    STEM_ROOT,
    Piece,
)
from keras_vit.weights.position_grids import guessed_grid
from keras_vit.weights.tensor_file import TensorFile

# Arguments of a plain ViT that change the outputs, and leave few traces in the tensors.
_PLAIN = {
    "norm": ("layer",),
    "mlp": ("plain",),
    "attention": (None,),
    "block": ("pre_norm",),
    "embedding_norm": (None,),
    "classifier": (None,),
}


class Source:
    """Base class of checkpoint sources.

    Args:
        file: the opened file.

    Attributes:
        path: str, path of the file.
        shapes: dict from name to shape of the tensors that a model can use.
        activation, layer_norm_epsilon: settings that the network was trained with.
        num_heads: int, number of attention heads, or None if the source does not state
            it.
        image_size: height and width of the training images, or None if the source does
            not state them.
        resize: str, the library's own convention for resizing position embeddings.
        published: bool, whether the file was downloaded by its name in
            `keras_vit.checkpoints()`, so that its architecture is known.
        stem_stride: int, stride of the stem in pixels; 1 without a stem.
        has_default_pixels: bool, whether all files of this kind have the default
            preprocessing. Otherwise it is unknown if `preprocessing` is empty.
        may_resize_patches: bool, whether a model may use another patch size than the
            file.
    """

    kind: ClassVar[str]
    # Prefixes of the names of the head's tensors.
    head_names: tuple[str, ...] = ()
    # Constructor arguments, with the values that this kind of checkpoint supports. Those
    # of a modern network must have the values of a plain ViT unless they are listed.
    possible: Mapping[str, tuple] = types.MappingProxyType({})

    activation = "gelu"
    layer_norm_epsilon = 1e-6
    num_heads: int | None = None
    # Number of attention heads by `hidden_dim`, for all published sizes.
    published_heads: ClassVar[dict[int, int]] = {}
    image_size: tuple[int, int] | None = None
    resize = "google"
    published = False
    stem_stride = 1
    has_default_pixels = False
    may_resize_patches = False

    def __init__(self, file: TensorFile):
        self.file = file
        self.path = file.path
        self.shapes = dict(file.shapes)

    # Methods that subclasses implement or override.

    @functools.cached_property
    def preprocessing(self) -> dict[str, Any]:
        """Arguments of `Preprocessor` that the source states or its published files have.

        The property is evaluated only if the caller passes no preprocessor, so that an
        unsupported configuration raises an error only when it is needed.

        Raises:
            ValueError: if the source states preprocessing that `Preprocessor` does not
                support.
        """
        return {}

    def class_names(self, classes: int) -> list[str] | None:
        """Return the names of the classes, or None if the source has none.

        Args:
            classes: int, number of classes.

        Raises:
            ValueError: if the number of names is not `classes`.
        """
        labels = self._labels()
        if not labels:
            return None
        if isinstance(labels, dict):
            indexed = {int(index): str(name) for index, name in labels.items()}
            complete = sorted(indexed) == list(range(classes))
            names = [indexed[index] for index in sorted(indexed)]
        else:
            names = [str(name) for name in labels]
            complete = len(names) == classes
        if not complete:
            raise ValueError(
                f"The configuration beside {self.path} names {len(names)} classes, but "
                f"its classifier has {classes}. Pass class_names=... with the right "
                "names, or class_names=None for none."
            )
        if names == [f"LABEL_{index}" for index in range(classes)]:
            return None  # Placeholders of transformers.
        return names

    def _labels(self):
        """Return a sequence of class names, or a dict from index to name, or None."""
        return None

    def check(self) -> None:
        """Raise a `ValueError` if a tensor that `infer_config` needs is missing."""
        raise NotImplementedError

    def infer_config(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Return the constructor arguments of the model that the file implies.

        Args:
            overrides: dict of arguments that the caller passes. They resolve what the
                file leaves open.

        Raises:
            ValueError: if neither the file nor the caller determines an argument, such as
                the number of heads.
        """
        raise NotImplementedError

    def pieces(self, config: dict[str, Any]) -> list[Piece]:
        """Return the tensors that a model with this configuration needs.

        Args:
            config: dict of constructor arguments as `keras_vit.models.arguments.resolve`
                returns them, with the patch size and the channels of the file, and with
                the additional entries `position_rows`, the number of rows in the table of
                position embeddings, and `table_grid`.
        """
        raise NotImplementedError

    def unused_names(self, config: dict[str, Any]) -> tuple[str, ...]:
        """Return the prefixes of tensors that a model with this config does not use."""
        return ()

    def num_position_rows(self) -> int | None:
        """Return the number of rows in the table of position embeddings.

        Returns:
            int, or None if the file has no table.
        """
        raise NotImplementedError

    def table_grid(self) -> tuple[int, int] | None:
        """Return the grid of the tables of relative positions in the blocks.

        Returns:
            `(gh, gw)`, or None if the file has no such tables.
        """
        return None

    def resized_positions(
        self,
        table: np.ndarray,
        grid: tuple[int, int],
        target: tuple[int, int],
        resize: str,
    ) -> np.ndarray:
        """Resize a table of position embeddings like the library.

        Args:
            table: array `(1, prefix + gh * gw, d)`.
            grid: `(gh, gw)` of the table.
            target: grid of the result.
            resize: name of the convention, see `keras_vit.layers.resize_grid`.
        """
        return resize_positions(table, grid, target, resize)

    def position_prefixes(self) -> tuple[int, ...]:
        """Return the possible numbers of rows for prefix tokens, most likely first."""
        raise NotImplementedError

    def patches(self) -> tuple[int, int]:
        """Return the patch size and the number of input channels of the file."""
        raise NotImplementedError

    def read(self, read: Callable[[str], np.ndarray], name: str) -> np.ndarray:
        """Return the array of a tensor.

        Args:
            read: function from the name of a tensor in the file to its array.
            name: key of `shapes`.
        """
        return read(name)

    # Methods that all sources share.

    def not_honored(self, path: str, what: list[str]) -> ValueError:
        """Return the error to raise for preprocessing that `Preprocessor` lacks.

        Args:
            path: path of the configuration, for the message.
            what: list of the unsupported entries.
        """
        return ValueError(
            f"{path} describes preprocessing that keras_vit does not support "
            f"({', '.join(what)}). Pass preprocessor=keras_vit.layers.Preprocessor(...) "
            "instead."
        )

    def check_ranks(self, ranks: dict[str, int], optional: dict[str, int]) -> None:
        """Raise a `ValueError` unless tensors exist and have the given ranks.

        Args:
            ranks: dict from name to rank of the required tensors.
            optional: dict from name to rank of tensors that may be missing.
        """
        ranks = ranks | {n: rank for n, rank in optional.items() if n in self.shapes}
        wrong = [
            f"{name} {self.shapes.get(name, '(not there)')}"
            for name, rank in ranks.items()
            if len(self.shapes.get(name, ())) != rank or 0 in self.shapes[name]
        ]
        if wrong:
            raise ValueError(
                f"{self.path} is not a {self.kind} checkpoint. These tensors are missing "
                f"or of a wrong rank: {', '.join(wrong)}. It has {len(self.shapes)} "
                f"tensors: {', '.join(sorted(self.shapes)[:5])}, ..."
            )

    def position_grid(
        self,
        target: tuple[int, int] | None = None,
        source_grid_shape: tuple[int, int] | None = None,
        class_token_position: bool | None = None,
    ) -> tuple[int, tuple[int, int] | None]:
        """Infer the meaning of the rows in the table of position embeddings.

        A table has one row for each prefix token that has a position, followed by one row
        for each patch. Files state neither the number of prefix rows nor the shape of the
        grid.

        Args:
            target: grid shape of the model, or None.
            source_grid_shape: grid shape that the caller states, or None.
            class_token_position: bool, whether the caller states that the table has
                prefix rows, or None.

        Returns:
            Number of prefix rows, and the grid shape, or None if it is unknown.

        Raises:
            ValueError: if two grid shapes are possible, or the one that the caller states
                is not.
        """
        rows = self.num_position_rows()
        if rows is None:
            return 0, None
        prefixes = list(dict.fromkeys(p for p in self.position_prefixes() if p < rows))
        if not prefixes:
            raise ValueError(
                f"The position embeddings in {self.path} have only {rows} rows, which "
                "leaves none for the grid."
            )
        if class_token_position is not None and any(self.position_prefixes()):
            # Try what the caller states first.
            prefixes.sort(key=lambda prefix: (prefix > 0) != class_token_position)
        if source_grid_shape is None and self.image_size is not None:
            patch, _ = self.patches()
            side = patch * self.stem_stride
            gh, gw = (size // side for size in self.image_size)
            if gh * gw in [rows - prefix for prefix in prefixes]:
                source_grid_shape = gh, gw
        if source_grid_shape is not None:
            gh, gw = source_grid_shape
            for prefix in prefixes:
                if gh * gw == rows - prefix:
                    return prefix, (gh, gw)
            raise ValueError(
                f"source_grid_shape={tuple(source_grid_shape)} has {gh * gw} "
                f"positions; {self.path} has {rows - prefixes[0]}."
            )
        return guessed_grid(
            self.path, rows, prefixes, target, class_token_position is not None
        )

    def heads(self, overrides: dict[str, Any], width: int) -> int:
        """Return the number of attention heads, which no tensor shows.

        Args:
            overrides: dict of arguments that the caller passes.
            width: int, width of the tokens.

        Raises:
            ValueError: if neither the caller, nor the source, nor the table of published
                sizes determines the number.
        """
        published = self.published_heads.get(width)
        num_heads = overrides.get("num_heads") or self.num_heads or published
        if num_heads is None:
            raise ValueError(
                f"The number of attention heads of {self.path} is unknown: no tensor "
                f"shows it, no config.json beside the file states it, and no published "
                f"size has width {width}. Pass num_heads=..."
            )
        return num_heads

    def square_input_shape(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Infer `input_shape` and `class_token_position` from the position embeddings.

        Args:
            overrides: dict of arguments that the caller passes.

        Returns:
            Dict of those of the two arguments that can be inferred.
        """
        patch, channels = self.patches()
        side = patch * self.stem_stride
        target = None
        if "input_shape" in overrides:
            target = tuple(size // side for size in overrides["input_shape"][:2])
        prefix, grid = self.position_grid(
            target,
            overrides.get("source_grid_shape"),
            overrides.get("class_token_position"),
        )
        config: dict[str, Any] = {}
        if any(self.position_prefixes()):
            config["class_token_position"] = prefix > 0
        if grid is not None:
            config["input_shape"] = (grid[0] * side, grid[1] * side, channels)
        return config

    def values(
        self,
        config: dict[str, Any],
        head: str = "keep",
        resize: str | None = None,
        source_grid_shape: tuple[int, int] | None = None,
        check_finite: bool = True,
    ) -> Iterator[tuple[str, np.ndarray]]:
        """Check the file against a model config, then read it weight by weight.

        Args:
            config: dict of constructor arguments, as `keras_vit.models.arguments.resolve`
                returns them.
            head: `"keep"`, or `"new"` to ignore the head in the file.
            resize: str, convention for resizing the position embeddings, or None for the
                convention of the source.
            source_grid_shape: `(gh, gw)` of the position embeddings in the file, or None
                to infer it.
            check_finite: bool, whether to raise an error for NaN or infinite values.

        Returns:
            Iterator over pairs of weight path and float32 array. Weights of the head are
            included only if the head is read from the file.

        Raises:
            ValueError: immediately, if the tensors are not exactly those that the model
                needs; during iteration, if the file is damaged or has values that are not
                finite.
        """
        self._check_config(config)
        pieces = self._compared_pieces(config, head)
        prefix, grid = self.position_grid(
            config["grid_shape"], source_grid_shape, config["class_token_position"]
        )
        if config["added_positions"] == "learned":
            rows = self.num_position_rows() or 0
            check_positions(self.path, config, rows, prefix, grid)
        return self._read_all(
            pieces, config, prefix, grid, resize or self.resize, check_finite
        )

    def _compared_pieces(self, config, head):
        """Return the pieces of a model after comparing them with the tensors."""
        patch, channels = self.patches()
        if patch != config["patch_size"] and not self.may_resize_patches:
            raise ValueError(
                f"{self.path} has patches of {patch}x{patch}, the model of "
                f"{config['patch_size']}x{config['patch_size']}: use patch_size={patch}. "
                "Or keras_vit.load_checkpoint(path, patch_size=...) resizes them."
            )
        as_in_file = {
            **config,
            "patch_size": patch,
            "input_shape": (*config["input_shape"][:2], channels),
            # The position embeddings are resized later, so any number of rows is allowed.
            "position_rows": self.num_position_rows(),
            "table_grid": self.table_grid(),
        }
        unused = self.unused_names(config)
        shapes = {n: s for n, s in self.shapes.items() if not n.startswith(unused)}
        return self._matched(self.pieces(as_in_file), shapes, config, head)

    def _matched(self, pieces, shapes, config, head):
        """Compare pieces with tensors, both without a head that is not read.

        Args:
            pieces: list of the pieces of the model.
            shapes: dict from name to shape of the tensors.
            config: dict of constructor arguments.
            head: as for `values`.

        Returns:
            The pieces to read.
        """
        if not config["include_top"] or head != "keep":
            pieces = [p for p in pieces if not p.path.startswith(HEAD_PATHS)]
            shapes = {
                n: s for n, s in shapes.items() if not n.startswith(self.head_names)
            }
        check_tensors(
            self.path,
            {name: piece.shape for piece in pieces for name in piece.tensors},
            shapes,
            "keras_vit.load_checkpoint(path) builds the model that fits the file; "
            "head='new' replaces its head, for other classes.",
        )
        return pieces

    def _read_all(self, pieces, config, prefix, grid, resize, check_finite):
        """Yield the path and the value of every weight, adapted to the model."""
        patch, channels = self.patches()
        wanted_channels = config["input_shape"][2]
        register_positions: Any = 0
        with self.file.reader() as read:
            for piece in pieces:
                array = piece.read(lambda name: self.read(read, name))
                if check_finite:
                    check_values(self.path, " + ".join(piece.tensors), array)
                if piece.path == STEM_ROOT and channels != wanted_channels:
                    array = adapt_channels(array, wanted_channels)
                elif piece.path == PROJECTION:
                    # A stem's features are the same for any image channels.
                    new_channels = wanted_channels if config["stem"] is None else None
                    array = adapt_projection(
                        array, patch, config["patch_size"], new_channels
                    )
                elif piece.path == POSITIONS and grid is not None:
                    tokens = config["class_token"] + config["distillation_token"]
                    tokens = min(prefix, tokens)
                    if tokens < prefix:
                        register_positions = array[:, tokens:prefix]
                    array = np.concatenate([array[:, :tokens], array[:, prefix:]], axis=1)
                    if grid != config["grid_shape"]:
                        array = self.resized_positions(
                            array, grid, config["grid_shape"], resize
                        )
                elif piece.path.endswith(BIAS_TABLE):
                    array = self._resized_table(array, config)
                elif piece.path == "patch_encoder/registers":
                    # The model adds no position embeddings to its registers. As both are
                    # free parameters, they can be added up here.
                    array = array + register_positions
                elif piece.path == "classifier/kernel":
                    announce_zeros(self.path, array)
                yield piece.path, array

    def _resized_table(self, array, config):
        """Resize a table of relative positions to the grid of the model."""
        source, prefix = self.table_grid(), config["num_prefix_tokens"]
        positions = RelativePositionBias(config["grid_shape"], prefix)
        return positions.resized_tables({"table": array}, source, "")["table"]

    def _check_config(self, config):
        """Check that the model's configuration is one that the source supports."""
        what = f"{self.path} is a {self.kind} checkpoint"
        if "patch_size" not in config:
            raise ValueError(
                f"{what}, not one of a ResNet: keras_vit.load_checkpoint builds the "
                "model that fits."
            )
        check_config(what, config, {**_PLAIN, **self.possible}, self._trained())

    def _trained(self) -> dict[str, Any]:
        """Return settings of the training that no tensor shows; None if unknown."""
        settings = ("num_heads", "activation", "layer_norm_epsilon")
        return {argument: getattr(self, argument) for argument in settings}
