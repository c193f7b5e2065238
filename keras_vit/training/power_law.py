"""Saturating power laws, fitted to the results of training runs."""

import dataclasses
import warnings
from typing import Any

import numpy as np
from scipy.optimize import OptimizeWarning, curve_fit

RESAMPLES = 500
# The three parameters need one more point, or every fit would be perfect.
FEWEST = 4


@dataclasses.dataclass(frozen=True)
class PowerLaw:
    """Fit of `y = floor + scale * (x / x0) ** -exponent`.

    Attributes:
        floor: value that remains for infinite `x`, 0 or more.
        scale: the rest of the value at `x0`.
        exponent: exponent of the decrease, 0 or more.
        x0: geometric mean of the fitted `x`.
        largest: largest fitted `x`.
        residuals: measured minus fitted values, in the order of the points.
        samples: `(n, 3)`, floor, scale and exponent of fits to resampled points.

    Example:

    >>> import numpy as np
    >>> from keras_vit.training.power_law import fit
    >>> x = np.array([100.0, 300.0, 1000.0, 3000.0, 10000.0])
    >>> law = fit(x, 0.1 + 0.5 * (x / 1000) ** -0.4)
    >>> print(f"{law.floor:.3f} {law.exponent:.3f}")
    0.100 0.400
    """

    floor: float
    scale: float
    exponent: float
    x0: float
    largest: float
    residuals: np.ndarray
    samples: np.ndarray

    @property
    def beyond(self) -> float:
        """The `x` up to which a law is extrapolated, ten times the largest fitted one."""
        return 10 * self.largest

    def __call__(self, x: Any) -> np.ndarray:
        """Return the fitted value at some `x`."""
        return _law(np.asarray(x) / self.x0, self.floor, self.scale, self.exponent)

    def interval(self, x: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return the limits of the 95 % interval of the fitted value at some `x`.

        It is that of the fits to resampled points. It does not cover the possibility that
        the value follows another law.

        Args:
            x: number or array.
        """
        ratio = np.asarray(x, "float64")[..., None] / self.x0
        low, high = np.percentile(_law(ratio, *self.samples.T), [2.5, 97.5], axis=-1)
        return low, high

    def summary(self) -> dict[str, Any]:
        """Return the parameters, each with its 95 % interval, as values of JSON."""
        names = ("floor", "scale", "exponent")
        limits = np.percentile(self.samples, [2.5, 97.5], axis=0).T
        found = {
            name: {"value": getattr(self, name), "interval": interval.tolist()}
            for name, interval in zip(names, limits, strict=True)
        }
        return {**found, "x0": self.x0, "residuals": self.residuals.tolist()}


def fit(x: Any, y: Any, seed: int = 0) -> PowerLaw:
    """Fit a saturating power law by least squares.

    The intervals are from a bootstrap: points are drawn with replacement, and the law is
    fitted again.

    Args:
        x: positive numbers, such as numbers of images; several runs may share one.
        y: the values, such as errors or losses.
        seed: int, seed of the bootstrap.

    Raises:
        ValueError: there are fewer than 4 different `x`, an `x` is not a positive finite
            number, or a `y` is not finite.

    Reference: Scaling Vision Transformers (arXiv:2106.04560) equation 1, without its
    shift of `x`, which needs points where the network has learned nothing.
    """
    x, y = np.asarray(x, "float64"), np.asarray(y, "float64")
    if not np.all(np.isfinite(y)) or not np.all((x > 0) & np.isfinite(x)):
        raise ValueError(
            f"A power law needs positive finite x and finite y; received {x} and {y}."
        )
    if len(np.unique(x)) < FEWEST:
        raise ValueError(
            f"A power law has three parameters and needs {FEWEST} different x or more; "
            f"received {np.unique(x)}."
        )
    x0 = float(np.exp(np.log(x).mean()))
    floor, scale, exponent = map(float, _parameters(x / x0, y))
    samples: list[np.ndarray] = []
    draw = np.random.default_rng(seed)
    while len(samples) < RESAMPLES:
        index = draw.integers(0, len(x), len(x))
        if len(np.unique(x[index])) >= min(FEWEST, len(np.unique(x)) - 1):
            samples.append(_parameters(x[index] / x0, y[index]))
    residuals = y - _law(x / x0, floor, scale, exponent)
    parameters = floor, scale, exponent
    return PowerLaw(*parameters, x0, float(x.max()), residuals, np.array(samples))


def _law(ratio, floor, scale, exponent):
    return floor + scale * ratio**-exponent


def _parameters(ratio, y):
    """Return the parameters that minimize the squared residuals."""
    low = max(y.min(), 1e-12)
    start = (0.5 * low, max(np.median(y) - 0.5 * low, 1e-12), 0.3)
    with warnings.catch_warnings():
        # The covariance, which is not used, does not exist for perfect fits.
        warnings.simplefilter("ignore", OptimizeWarning)
        limits = [0, 0, 0], [np.inf, np.inf, 5]
        found, _ = curve_fit(_law, ratio, y, start, bounds=limits, max_nfev=20_000)
    return found
