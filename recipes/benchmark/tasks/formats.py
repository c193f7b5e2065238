"""Tasks for exports to each format and for inference with the exported files."""

import pathlib
import shutil
from importlib import import_module

from keras_vit.exported_model import Export
from recipes.benchmark.contestants import CONTESTANTS, random_batch
from recipes.benchmark.timing import seconds, throughput

# The function of keras_vit.export for each format, and the file extension.
_WRITERS = {
    "SavedModel": ("saved_model", ""),
    "ONNX": ("onnx", ".onnx"),
    "LiteRT": ("litert", ".tflite"),
}
FORMATS = (
    "SavedModel",
    "SavedModel-int8",
    "ONNX",
    "ONNX-int8",
    "LiteRT",
    "LiteRT-int8",
)


def export(contestant, sizes, dtype, directory, format_name):
    """Prepare to measure the time and the size of an export.

    The time includes the comparison of the exported file with the model. The last export
    stays on disk for `served`.
    """
    export_of = import_module("keras_vit.export")
    model = CONTESTANTS[contestant].build(sizes, dtype).model
    kind, weights_dtype, path = _place(directory, format_name)
    write = getattr(export_of, _WRITERS[kind][0])

    def measure():
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        duration = seconds(
            lambda: write(model, path, weights_dtype=weights_dtype, verbose=False)
        )
        files = [path, *path.rglob("*")]
        size = sum(file.stat().st_size for file in files if file.is_file())
        return {"export (s)": duration, "on disk (MB)": size / 1e6}

    return measure


def _place(directory, format_name):
    """Return the format, the weight dtype and the path of an export."""
    kind, _, weights_dtype = format_name.partition("-")
    path = pathlib.Path(directory, format_name).with_suffix(_WRITERS[kind][1])
    return kind, weights_dtype or "float32", path


def served(directory, format_name, image_size, batch, repetitions):
    """Prepare to measure the latency and the throughput of an exported file."""
    model = Export(str(_place(directory, format_name)[2]))
    pixels = (random_batch(batch, image_size)[0] * 50 + 128).clip(0, 255)
    return throughput(lambda: model.predict_on_batch(pixels), batch, repetitions)


def predicted(contestant, sizes, dtype, batch, repetitions):
    """Prepare to measure the latency and the throughput of a contestant's model.

    Keras models use `predict_on_batch`.
    """
    model = CONTESTANTS[contestant].build(sizes, dtype)
    images, _ = model.batch(batch)
    return throughput(lambda: model.forward(images), batch, repetitions)
