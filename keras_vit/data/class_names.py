"""Comparison of class names, between two data sources or a source and a model."""

import re
import unicodedata
from collections.abc import Sequence

from keras_vit.labels import imagenet_1k

# Number of names that an error message lists for each side.
_LISTED = 5


def check_class_names(
    given: str, names: Sequence[str], known: str, expected: Sequence[str], remedy: str
) -> None:
    """Check that labels stand for the same classes on both sides.

    Labels are positions in the list of classes, so the names must agree in order too.
    An ImageNet-1k synset id and the name of that synset are the same class. Names are
    compared after Unicode normalization, because macOS stores accents in folder names as
    separate characters.

    Args:
        given: description of the owner of `names` for the error message: a data source,
            as it was opened.
        names: class names in the order of the labels.
        known: description of the owner of `expected`: another source, a run, an export
            or a checkpoint.
        expected: class names in the order of the labels.
        remedy: what to do about a mismatch, the last sentences of the error message.

    Raises:
        ValueError: the numbers, the names or the order of the classes differ.
    """
    names, expected = (
        [unicodedata.normalize("NFC", str(name)) for name in side]
        for side in (names, expected)
    )
    if names == expected or _same_synsets(names, expected):
        return
    differences = []
    if len(names) != len(expected):
        differences.append(f"{given} has {len(names)} classes, {known} {len(expected)}")
    for here, own, other in ((given, names, expected), (known, expected, names)):
        others = set(other)
        if only := [name for name in own if name not in others]:
            differences.append(f"only {here} has {_listed(only)}")
    if not differences:
        differences.append(f"the order differs: {_order(given, names, known, expected)}")
    raise ValueError(
        f"The classes of {given} are not those of {known}: {'; '.join(differences)}. "
        f"{remedy}"
    )


def _listed(names):
    more = len(names) - _LISTED
    listed = ", ".join(map(repr, names[:_LISTED]))
    return listed + (f" and {more} more" if more > 0 else "")


def _order(given, names, known, expected):
    pairs = enumerate(zip(names, expected, strict=True))
    label, (here, there) = next((i, pair) for i, pair in pairs if pair[0] != pair[1])
    return f"label {label} is {here!r} in {given} and {there!r} in {known}"


def _same_synsets(names, expected):
    """Return True if both lists are ImageNet-1k's classes, as synset ids or names."""
    if len(names) != 1000 or len(expected) != 1000:
        return False
    rows = zip(imagenet_1k(), names, expected, strict=True)
    return all(_is_synset(row, a) and _is_synset(row, b) for row, a, b in rows)


def _is_synset(row, name):
    # transformers lists the synonyms of a synset, separated by commas, its name first.
    synset, word = row
    return name == synset or _plain(name.partition(",")[0]) == _plain(word)


def _plain(name):
    return re.sub(r"[\s_-]+", "_", name.strip()).casefold()
