"""Switch between the plain formulas and their fast forms."""

import functools
import os

from keras_vit.choices import check_choice

KINDS = ("fast", "plain")


def _checked(kind, source):
    check_choice(source, kind, KINDS)
    return kind


_in_use = _checked(os.environ.get("KERAS_VIT_KERNELS", "fast"), "KERAS_VIT_KERNELS")


def use(kind: str) -> None:
    """Choose between the plain formulas and their fast forms, for the whole process.

    The choice takes effect when a layer is built or called. Functions that are already
    compiled or traced (`model.predict` after its first call, for example) keep the forms
    they were compiled with, so choose before a model is made.

    Args:
        kind: `"fast"` (the default) or `"plain"`.

    Raises:
        ValueError: `kind` is neither of the two.

    Example:

    >>> import keras_vit
    >>> keras_vit.kernels.use("plain")
    >>> keras_vit.kernels.in_use()
    'plain'
    >>> keras_vit.kernels.use("fast")
    """
    global _in_use
    _in_use = _checked(kind, "kernels")


def in_use() -> str:
    """Return the forms that layers run: `"fast"` or `"plain"`.

    Example:

    >>> import keras_vit
    >>> keras_vit.kernels.in_use()
    'fast'
    """
    return _in_use


def fast_form(kernel):
    """Decorate a plain formula, so that `kernel` runs instead while `"fast"` is in use.

    Args:
        kernel: function of the same arguments that returns the same values, except for
            rounding. Its gradient agrees as well.

    Returns:
        A decorator. The decorated function has the plain formula as attribute `plain`,
        and `kernel`.
    """

    def decorate(plain):
        @functools.wraps(plain)
        def call(*args, **kwargs):
            function = kernel if _in_use == "fast" else plain
            return function(*args, **kwargs)

        call.plain, call.kernel = plain, kernel  # type: ignore[attr-defined]
        return call

    return decorate
