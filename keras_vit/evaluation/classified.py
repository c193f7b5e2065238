"""Predictions of a classifier for labeled images, and the file that holds them."""

import csv
import dataclasses
import os
import pathlib
from collections.abc import Sequence

import numpy as np

from keras_vit.atomic_files import replacing
from keras_vit.data.host_share import in_turn, parts_of_all

# With more classes than this, only the probabilities of the best five are kept, so that
# the memory grows with the number of images and not with the number of classes.
MOST_CLASSES = 100
TOP = 5


@dataclasses.dataclass(frozen=True)
class Predictions:
    """Predictions of a classifier for `n` labeled images.

    Attributes:
        class_names: names of the classes in the order of the labels.
        ids: path or number of each image.
        labels: `(n,)`, int.
        predicted: `(n,)`, int.
        losses: `(n,)`, float64, the negative log-likelihood of the label under a softmax.
        ranks: `(n,)`, int, number of classes with a higher score than the label.
        classes: `(n, k)`, int: the classes of the columns of `probabilities`.
        probabilities: `(n, k)`, float32. The columns are all classes in their order, or
            with more than 100 classes the best five, best first.
        hardest: numbers of the images with the highest loss, highest first.
        inputs: the inputs of the model for `hardest`, `(len(hardest), h, w, c)`.
    """

    class_names: tuple[str, ...]
    ids: list[str]
    labels: np.ndarray
    predicted: np.ndarray
    losses: np.ndarray
    ranks: np.ndarray
    classes: np.ndarray
    probabilities: np.ndarray
    hardest: np.ndarray
    inputs: np.ndarray

    @property
    def confidence(self) -> np.ndarray:
        """Return the probability of the predicted class of each image, `(n,)`."""
        return self.probabilities.max(axis=1)

    @property
    def correct(self) -> np.ndarray:
        """Return True for each image whose predicted class is its label, `(n,)`."""
        return self.predicted == self.labels

    def write(self, path: str | os.PathLike) -> None:
        """Write the predictions as CSV, one row for each image.

        The columns are `image`, the names `label` and `prediction`, the `probability` of
        the prediction, `loss`, the numbers `label_index` and `prediction_index`, and the
        probability of each class, or with more than 100 classes the names and the
        probabilities of the best five. All digits that float32 has are written.

        Args:
            path: the file. It is replaced when the new one is complete.
        """
        header = ["image", "label", "prediction", "probability", "loss"]
        header += ["label_index", "prediction_index"]
        number = self.probabilities.shape[1]
        every = number == len(self.class_names)
        if every:
            header += [f"probability of {name}" for name in self.class_names]
        else:
            places = range(1, number + 1)
            header += [f"{kind}_{n}" for n in places for kind in ("class", "probability")]
        # Paths that are not UTF-8 are written with escapes, as `write_text` does.
        escaped = "backslashreplace"
        with (
            replacing(pathlib.Path(path)) as temporary,
            open(temporary, "w", encoding="utf-8", errors=escaped, newline="") as file,
        ):
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(self._row(index, every) for index in range(len(self.ids)))

    def _row(self, index, every):
        names, probabilities = self.class_names, self.probabilities[index]
        label, predicted = int(self.labels[index]), int(self.predicted[index])
        values = [f"{value:.9g}" for value in probabilities]
        if not every:
            best = (names[number] for number in self.classes[index])
            pairs = zip(best, values, strict=True)
            values = [text for pair in pairs for text in pair]
        return [
            self.ids[index],
            names[label],
            names[predicted],
            f"{probabilities.max():.9g}",
            repr(float(self.losses[index])),
            label,
            predicted,
            *values,
        ]


class Collector:
    """Collects the predictions of batches, and the inputs with the highest losses.

    Args:
        class_names: names of the classes in the order of the labels.
        activation: `"softmax"` or `"sigmoid"`: the function from logits to probabilities.
        kept: int, number of inputs to keep.
    """

    def __init__(self, class_names: Sequence[str], activation: str, kept: int = 24):
        self.class_names, self.activation, self.kept = (
            tuple(class_names),
            activation,
            kept,
        )
        self.ids: list[str] = []
        self.parts: list[dict[str, np.ndarray]] = []
        self.hardest: list[tuple[float, int, np.ndarray]] = []

    def add(
        self,
        logits: np.ndarray,
        labels: np.ndarray,
        ids: Sequence[str],
        inputs: np.ndarray,
    ) -> None:
        """Add a batch.

        Args:
            logits: `(b, classes)`, float64.
            labels: `(b,)`, int.
            ids: path or number of each image.
            inputs: `(b, h, w, c)`, the inputs of the model.

        Raises:
            ValueError: an output is not a number.
        """
        if np.isnan(logits).any():
            image = ids[int(np.isnan(logits).any(axis=1).argmax())]
            raise ValueError(
                f"The model returns NaN for the image {image}: its training has "
                "diverged, or its numbers are too large for its dtype (use float32)."
            )
        own = logits[np.arange(len(labels)), labels]
        high = logits.max(axis=1)
        exponentials = np.exp(logits - high[:, None])
        total = exponentials.sum(axis=1)
        losses = np.log(total) + high - own
        probabilities = exponentials / total[:, None]
        if self.activation == "sigmoid":
            probabilities = 1 / (1 + np.exp(-logits))
        classes = np.broadcast_to(np.arange(logits.shape[1]), logits.shape)
        if logits.shape[1] > MOST_CLASSES:
            classes = np.argsort(-logits, axis=1, kind="stable")[:, :TOP]
            probabilities = np.take_along_axis(probabilities, classes, axis=1)
        self.parts.append(
            {
                "labels": np.asarray(labels, "int64"),
                "predicted": logits.argmax(axis=1),
                "losses": losses,
                "ranks": (logits > own[:, None]).sum(axis=1),
                "classes": classes.astype("int32"),
                "probabilities": probabilities.astype("float32"),
            }
        )
        first = len(self.ids)
        self.ids += ids
        for index in np.argsort(-losses, kind="stable")[: self.kept]:
            # A copy, because a view would keep the whole batch in memory.
            row = (float(losses[index]), first + int(index), np.array(inputs[index]))
            self.hardest.append(row)
        self.hardest = self._first(self.hardest)

    def predictions(self) -> Predictions:
        """Return the predictions for all batches, also those of other processes.

        Raises:
            ValueError: there are no images.
        """
        if not self.parts:
            raise ValueError("There are no images to evaluate.")
        columns, ids, hardest = self._from_all()
        return Predictions(
            class_names=self.class_names,
            ids=ids,
            hardest=np.array([index for _, index, _ in hardest]),
            inputs=np.stack([inputs for *_, inputs in hardest]),
            **columns,
        )

    def _from_all(self):
        """Return the columns, the ids and the hardest images of all processes."""
        columns = {
            name: np.concatenate([part[name] for part in self.parts])
            for name in self.parts[0]
        }
        found = parts_of_all((columns, self.ids, self.hardest))
        columns = {name: in_turn([part[name] for part, *_ in found]) for name in columns}
        ids = in_turn([np.array(part, object) for _, part, _ in found]).tolist()
        hardest = [
            (loss, number * len(found) + turn, inputs)
            for turn, (*_, part) in enumerate(found)
            for loss, number, inputs in part
        ]
        return columns, ids, self._first(hardest)

    def _first(self, rows):
        """Return the rows with the highest losses, highest first."""
        return sorted(rows, key=lambda row: (-row[0], row[1]))[: self.kept]
