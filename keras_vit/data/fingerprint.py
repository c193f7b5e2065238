"""Fingerprints of data sets, so that a run is only resumed on the same data."""

import base64
import collections
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any

from keras_vit.data.source import Source

# Data sets with more examples are recorded as one row per class, with the number of its
# examples and a hash of them.
MOST_ROWS = 100_000
# Number of names that an error lists for each kind of change.
LISTED = 3


def fingerprints(sources: Mapping[str, Source]) -> dict[str, str]:
    """Return the fingerprint of each data set as a compact string.

    A fingerprint covers the ids, the labels and the order of the examples, the names of
    the classes, and the sizes and contents of the files; of the contents of a data set
    above 64 MiB, it covers samples.

    Args:
        sources: dict from the part of the run (`train`, `validation`, `test`) to its
            source.

    Returns:
        Dict with the same keys.
    """
    return {part: _packed(_description(source)) for part, source in sources.items()}


def digest(fingerprint: str) -> str:
    """Return a short text that is the same for equal data sets on every host.

    Versions of zlib compress the same description to different fingerprints.

    Args:
        fingerprint: a value that `fingerprints` returned.
    """
    return hashlib.sha256(json.dumps(_unpacked(fingerprint)).encode()).hexdigest()[:16]


def check_unchanged(
    before: Mapping[str, str], now: Mapping[str, str], sources: Mapping[str, Source]
) -> None:
    """Check that the data sets have not changed since the last checkpoint of a run.

    Args:
        before: fingerprints in the state of the run, of this version or an earlier one.
            Parts without one are not checked; the first version did not record them.
        now: current fingerprints.
        sources: dict from the part of the run to its source.

    Raises:
        ValueError: a data set has changed; the message lists the changes.
    """
    for part, text in now.items():
        if part not in before or before[part] == text:
            continue
        old, new = _unpacked(before[part]), _unpacked(text)
        if "version" not in old:
            new = _description(sources[part], version=1)
        if changes := _changes(old, new):
            raise ValueError(
                f"data.{part}={sources[part].name!r} has changed since the last "
                f"checkpoint of the run: {'; '.join(changes)}. The run cannot be resumed "
                "on other data: restore the set, or choose another --workdir to start "
                "from scratch."
            )


def _description(source, version=2) -> dict[str, Any]:
    rows = source.listing() if source.listing is not None else []
    if version == 1:  # Recorded only the size of a file instead of a sample.
        rows = [(name, label, text.partition(" ~")[0]) for name, label, text in rows]
    if len(rows) > MOST_ROWS:
        rows = _by_class(rows, source.class_names)
    described = {
        "classes": list(source.class_names),
        "examples": source.num_examples,
        "rows": [list(row) for row in rows],
    }
    return described if version == 1 else {"version": version, **described}


def _by_class(rows, class_names):
    """Return one row per class, with the number of its examples and a hash of them."""
    classes = collections.defaultdict(list)
    if isinstance(rows[0][1], list):  # Not one class per image: all are one group.
        class_names, rows = ["all"], [(name, 0, [*rest]) for name, *rest in rows]
    for row in rows:
        classes[row[1]].append(row)
    return [
        (
            f"class {class_names[label]}",
            label,
            f"{len(own)} {hashlib.sha256(json.dumps(own).encode()).hexdigest()[:16]}",
        )
        for label, own in classes.items()
    ]


def _packed(description):
    text = json.dumps(description, separators=(",", ":"))
    return base64.b64encode(zlib.compress(text.encode())).decode()


def _unpacked(text):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def _changes(old, new) -> list[str]:
    """Return the changes between two descriptions, each as a part of a sentence."""
    if old == new:  # Different versions of zlib compress differently.
        return []
    changes: list[str] = []
    if old["classes"] != new["classes"]:
        added = [name for name in new["classes"] if name not in set(old["classes"])]
        removed = [name for name in old["classes"] if name not in set(new["classes"])]
        changes += _named("classes", "added", added)
        changes += _named("classes", "removed", removed)
        changes = changes or ["the order of its classes differs"]
    if old["examples"] != new["examples"]:
        changes.append(f"{old['examples']:,} examples became {new['examples']:,}")
    before, after = ({name: rest for name, *rest in side["rows"]} for side in (old, new))
    both = [name for name in after if name in before]
    changes += _named("", "added", [name for name in after if name not in before])
    changes += _named("", "removed", [name for name in before if name not in after])
    relabelled = [name for name in both if before[name][0] != after[name][0]]
    if old["classes"] == new["classes"]:
        changes += _named("", "relabeled", relabelled)
    other = [name for name in both if before[name][1] != after[name][1]]
    changes += _named("", "with other contents", other)
    return changes or ["the order of its examples differs"]


def _named(what, change, names):
    if not names:
        return []
    listed = ", ".join(map(str, names[:LISTED])) + ", ..." * (len(names) > LISTED)
    return [f"{len(names):,} {what}{' ' if what else ''}{change} ({listed})"]
