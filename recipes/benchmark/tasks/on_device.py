"""Tasks whose batch is in the memory of the device already.

On a GPU, moving a batch there can take as long as computing it.
"""

from importlib import import_module

from recipes.benchmark.contestants import CONTESTANTS
from recipes.benchmark.timing import median_seconds


def training(contestant, sizes, dtype, batch, repetitions):
    """Prepare to time a compiled training step."""
    model = CONTESTANTS[contestant].build(sizes, dtype)
    step = bare_step(contestant, model, model.batch(batch))
    return lambda: {"step (s)": median_seconds(step, repetitions)}


def inference(contestant, sizes, dtype, batch, repetitions):
    """Prepare to time a compiled forward pass."""
    model = CONTESTANTS[contestant].build(sizes, dtype)
    images, _ = model.batch(batch)
    forward = _warmed_up(_FORWARDS, contestant, model, images)
    return lambda: {"forward (s)": median_seconds(forward, repetitions)}


def bare_step(contestant, model, batch):
    """Return a function that runs one training step and waits for its loss.

    Args:
        contestant: name of the contestant.
        model: what `Contestant.build` returned.
        batch: images and labels.

    Raises:
        ValueError: the contestant is a model of Keras on torch.
    """
    return _warmed_up(_STEPS, contestant, model, batch)


def _warmed_up(forms, contestant, model, data):
    """Return the function of the contestant's framework, after two calls."""
    found = CONTESTANTS[contestant]
    if found.backend == "torch" and found.library in ("keras_vit", "keras_hub"):
        raise ValueError(
            f"{contestant}: Keras compiles nothing on torch, so there is no compiled "
            "step to time. Leave it out of --contestants."
        )
    form = "jimm" if found.library == "jimm" else found.backend
    run = forms[form](model, data)
    for _ in range(2):
        run()
    return run


def _jax_step(model, batch):
    jax, model = import_module("jax"), model.model
    if not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)
    step = jax.jit(model.train_step, donate_argnums=0)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    # The step donates its buffers, so it must work on a copy of the model's state.
    state = [[jax.numpy.copy(variable.value) for variable in group] for group in groups]
    batch = jax.device_put(batch)

    def run():
        logs, state[:] = step(tuple(state), batch)
        return float(logs["loss"])

    return run


def _tensorflow_step(model, batch):
    tf = import_module("tensorflow")
    model.model.make_train_function()
    batches = iter(tf.data.Dataset.from_tensors(batch).repeat())
    return lambda: float(model.model.train_function(batches)["loss"])


def _torch_step(model, batch):
    model.model.train()
    images, labels = (x.to(model.device) for x in batch)
    return lambda: model.step(images, labels)


def _jimm_step(model, batch):
    images, labels = map(model.put, batch)
    return lambda: model.step(images, labels)


def _jax_forward(model, images):
    jax, model = import_module("jax"), model.model
    state = [
        [variable.value for variable in group]
        for group in (model.trainable_variables, model.non_trainable_variables)
    ]
    call = jax.jit(
        lambda trainable, others, x: model.stateless_call(
            trainable, others, x, training=False
        )[0]
    )
    images = jax.device_put(images)
    return lambda: call(*state, images).block_until_ready()


def _tensorflow_forward(model, images):
    tf, network = import_module("tensorflow"), model.model
    call = tf.function(
        lambda x: network(x, training=False), jit_compile=network.jit_compile
    )
    images = tf.constant(images)
    return lambda: call(images).numpy()


def _torch_forward(model, images):
    images = images.to(model.device)
    return lambda: model.forward(images)


def _jimm_forward(model, images):
    images = model.put(images)
    return lambda: model.call(images).block_until_ready()


_STEPS = {
    "jax": _jax_step,
    "tensorflow": _tensorflow_step,
    "torch": _torch_step,
    "jimm": _jimm_step,
}
_FORWARDS = {
    "jax": _jax_forward,
    "tensorflow": _tensorflow_forward,
    "torch": _torch_forward,
    "jimm": _jimm_forward,
}
