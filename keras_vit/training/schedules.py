"""Learning rate schedules."""

import math
import numbers

import keras
from keras import ops

from keras_vit.choices import check_choice

_DECAYS = ("cosine", "linear", "rsqrt", "constant")


# Keras's CosineDecay supports a warm-up and returns the same values, as a test checks.
# The other Keras schedules have no warm-up, none has a cooldown, and rsqrt is missing.
@keras.saving.register_keras_serializable(package="keras_vit")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate schedule with linear warm-up, a decay and an optional cooldown.

    The learning rate of update `t`, counted from 0, is
    `start + (peak - start) * t / warmup_steps` while `t < warmup_steps`. Afterwards, with
    `u = t - warmup_steps` and `n = steps - warmup_steps`, it is:

    - `"cosine"`: `final + (peak - final) * (1 + cos(pi * u / n)) / 2`;
    - `"linear"`: `final + (peak - final) * (1 - u / n)`;
    - `"rsqrt"`: `peak / sqrt(1 + u / timescale)`, independent of `steps`;
    - `"constant"`: `peak`.

    In the last `cooldown_steps` updates the difference to `final` is multiplied by
    `(steps - t) / cooldown_steps`. From update `steps` on the rate is constant: `final`,
    except for `"rsqrt"` and `"constant"` without a cooldown.

    With `start=0`, as in the papers' code, the first update changes nothing.

    Args:
        peak: float, the learning rate at the end of the warm-up.
        steps: int, number of updates of the whole run, including warm-up and cooldown.
            With gradient accumulation, `gradient_accumulation_steps` batches are one
            update. The optimizers of `keras_vit.training` count updates; Keras's own
            optimizers count batches.
        decay: `"cosine"`, `"linear"`, `"rsqrt"` or `"constant"`.
        warmup_steps: int, number of warm-up updates.
        start: float, the learning rate of update 0 if there is a warm-up.
        final: float, the learning rate at the end of the decay or cooldown.
        cooldown_steps: int, number of cooldown updates.
        timescale: number of updates after which `"rsqrt"` has reduced the rate to 0.71 of
            its peak.

    Raises:
        ValueError: an argument is out of its range, or the warm-up and the cooldown are
            longer than the run.

    Example:

    >>> from keras_vit.training import WarmupSchedule
    >>> schedule = WarmupSchedule(1e-3, steps=100, warmup_steps=10)
    >>> [round(float(schedule(step)), 6) for step in (0, 5, 10, 55, 100)]
    [0.0, 0.0005, 0.001, 0.0005, 0.0]

    Reference: ViT (arXiv:2010.11929) appendix B.1; `"rsqrt"` and the cooldown: Scaling
    Vision Transformers (arXiv:2106.04560) section 3.5. The formulas are those of
    Google's vision_transformer and big_vision.
    """

    def __init__(
        self,
        peak: float,
        steps: int,
        decay: str = "cosine",
        warmup_steps: int = 0,
        start: float = 0.0,
        final: float = 0.0,
        cooldown_steps: int = 0,
        timescale: float = 10_000,
    ):
        check_choice("decay", decay, _DECAYS)
        for name, value in {"peak": peak, "timescale": timescale}.items():
            if not is_number(value) or value <= 0:
                raise ValueError(f"{name} must be a number above 0; received {value!r}.")
        for name, value in {"start": start, "final": final}.items():
            if not is_number(value) or value < 0:
                raise ValueError(
                    f"{name} must be a number, 0 or more; received {value!r}."
                )
        counts = {"warmup_steps": warmup_steps, "cooldown_steps": cooldown_steps}
        for name, count in {"steps": steps, **counts}.items():
            if not isinstance(count, int) or count < (name == "steps"):
                raise ValueError(
                    f"{name} must be an int, {int(name == 'steps')} or more; received "
                    f"{count!r}."
                )
        if warmup_steps + cooldown_steps > steps:
            raise ValueError(
                f"A run of {steps} steps has no room for {warmup_steps} of warm-up and "
                f"{cooldown_steps} of cooldown; take fewer of them, or more steps."
            )
        self.peak = peak
        self.steps = steps
        self.decay = decay
        self.warmup_steps = warmup_steps
        self.start = start
        self.final = final
        self.cooldown_steps = cooldown_steps
        self.timescale = timescale

    def __call__(self, step):
        step = ops.minimum(ops.cast(step, "float32"), self.steps)
        after_warmup = ops.maximum(step - self.warmup_steps, 0.0)
        # The maximum avoids a division by 0 if the warm-up takes the whole run.
        progress = after_warmup / max(self.steps - self.warmup_steps, 1)
        span = self.peak - self.final
        rate = {
            "cosine": lambda: self.final + span * 0.5 * (1 + ops.cos(math.pi * progress)),
            "linear": lambda: self.final + span * (1 - progress),
            "rsqrt": lambda: self.peak / ops.sqrt(1 + after_warmup / self.timescale),
            "constant": lambda: self.peak,
        }[self.decay]()
        if self.cooldown_steps:
            left = ops.minimum((self.steps - step) / self.cooldown_steps, 1.0)
            rate = self.final + (rate - self.final) * left
        warmup = self.start + (self.peak - self.start) * step / max(self.warmup_steps, 1)
        return ops.where(step < self.warmup_steps, warmup, rate)

    def get_config(self):
        return {
            "peak": self.peak,
            "steps": self.steps,
            "decay": self.decay,
            "warmup_steps": self.warmup_steps,
            "start": self.start,
            "final": self.final,
            "cooldown_steps": self.cooldown_steps,
            "timescale": self.timescale,
        }


def is_number(value):
    """Return True if `value` is a finite real number."""
    return isinstance(value, numbers.Real) and math.isfinite(value)
