import math

import keras
import numpy as np
import pytest

from keras_vit.training import WarmupSchedule


def values(schedule, steps):
    return np.array([float(schedule(step)) for step in steps])


def formula(t, decay, peak, steps, warmup, start, final, cooldown, timescale):
    t = min(t, steps)
    if t < warmup:
        return start + (peak - start) * t / warmup
    u, n = t - warmup, steps - warmup
    rate = {
        "cosine": lambda: final + (peak - final) * (1 + math.cos(math.pi * u / n)) / 2,
        "linear": lambda: final + (peak - final) * (1 - u / n),
        "rsqrt": lambda: peak / math.sqrt(1 + u / timescale),
        "constant": lambda: peak,
    }[decay]()
    if t > steps - cooldown:
        rate = final + (rate - final) * (steps - t) / cooldown
    return rate


@pytest.mark.parametrize("warmup", [0, 10])
@pytest.mark.parametrize("cooldown", [0, 15])
@pytest.mark.parametrize("decay", ["cosine", "linear", "rsqrt", "constant"])
def test_formula(decay, warmup, cooldown):
    schedule = WarmupSchedule(0.3, 60, decay, warmup, 0.02, 0.05, cooldown, timescale=7)
    # The first and last steps, those around the ends of each phase, and later ones.
    steps = [0, 1, 9, 10, 11, 30, 44, 45, 46, 59, 60, 61, 1000]
    expected = [
        formula(t, decay, 0.3, 60, warmup, 0.02, 0.05, cooldown, 7) for t in steps
    ]
    np.testing.assert_allclose(values(schedule, steps), expected, rtol=1e-5)


@pytest.mark.parametrize("decay", ["cosine", "linear", "rsqrt", "constant"])
def test_ends(decay):
    plain = WarmupSchedule(0.3, 60, decay, final=0.05)
    assert float(plain(0)) == pytest.approx(0.3)
    warm = WarmupSchedule(0.3, 60, decay, 10, start=0.1, final=0.05, cooldown_steps=5)
    np.testing.assert_allclose(values(warm, [0, 10, 60]), [0.1, 0.3, 0.05], rtol=1e-6)


def test_cosine_is_that_of_keras():
    mine = WarmupSchedule(0.3, 60, "cosine", 10, start=0.02, final=0.06)
    theirs = keras.optimizers.schedules.CosineDecay(
        0.02, decay_steps=50, alpha=0.2, warmup_target=0.3, warmup_steps=10
    )
    steps = [0, 1, 9, 10, 11, 35, 59, 60, 64]
    np.testing.assert_allclose(values(mine, steps), values(theirs, steps), rtol=1e-5)


def test_a_run_that_is_all_warmup():
    schedule = WarmupSchedule(0.4, 4, "cosine", warmup_steps=4)
    np.testing.assert_allclose(values(schedule, range(5)), [0.0, 0.1, 0.2, 0.3, 0.4])


def test_the_config_round_trips():
    schedule = WarmupSchedule(0.3, 60, "rsqrt", 10, 0.02, 0.05, 15, 7)
    config = keras.saving.serialize_keras_object(schedule)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == schedule.get_config()
    steps = range(0, 61, 5)
    np.testing.assert_array_equal(values(again, steps), values(schedule, steps))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decay": "cosin"}, "'cosin'; choose one of 'cosine'"),
        ({"peak": 0}, "peak must be a number above 0; received 0"),
        ({"peak": float("nan")}, "peak must be a number above 0; received nan"),
        ({"timescale": 0}, "timescale must be a number above 0"),
        ({"start": -0.1}, "start must be a number, 0 or more; received -0.1"),
        ({"final": "0"}, "final must be a number, 0 or more; received '0'"),
        ({"steps": 0}, "steps must be an int, 1 or more; received 0"),
        ({"steps": 1e4}, "steps must be an int, 1 or more; received 10000.0"),
        ({"warmup_steps": -1}, "warmup_steps must be an int, 0 or more; received -1"),
        ({"warmup_steps": 60, "cooldown_steps": 50}, "100 steps has no room for 60"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupSchedule(**{"peak": 0.1, "steps": 100, **arguments})
