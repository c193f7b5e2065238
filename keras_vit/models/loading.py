"""The `weights=` argument of models: which file, and how it is loaded."""

import os
from typing import Any

from keras_vit.layers.resize import RESIZE_CONVENTIONS
from keras_vit.models.arguments import check_choice
from keras_vit.weights.download import fetch_checkpoint
from keras_vit.weights.h5 import load_own_weights
from keras_vit.weights.opening import open_checkpoint
from keras_vit.weights.source import HEAD_PATHS, Source
from keras_vit.weights.strict import assign

HEADS = ("keep", "new", "drop")


class WeightLoader:
    """Loads a checkpoint into a model that has been built.

    The constructor checks the arguments and opens nothing.

    Args:
        weights: as for `ViT`, or a `Source`, which is open already.
        head, resize, source_grid_shape, check_finite: as for `ViT`.

    Raises:
        ValueError: an unknown `head` or `resize`, or arguments that do not go together.
    """

    def __init__(
        self,
        weights: str | os.PathLike | Source | None,
        head: str,
        resize: str | None,
        source_grid_shape: tuple[int, int] | None,
        check_finite: bool,
    ):
        check_choice("head", head, HEADS)
        if resize is not None:
            check_choice("resize", resize, RESIZE_CONVENTIONS)
        self.weights: Any = weights
        self.head = head
        self._is_own = isinstance(weights, str | os.PathLike) and os.fspath(
            weights
        ).endswith(".weights.h5")
        self._how: dict[str, Any] = {
            "head": head,
            "resize": resize,
            "source_grid_shape": source_grid_shape,
            "check_finite": check_finite,
        }
        how = f"head={head!r}, resize={resize!r} and {source_grid_shape=}"
        if weights is None and (head != "keep" or resize or source_grid_shape):
            raise ValueError(
                f"{how} say how a checkpoint is loaded; received weights=None."
            )
        if self._is_own and (head == "new" or resize or source_grid_shape):
            raise ValueError(
                f"{how} do not go with .weights.h5, which has no model in it: save the "
                "model as .keras, and use load_checkpoint."
            )
        self._source: Source | None = None
        self._values: Any = None

    def compare(self, config: dict[str, Any]) -> None:
        """Compare an open checkpoint with a model that is about to be built.

        The size of a model that `load_checkpoint` builds comes from the file: without
        this check a damaged file could exhaust the memory. Names and paths are not
        opened here; `load` compares them.

        Args:
            config: the model's `resolved_config()`.

        Raises:
            ValueError: the tensors are not exactly those that the model needs.
        """
        if isinstance(self.weights, Source):
            self._source = self.weights
            self._values = self._source.values(config, **self._how)

    def load(self, model: Any) -> None:
        """Set the weights of a model, unless `weights` is None.

        Args:
            model: the `ViT`, just built.

        Raises:
            FileNotFoundError: there is no checkpoint at `weights`.
            ValueError: the file is damaged, or does not fit the model exactly.
        """
        if self.weights is None:
            return
        if self._is_own:
            path = fetch_checkpoint(self.weights)
            load_own_weights(model, path, self._how["check_finite"])
            return
        if self._source is None:
            self._source = open_checkpoint(self.weights)
            self._values = self._source.values(model.resolved_config(), **self._how)
        own = model.weights_by_path()
        if self.head == "new":  # The new head keeps its initial values.
            own = {p: w for p, w in own.items() if not p.startswith(HEAD_PATHS)}
        assign(own, self._values)

    @property
    def preprocessing(self) -> dict[str, Any] | None:
        """Return the checkpoint's arguments of `Preprocessor`, or None; after `load`."""
        return None if self._source is None else self._source.preprocessing
