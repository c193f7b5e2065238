"""Safety checks of `.keras` files before Keras builds the model in them."""

import dataclasses
import io
import math
from typing import Any

import keras

from keras_vit.weights.archive import open_archive
from keras_vit.weights.h5 import find_datasets
from keras_vit.weights.tensor_file import check_regular_file, parse_json, unreadable

_CONFIG, _WEIGHTS = "config.json", "model.weights.h5"


@dataclasses.dataclass
class WeightBudget:
    """The weights that a saved file holds: an upper limit for the model built from it.

    Attributes:
        variables: number of weights.
        elements: number of elements of all weights together.
    """

    variables: int
    elements: int

    def take(self, shape: tuple[int, ...]) -> None:
        """Subtract a weight that is about to be created.

        Raises:
            ValueError: the model would have more weights than the file.
        """
        self.variables -= 1
        self.elements -= math.prod(shape)
        if self.variables < 0 or self.elements < 0:
            raise ValueError(
                "The config in the file describes a larger model than the file has "
                "weights for: it is damaged. Save the model again."
            )


def check_keras_file(path: str, model_class: type) -> WeightBudget:
    """Check a `.keras` file before a model is built from it.

    Args:
        path: path of the file.
        model_class: type, the class that the saved model must be an instance of.

    Returns:
        A `WeightBudget`: the number and total size of the weights that a model built from
        the file may have.

    Raises:
        ValueError: if the file is damaged, holds a model of another class, refers to
            other files, or would expand to much more than its size.
    """
    check_regular_file(path)
    try:
        with open_archive(path) as archive:
            missing = sorted({_CONFIG, _WEIGHTS} - set(archive.namelist()))
            if missing:
                raise ValueError(f"it has no {' and no '.join(missing)}")
            config = parse_json(archive.read(_CONFIG), _CONFIG, allow_nan=True)
            # Reading the whole member also verifies its checksum.
            weights = io.BytesIO(archive.read(_WEIGHTS))
        budget = _read_budget(weights)
    except Exception as error:
        # For damaged files, zipfile, zlib and h5py raise many different exceptions.
        first_line = str(error).strip().split("\n")[0]
        raise unreadable(path, ".keras file", first_line) from None
    _check_class(path, config, model_class)
    return budget


def _read_budget(weights):
    import h5py

    with h5py.File(weights, "r") as file:
        datasets = find_datasets(file, len(weights.getbuffer()))
        sizes = [
            # int4 quantization packs two elements into each int8.
            dataset.size * (2 if dataset.dtype.kind in "iu" else 1)
            for name, dataset in datasets.items()
            if not name.startswith("optimizer/")
        ]
    return WeightBudget(variables=len(sizes), elements=sum(sizes))


def _check_class(path: str, config: dict[str, Any], model_class: type) -> None:
    """Check the class of the saved model without importing any module.

    The class is looked up by its registered name.
    """
    name = config.get("registered_name") or config.get("class_name")
    known = keras.saving.get_registered_object(name) if isinstance(name, str) else None
    if not (isinstance(known, type) and issubclass(known, model_class)):
        raise ValueError(
            f"{path} holds a {str(config.get('class_name'))[:100]}, not a keras_vit.ViT. "
            "If it is a subclass of keras_vit.ViT, register it with "
            "keras.saving.register_keras_serializable and import its module first."
        )
