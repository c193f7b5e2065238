"""Stand-in for the parts of W&B that a run uses, which is not installed for the tests."""

import sys
import types

import keras


class Run:
    """A run of W&B that records how it was opened, and whether it was closed."""

    def __init__(self, **arguments):
        self.arguments, self.closed = arguments, False
        self.id = arguments["id"] or "made-up"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.closed = True


def install(monkeypatch):
    """Make the stand-in importable, and return it with the lists `runs` and `rows`."""
    wandb = types.ModuleType("wandb")
    wandb.run, wandb.Error, wandb.runs, wandb.rows = None, RuntimeError, [], []

    def init(**arguments):
        wandb.runs.append(Run(**arguments))
        return wandb.runs[-1]

    class WandbMetricsLogger(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            assert self.model is not None
            wandb.rows.append((epoch, logs))

    wandb.init = init
    integration = types.ModuleType("wandb.integration.keras")
    integration.WandbMetricsLogger = WandbMetricsLogger
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    for name in ("wandb.integration", "wandb.integration.keras"):
        monkeypatch.setitem(sys.modules, name, integration)
    return wandb
