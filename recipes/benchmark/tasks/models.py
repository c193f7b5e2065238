"""Tasks for whole models: inference, training, startup and memory."""

import statistics
from importlib import import_module

from recipes.benchmark import resident
from recipes.benchmark.contestants import CONTESTANTS, torch_device
from recipes.benchmark.tasks.on_device import bare_step
from recipes.benchmark.timing import median_seconds, seconds


def inference(contestant, sizes, dtype, batch, repetitions):
    """Prepare to time a forward pass of one batch."""
    model = CONTESTANTS[contestant].build(sizes, dtype)
    images, _ = model.batch(batch)
    for _ in range(2):
        model.forward(images)
    return lambda: {
        "forward (s)": median_seconds(lambda: model.forward(images), repetitions)
    }


def training(contestant, sizes, dtype, batch, repetitions):
    """Prepare to time a training step, without the start of `fit`."""
    model = CONTESTANTS[contestant].build(sizes, dtype)
    data = model.batch(batch)
    model.steps(data, 2)

    def measure():
        return {"step (s)": statistics.median(model.steps(data, repetitions + 1)[1:])}

    return measure


def build(contestant, sizes, dtype):
    """Prepare to time the construction of a model after all imports."""
    import_and_start(contestant, dtype)
    return lambda: {
        "build (s)": seconds(lambda: CONTESTANTS[contestant].build(sizes, dtype))
    }


def first_forward(contestant, sizes, dtype, batch):
    """Prepare to time the first forward pass, including tracing and compilation."""
    import_and_start(contestant, dtype)
    model = CONTESTANTS[contestant].build(sizes, dtype)
    images, _ = model.batch(batch)
    return lambda: {"first forward (s)": seconds(lambda: model.forward(images))}


def first_step(contestant, sizes, dtype, batch):
    """Prepare to time the first training step, including the start of `fit`."""
    import_and_start(contestant, dtype)
    model = CONTESTANTS[contestant].build(sizes, dtype)
    data = model.batch(batch)
    return lambda: {"first step (s)": model.steps(data, 1)[0]}


def import_and_start(contestant, dtype):
    """Build a tiny model, so that all imports are done before the measurement."""
    sizes = {"image_size": 16, "patch_size": 16, "hidden_dim": 8, "num_layers": 1}
    CONTESTANTS[contestant].build({**sizes, "num_heads": 1, "mlp_dim": 8}, dtype)


def memory(contestant, sizes, dtype, batch, train):
    """Prepare to measure the peak memory of two forward passes or two training steps.

    The figure is in MB and excludes the memory of the model before the measurement. On a
    GPU it is the memory that the framework has allocated. Otherwise it is the resident
    set, which includes compilation and the state of the optimizer.
    """
    model = CONTESTANTS[contestant].build(sizes, dtype)
    data = model.batch(batch)
    peak, present, kind = _memory(CONTESTANTS[contestant].backend)
    before = present()

    def measure():
        if train:
            model.steps(data, 2)
        else:
            model.forward(data[0])
            model.forward(data[0])
        return {f"{kind} (MB)": (peak() - before) / 1e6}

    return measure


def _memory(backend):
    """Return functions for the peak and the present memory, and the name of the figure.

    Both functions return bytes.
    """
    on_device = "peak device memory"
    if backend == "jax":
        stats = import_module("jax").devices()[0].memory_stats
        if stats():
            return (
                lambda: stats()["peak_bytes_in_use"],
                lambda: stats()["bytes_in_use"],
                on_device,
            )
    if backend == "tensorflow":
        config = import_module("tensorflow").config
        if config.list_physical_devices("GPU"):
            info = config.experimental.get_memory_info
            return (
                lambda: info("GPU:0")["peak"],
                lambda: info("GPU:0")["current"],
                on_device,
            )
    if backend == "torch" and torch_device() == "cuda":
        cuda = import_module("torch").cuda
        return cuda.max_memory_allocated, cuda.memory_allocated, on_device
    return resident.peak_bytes, resident.present_bytes, "peak resident set"


def fit_overhead(contestant, sizes, dtype, batch, repetitions):
    """Prepare to compare a step of `fit` with the bare compiled step.

    The bare step runs on one batch that is already on the device. The measurement also
    counts the compilations (under TensorFlow, the tracings) from the second call of `fit`
    on, of which there should be none.
    """
    model = CONTESTANTS[contestant].build(sizes, dtype)
    data = model.batch(batch)
    jax = CONTESTANTS[contestant].backend == "jax"
    count = (_count_jax_compilations if jax else _count_tracings)(model.model)
    model.steps(data, 2)
    bare = bare_step(contestant, model, data)

    def measure():
        before = count[0]
        in_fit = statistics.median(model.steps(data, repetitions + 1)[1:])
        compilations = count[0] - before
        alone = median_seconds(bare, repetitions)
        return {
            "step of fit (s)": in_fit,
            "bare step (s)": alone,
            "fit / bare (ratio)": in_fit / alone,
            "compilations in that fit (count)": compilations,
        }

    return measure


def _count_jax_compilations(model):
    """Return a list whose only entry counts the compilations from now on."""
    import jax

    count = [0]

    def listen(event, duration_secs, **_):
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    return count


def _count_tracings(model):
    """Return a list whose only entry counts the tracings of the training step.

    TensorFlow runs the Python function of the step only while it traces it.
    """
    count, step = [0], model.train_step

    def counted(data):
        count[0] += 1
        return step(data)

    model.train_step = counted
    return count
