"""Loading of checkpoints into models, for the argument `weights=`."""

import os
from typing import Any

from keras_vit.choices import check_choice
from keras_vit.layers.preprocessor import Preprocessor
from keras_vit.layers.resize import RESIZE_CONVENTIONS
from keras_vit.layers.unstated_preprocessor import UnstatedPreprocessor
from keras_vit.weights.checks import assign
from keras_vit.weights.detect import open_checkpoint
from keras_vit.weights.download import fetch_checkpoint
from keras_vit.weights.h5 import load_own_weights
from keras_vit.weights.pieces import HEAD_PATHS
from keras_vit.weights.source import Source

HEADS = ("keep", "new", "drop")


class WeightLoader:
    """Loader of a checkpoint into a model that has been built.

    The constructor checks its arguments, which are those of `ViT`, but does not open the
    checkpoint.
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
        self._source = weights if isinstance(weights, Source) else None
        self._values: Any = None
        self._how: dict[str, Any] = {
            "head": head,
            "resize": resize,
            "source_grid_shape": source_grid_shape,
            "check_finite": check_finite,
        }
        path = os.fspath(weights) if isinstance(weights, str | os.PathLike) else ""
        self._is_own = path.endswith(".weights.h5")
        how = f"head={head!r}, {resize=} and {source_grid_shape=}"
        if weights is None and (head != "keep" or resize or source_grid_shape):
            raise ValueError(
                f"{how} control how a checkpoint is loaded; received weights=None."
            )
        if self._is_own and (head == "new" or resize or source_grid_shape):
            raise ValueError(
                f"{how} do not go with .weights.h5, which contains no model: save the "
                "model as .keras, and use load_checkpoint."
            )

    def compare(self, config: dict[str, Any]) -> None:
        """Compare an open `Source` with a model that is about to be built.

        `load_checkpoint` builds models of the size that a file states. Without this
        check, a damaged file could exhaust the memory before `load` compares it.

        Args:
            config: the model's `resolved_config()`.
        """
        if self._source is not None:
            self._values = self._source.values(config, **self._how)

    def load(self, model: Any) -> None:
        """Set the weights of a `ViT`; without `weights` this is a no-op.

        Args:
            model: the model.

        Raises:
            FileNotFoundError: the checkpoint does not exist.
            ValueError: the file is damaged, or does not fit the model exactly.
        """
        if self._is_own:
            path = fetch_checkpoint(self.weights)
            load_own_weights(model, path, self._how["check_finite"])
        elif self.weights is not None:
            if self._source is None:
                self._source = open_checkpoint(self.weights)
                self.compare(model.resolved_config())
            own = model.weights_by_path()
            if self.head == "new":  # The new head keeps its initial values.
                own = {p: w for p, w in own.items() if not p.startswith(HEAD_PATHS)}
            assign(own, self._values)

    def preprocessor(
        self, image_size: tuple[int, int], defaults: dict[str, Any]
    ) -> Preprocessor:
        """Return the checkpoint's preprocessor, or the default without a checkpoint.

        Args:
            image_size: `(height, width)` of the model.
            defaults: dict of arguments of `Preprocessor`, if the checkpoint uses the
                defaults of the model.
        """
        source = self._source
        stated = {} if source is None else source.preprocessing
        settings = {"image_size": image_size, **(stated or defaults)}
        settings["name"] = "preprocessor"
        if source is None or stated or source.has_default_pixels:
            return Preprocessor(**settings)
        return UnstatedPreprocessor(source.path, **settings)
