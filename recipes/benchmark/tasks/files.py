"""Task for loading checkpoints."""

import multiprocessing
import pathlib
from importlib import import_module

from recipes.benchmark import resident
from recipes.benchmark.contestants import CONTESTANTS
from recipes.benchmark.tasks.models import import_and_start
from recipes.benchmark.timing import seconds


def loading(contestant, sizes, dtype, directory, ending):
    """Prepare to measure the time and the peak memory of loading a checkpoint.

    The library is imported before the measurement. The file is written by another process
    and is in the page cache of the system. The memory is the peak of the resident set
    while the file is loaded, less its size before, divided by the size of the file. The
    model alone has a ratio of 1.
    """
    path = pathlib.Path(directory, contestant, f"model{ending}")
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        arguments = (path, contestant, sizes, dtype)
        writer = multiprocessing.get_context("spawn").Process(
            target=_write, args=arguments
        )
        writer.start()
        writer.join()
        if writer.exitcode:
            raise RuntimeError(f"Could not write {path}; see the log for the error.")
    import_and_start(contestant, dtype)
    load = _loader(path, contestant, sizes, dtype)

    def measure():
        before = resident.present_bytes()
        duration = seconds(load)
        extra = resident.peak_bytes() - before
        return {
            "load (s)": duration,
            "peak memory / file (ratio)": extra / path.stat().st_size,
        }

    return measure


def _loader(path, contestant, sizes, dtype):
    """Return a function that loads the checkpoint into a new model."""
    library = CONTESTANTS[contestant].library
    if library == "keras_vit":
        import keras_vit

        return lambda: keras_vit.load_checkpoint(path)
    if library == "keras_hub":
        import keras

        return lambda: keras.saving.load_model(path, compile=False)
    safetensors = import_module("safetensors.torch")

    def load():
        model = CONTESTANTS[contestant].build(sizes, dtype).model
        model.load_state_dict(safetensors.load_file(path))
        return model

    return load


def _write(path, contestant, sizes, dtype):
    """Write a checkpoint atomically."""
    model = CONTESTANTS[contestant].build(sizes, dtype).model
    partial = path.with_stem("partial")
    if path.suffix == ".keras":
        model.save(partial)
    elif path.suffix == ".npz":
        import_module("keras_vit.weights.google").save_npz(model, partial)
    elif CONTESTANTS[contestant].library == "keras_vit":
        _write_timm(model, partial)
    else:
        import_module("safetensors.torch").save_file(model.state_dict(), partial)
    partial.rename(path)


def _write_timm(model, path):
    """Write a checkpoint for timm, and its config.json beside it."""
    saved, written = path.with_suffix(".keras"), path.with_suffix(".timm")
    # timm has no resize without antialiasing.
    model.preprocessor = model.preprocessor.with_image_size(None)
    model.save(saved)
    import_module("keras_vit.convert").convert(saved, written, to="timm")
    (written / "config.json").rename(path.with_name("config.json"))
    (written / "model.safetensors").rename(path)
