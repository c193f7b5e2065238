"""Whole models: forward passes, training steps, how they start, what memory they take."""

import statistics
from importlib import import_module

from recipes.benchmark import resident
from recipes.benchmark.contestants import CONTESTANTS, torch_device
from recipes.benchmark.timing import median_seconds, seconds


def inference(contestant, sizes, dtype, batch, repetitions):
    """Seconds of a forward pass of a batch."""
    model = CONTESTANTS[contestant].build(sizes, dtype)
    images, _ = model.batch(batch)
    for _ in range(2):
        model.forward(images)
    return lambda: {
        "forward (s)": median_seconds(lambda: model.forward(images), repetitions)
    }


def training(contestant, sizes, dtype, batch, repetitions):
    """Seconds of a training step; how `fit` starts is left out."""
    model = CONTESTANTS[contestant].build(sizes, dtype)
    data = model.batch(batch)
    model.steps(data, 2)

    def measure():
        return {"step (s)": statistics.median(model.steps(data, repetitions + 1)[1:])}

    return measure


def build(contestant, sizes, dtype):
    """Seconds to make a model, of a process that has imported the library."""
    import_and_start(contestant, dtype)
    return lambda: {
        "build (s)": seconds(lambda: CONTESTANTS[contestant].build(sizes, dtype))
    }


def first_forward(contestant, sizes, dtype, batch):
    """Seconds of the first forward pass of a process, with tracing and compilation."""
    import_and_start(contestant, dtype)
    model = CONTESTANTS[contestant].build(sizes, dtype)
    images, _ = model.batch(batch)
    return lambda: {"first forward (s)": seconds(lambda: model.forward(images))}


def first_step(contestant, sizes, dtype, batch):
    """Seconds from the call of `fit` to the end of the first step of a process."""
    import_and_start(contestant, dtype)
    model = CONTESTANTS[contestant].build(sizes, dtype)
    data = model.batch(batch)
    return lambda: {"first step (s)": model.steps(data, 1)[0]}


def import_and_start(contestant, dtype):
    """Builds a model of one narrow block, after which imports are done."""
    sizes = {"image_size": 16, "patch_size": 16, "hidden_dim": 8, "num_layers": 1}
    CONTESTANTS[contestant].build({**sizes, "num_heads": 1, "mlp_dim": 8}, dtype)


def memory(contestant, sizes, dtype, batch, train):
    """MB that two forward passes or two training steps take at most, above the model.

    On a GPU, what the framework's allocator handed out; else the resident set, to which
    compilation and the optimizer's state belong too.
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
    """Functions that give the peak and the present use in bytes, and what they count."""
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
    """Seconds of a step of `fit` and of the bare compiled step; what `fit` compiled anew.

    The bare step runs on one batch that is on the device. Compilations (under TensorFlow:
    tracings) are counted from the second call of `fit` on: there should be none.
    """
    model = CONTESTANTS[contestant].build(sizes, dtype)
    data = model.batch(batch)
    jax = CONTESTANTS[contestant].backend == "jax"
    count = (_count_jax_compilations if jax else _count_tracings)(model.model)
    model.steps(data, 2)
    bare = (_bare_jax_step if jax else _bare_tensorflow_step)(model.model, data)

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
    import jax

    count = [0]

    def listen(event, duration_secs, **_):
        count[0] += event == "/jax/core/compile/backend_compile_duration"

    jax.monitoring.register_event_duration_secs_listener(listen)
    return count


def _count_tracings(model):
    """The Python function of the step runs only while it is traced."""
    count, step = [0], model.train_step

    def counted(data):
        count[0] += 1
        return step(data)

    model.train_step = counted
    return count


def _bare_jax_step(model, batch):
    import jax

    step = jax.jit(model.train_step, donate_argnums=0)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    # Copies: the step takes its state, and the model keeps its own.
    state = [[jax.numpy.copy(variable.value) for variable in group] for group in groups]
    batch = jax.device_put(batch)

    def run():
        logs, state[:] = step(tuple(state), batch)
        return float(logs["loss"])

    run()
    run()
    return run


def _bare_tensorflow_step(model, batch):
    import tensorflow as tf

    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())

    def run():
        return float(model.train_function(batches)["loss"])

    run()
    run()
    return run
