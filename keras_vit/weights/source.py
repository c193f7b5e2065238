"""What the readers of all sources share: from the tensors of a file to weights.

A source says what its file implies (`infer_config`), and which tensors the weights of a
model are made of (`pieces`). Everything else is the same for all and stands here: the
comparison of the two sides, heads, positions, patches and channels of another size.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, NamedTuple

import numpy as np

from keras_vit.layers.resize import resize_positions
from keras_vit.weights.patch_kernels import adapt_channels, resize_patches
from keras_vit.weights.strict import announce_zeros, check_tensors, check_values
from keras_vit.weights.tensor_file import TensorFile

POSITIONS = "patch_encoder/positions/embedding"
PROJECTION = "patch_encoder/projection/kernel"
STEM_ROOT = "stem/root/kernel"

HEAD_PATHS = ("pre_logits/", "classifier/", "distillation_classifier/")


class Piece(NamedTuple):
    """A weight of the model, and the tensors of the file that it is made of.

    Attributes:
        path: of the weight.
        names: of the tensors; more than one are joined along the last axis, and none
            are zeros: a bias that the source's network does without.
        shape: of each tensor.
        stored_shape: of its part of the weight.
        axes: None, or the order in which the tensor's axes come in the weight.
    """

    path: str
    names: tuple[str, ...]
    shape: tuple[int, ...]
    stored_shape: tuple[int, ...]
    axes: tuple[int, ...] | None = None

    def read(self, read: Callable[[str], np.ndarray]) -> np.ndarray:
        """The weight."""
        if not self.names:
            return np.zeros(self.stored_shape, "float32")
        arrays = [read(name).reshape(self.shape) for name in self.names]
        if self.axes is not None:
            arrays = [array.transpose(self.axes) for array in arrays]
        arrays = [array.reshape(self.stored_shape) for array in arrays]
        return arrays[0] if len(arrays) == 1 else np.concatenate(arrays, axis=-1)


class Source:
    """A checkpoint of one kind.

    Args:
        file: the opened file.

    Attributes:
        path: str, the file.
        shapes: dict from name to shape, of the tensors that a model can use.
        activation, layer_norm_epsilon: what the network was trained with.
        num_heads: of the network, where the source tells; else None.
        image_size: height and width that it was trained with, where the source tells.
        resize: the source's own convention for positions on another grid.
        published: whether the file was downloaded by its name in
            `keras_vit.checkpoints()`, so that its network is known.
        stem_stride: pixels from one position of what is cut into patches to the next.
        may_resize_patches: whether a model may have patches of another size.
    """

    kind: ClassVar[str]
    # Tensors of the head, by the beginnings of their names.
    head_names: tuple[str, ...] = ()
    # Constructor arguments that this kind of file knows only with these values.
    possible: ClassVar[dict[str, tuple]] = {}

    activation = "gelu"
    layer_norm_epsilon = 1e-6
    num_heads: int | None = None
    # Heads by width, in all published sizes.
    published_heads: ClassVar[dict[int, int]] = {}
    image_size: tuple[int, int] | None = None
    resize = "google"
    published = False
    # Pixels from one position of the map that is cut into patches to the next.
    stem_stride = 1
    # Only where a caller has asked for another patch size than the file's.
    may_resize_patches = False

    def __init__(self, file: TensorFile):
        self.file = file
        self.path = file.path
        self.shapes = dict(file.shapes)

    # What a source says.

    @functools.cached_property
    def preprocessing(self) -> dict[str, Any]:
        """Arguments of `Preprocessor`; only asked for where the caller gives none.

        Raises:
            ValueError: the source states preprocessing that `Preprocessor` does not do.
        """
        return {}

    def class_names(self, classes: int) -> list[str] | None:
        """Return the names of the classes, or None if the source has none.

        Raises:
            ValueError: the source has another number of names than `classes`.
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
                f"The configuration beside {self.path} names {len(names)} classes, and "
                f"its classifier has {classes}. Pass class_names=... with the right "
                "names, or class_names=None for none."
            )
        if names == [f"LABEL_{index}" for index in range(classes)]:
            return None  # transformers' placeholders.
        return names

    def _labels(self):
        """Return a sequence of class names, or a dict from index to name, or None."""
        return None

    def check(self) -> None:
        """Raises a `ValueError` where tensors are missing that everything hangs on."""
        raise NotImplementedError

    def infer_config(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments of the model, as far as the file tells them.

        Args:
            overrides: arguments that the caller gives; they may settle what the file
                leaves open.

        Raises:
            ValueError: neither the file nor the caller tells the number of heads.
        """
        raise NotImplementedError

    def pieces(self, config: dict[str, Any]) -> list[Piece]:
        """The tensors that a model with this configuration needs.

        Args:
            config: dict, the constructor's arguments with `class_token` resolved;
                `patch_size` and channels are the file's; `position_rows` more.
        """
        raise NotImplementedError

    def num_position_rows(self) -> int | None:
        """Rows of the table of positions; None where there is no table."""
        raise NotImplementedError

    def position_prefixes(self) -> tuple[int, ...]:
        """How many rows may stand before those of the grid, likeliest first."""
        raise NotImplementedError

    def patches(self) -> tuple[int, int]:
        """Patch size and input channels of the file."""
        raise NotImplementedError

    def read(self, read: Callable[[str], np.ndarray], name: str) -> np.ndarray:
        """The array of one of `shapes`."""
        return read(name)

    # What is the same for all.

    def not_honored(self, path: str, what: list[str]) -> ValueError:
        """Return the error that preprocessing is stated that `Preprocessor` lacks."""
        return ValueError(
            f"{path} is not understood: it asks for preprocessing that keras_vit does "
            f"not do ({', '.join(what)}). Pass the one that you want instead: "
            "preprocessor=keras_vit.layers.Preprocessor(...)."
        )

    def not_of_this_kind(self, wrong: list[str]) -> ValueError:
        """The error that tensors are missing or of a wrong rank, to be raised."""
        return ValueError(
            f"{self.path} is not a {self.kind} checkpoint. These tensors are missing or "
            f"of a wrong rank: {', '.join(wrong)}. It has {len(self.shapes)}: "
            f"{', '.join(sorted(self.shapes)[:5])}, ..."
        )

    def check_ranks(self, ranks: dict[str, int], optional: dict[str, int]) -> None:
        """Raises a `ValueError` unless these tensors are there, with these ranks."""
        ranks = ranks | {n: rank for n, rank in optional.items() if n in self.shapes}
        wrong = [
            f"{name} {self.shapes.get(name, '(not there)')}"
            for name, rank in ranks.items()
            if len(self.shapes.get(name, ())) != rank or 0 in self.shapes[name]
        ]
        if wrong:
            raise self.not_of_this_kind(wrong)

    def position_grid(
        self,
        target: tuple[int, int] | None = None,
        source_grid_shape: tuple[int, int] | None = None,
        class_token_position: bool | None = None,
    ) -> tuple[int, tuple[int, int] | None]:
        """What the rows of the file's positions are, which no file tells.

        Args:
            target: None, or the grid of the model.
            source_grid_shape: None, or what the caller says it is.
            class_token_position: None, or whether rows stand before those of the grid.

        Returns:
            Number of rows before the grid, and the grid; None where nothing tells it.

        Raises:
            ValueError: two grids are possible; or what the caller says is not.
        """
        rows = self.num_position_rows()
        if rows is None:
            return 0, None
        prefixes = list(dict.fromkeys(p for p in self.position_prefixes() if p < rows))
        if not prefixes:
            raise ValueError(
                f"The positions in {self.path} have {rows} rows: none is left for the "
                "grid."
            )
        if class_token_position is not None and any(self.position_prefixes()):
            # What the caller says comes first, and the rest only where that cannot be.
            prefixes.sort(key=lambda prefix: (prefix > 0) != class_token_position)
        first = prefixes[0]
        if source_grid_shape is None and self.image_size is not None:
            patch, _ = self.patches()
            gh, gw = (size // patch for size in self.image_size)
            if gh * gw in [rows - prefix for prefix in prefixes]:
                source_grid_shape = gh, gw
        if source_grid_shape is not None:
            gh, gw = source_grid_shape
            for prefix in prefixes:
                if gh * gw == rows - prefix:
                    return prefix, (gh, gw)
            raise ValueError(
                f"source_grid_shape={tuple(source_grid_shape)} has {gh * gw} "
                f"positions; {self.path} has {rows - first}."
            )
        found = []
        for prefix in prefixes:
            side = math.isqrt(rows - prefix)
            square = (side, side) if side * side == rows - prefix else None
            fits = target if target and math.prod(target) == rows - prefix else None
            if square and fits and square != fits:
                raise ValueError(
                    f"The {rows - prefix} positions of {self.path} may be a grid of "
                    f"{square} or of {fits}: say which with "
                    "source_grid_shape=(rows, columns)."
                )
            if square or fits:
                found.append((prefix, square or fits))
                if class_token_position is not None:
                    break
        if len(found) > 1:
            (prefix, grid), (other, other_grid), *_ = found
            warnings.warn(
                f"The {rows} rows of positions of {self.path} are taken for {prefix} of "
                f"prefix tokens and a grid of {grid}. Were they {other} and a grid of "
                f"{other_grid}, source_grid_shape={other_grid} would say so.",
                stacklevel=6,
            )
        return found[0] if found else (first, None)

    def heads(self, overrides: dict[str, Any], width: int) -> int:
        """The number of attention heads, of which no tensor tells.

        Args:
            overrides: what the caller says.
            width: of the tokens.

        Raises:
            ValueError: neither the caller, nor the source, nor its published sizes do.
        """
        published = self.published_heads.get(width)
        num_heads = overrides.get("num_heads") or self.num_heads or published
        if num_heads is None:
            raise ValueError(
                f"Nothing in {self.path} tells the number of attention heads, no "
                f"config.json beside it does, and no published size has the width "
                f"{width}: pass num_heads=..."
            )
        return num_heads

    def square_input_shape(self, overrides: dict[str, Any]) -> dict[str, Any]:
        """What the table of positions tells: `input_shape`, `class_token_position`."""
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
        """Compares the file with a model, and then reads it weight by weight.

        Args:
            config: dict, the constructor's arguments with `class_token` resolved, and
                `grid_shape`.
            head: `"keep"`, or `"new"` to leave the file's head aside.
            resize: name of the convention for positions; None for the source's own.
            source_grid_shape: `(gh, gw)` of the file's positions, where they do not
                tell.
            check_finite: bool, whether NaN and infinity are errors.

        Returns:
            Iterator of weight paths and float32 arrays; without the head where it is
            not taken from the file.

        Raises:
            ValueError: at once: the tensors are not exactly those that the model needs.
                While reading: the file is damaged or has entries that are not finite.
        """
        self._check_config(config)
        patch, channels = self.patches()
        if patch != config["patch_size"] and not self.may_resize_patches:
            raise ValueError(
                f"{self.path} has patches of {patch}x{patch}, the model of "
                f"{config['patch_size']}x{config['patch_size']}: use patch_size={patch}. "
                "Or keras_vit.load_checkpoint(path, patch_size=...) resizes them."
            )
        keep_head = config["include_top"] and head == "keep"
        shapes = self.shapes
        if not keep_head:
            shapes = {
                name: shape
                for name, shape in shapes.items()
                if not name.startswith(self.head_names)
            }
        height, width, wanted_channels = config["input_shape"]
        as_in_file = {
            **config,
            "patch_size": patch,
            "input_shape": (height, width, channels),
            # Any number of positions may be resized, of whatever grid they are.
            "position_rows": self.num_position_rows(),
        }
        pieces = [
            piece
            for piece in self.pieces(as_in_file)
            if keep_head or not piece.path.startswith(HEAD_PATHS)
        ]
        check_tensors(
            self.path,
            {name: piece.shape for piece in pieces for name in piece.names},
            shapes,
            "keras_vit.load_checkpoint(path) builds the model that fits the file; "
            "head='new' replaces its head, for other classes.",
        )
        prefix, grid = self.position_grid(
            config["grid_shape"], source_grid_shape, config["class_token_position"]
        )
        has_rows = prefix > 0
        if config["positions"] == "learned":
            if grid is None:
                rows = self.num_position_rows() or 0
                raise ValueError(
                    f"The {rows - prefix} positions of {self.path} are no square, and "
                    f"the model's grid is {config['grid_shape']}: name theirs "
                    "with source_grid_shape=(rows, columns)."
                )
            if config["class_token"] and has_rows != config["class_token_position"]:
                raise ValueError(
                    f"The positions in {self.path} have "
                    f"{'a row' if has_rows else 'no row'} for the class token: use "
                    f"class_token_position={has_rows}."
                )

        def read_all():
            register_positions: np.ndarray | None = None
            with self.file.reader() as read:
                for piece in pieces:
                    array = piece.read(lambda name: self.read(read, name))
                    if check_finite:
                        check_values(self.path, " + ".join(piece.names), array)
                    if piece.path == STEM_ROOT and channels != wanted_channels:
                        array = adapt_channels(array, wanted_channels)
                    if piece.path == PROJECTION:
                        array = self._adapt_projection(array, config)
                    if piece.path == POSITIONS and grid is not None:
                        own = prefix and _num_token_positions(config)
                        register_positions = array[:, own:prefix]
                        array = np.concatenate(
                            [array[:, :own], array[:, prefix:]], axis=1
                        )
                        if grid != config["grid_shape"]:
                            array = resize_positions(
                                array, grid, config["grid_shape"], resize or self.resize
                            )
                    if (
                        piece.path == "patch_encoder/registers"
                        and register_positions is not None
                        and register_positions.shape[1]
                    ):
                        # A free vector and its position are one free vector.
                        array = array + register_positions
                    if piece.path == "classifier/kernel":
                        announce_zeros(self.path, array)
                    yield piece.path, array

        return read_all()

    def _check_config(self, config):
        for argument, possible in self.possible.items():
            if config[argument] not in possible:
                raise ValueError(
                    f"{self.path} is a {self.kind} checkpoint, which goes with "
                    f"{argument}={' or '.join(map(repr, possible))}; received "
                    f"{config[argument]!r}."
                )
        for argument in ("num_heads", "activation", "layer_norm_epsilon"):
            if getattr(self, argument) not in (None, config[argument]):
                warnings.warn(
                    f"{self.path} was trained with {argument}="
                    f"{getattr(self, argument)!r}; the model has {config[argument]!r} "
                    "and will give other outputs.",
                    stacklevel=5,
                )

    def _adapt_projection(self, kernel, config):
        patch, channels = self.patches()
        target, wanted = config["patch_size"], config["input_shape"][-1]
        width = kernel.shape[-1]
        kernel = kernel.reshape(patch, patch, -1, width)
        if config["stem"] is None and wanted != channels:
            kernel = adapt_channels(kernel, wanted)
        if target != patch:
            kernel = resize_patches(kernel, target)
        return kernel.reshape(-1, width)


def _num_token_positions(config):
    return int(config["class_token"]) + int(config["distillation_token"])
