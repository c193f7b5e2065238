"""Tables of the networks that keras_vit reads."""

import collections
import importlib.metadata
import json
import pathlib
from typing import Any

CONFIGS = {
    "published": "config.json as published",
    "saved": "config.json as saved by the library",
    "bare": "weights only",
}
VERDICTS = ("exact", "exact with arguments", "refused", "wrong", "failed")


def verdict(row: dict[str, Any], config: str) -> str:
    """Return the verdict on a network, one of `VERDICTS`."""
    if "failure" in row:
        return "failed"
    outcome = row[config]
    if outcome["verdict"] == "exact" and outcome["arguments"]:
        return "exact with arguments"
    return outcome["verdict"]


def configs(rows: list[dict[str, Any]]) -> list[str]:
    """Return the kinds of configuration that the rows have."""
    return [config for config in CONFIGS if any(config in row for row in rows)]


def totals(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return a table with the number of networks by configuration and verdict."""
    table = [["", *VERDICTS, "largest difference"]]
    for config in configs(rows):
        counts = collections.Counter(verdict(row, config) for row in rows)
        differences = [
            row[config]["difference"]
            for row in rows
            if verdict(row, config).startswith("exact")
        ]
        largest = f"{max(differences):.1e}" if differences else "-"
        table.append([CONFIGS[config], *(str(counts[v]) for v in VERDICTS), largest])
    return table


def missing(rows: list[dict[str, Any]]) -> list[list[str]]:
    """Return a table of the networks that are not exact with the first configuration.

    They are grouped by the verdict and by what distinguishes them.
    """
    config = next(iter(configs(rows)), "")
    groups = collections.defaultdict(list)
    for row in rows:
        found = verdict(row, config)
        if not found.startswith("exact"):
            groups[found, ", ".join(row.get("ideas", [])) or "-"].append(row)
    titles = ["networks", "verdict", "what distinguishes them", "names"]
    table = [[*titles, "reason for the first"]]
    for (found, ideas), group in sorted(groups.items(), key=lambda item: -len(item[1])):
        names = ", ".join(row["name"] for row in group)
        reason = group[0].get("failure") or group[0][config]["reason"]
        table.append([str(len(group)), found, ideas, names, reason])
    return table


def _markdown(table: list[list[str]]) -> str:
    escaped = [[cell.replace("|", "\\|") for cell in line] for line in table]
    lines = ["| " + " | ".join(line) + " |" for line in escaped]
    lines.insert(1, "|" + "---|" * len(table[0]))
    return "\n".join(lines)


def summary(rows: list[dict[str, Any]]) -> str:
    """Return the totals and the networks that are not exact as text."""
    lines = ["", *(" | ".join(line) for line in totals(rows)), ""]
    lines.append(f"{_title(rows)}:")
    for number, found, ideas, names, reason in missing(rows)[1:]:
        lines.append(f"{number:>4}  {found}, {ideas}: {names} ({reason})")
    return "\n".join(lines)


def _title(rows):
    """Return the title of the table `missing`."""
    kinds = configs(rows)
    return "Not exact" + (f" with {CONFIGS[kinds[0]]}" if kinds else "")


def write_report(library: str, rows: list[dict[str, Any]], path: pathlib.Path) -> None:
    """Write the results as `path`.json and `path`.md.

    Args:
        library: str, name of the library.
        rows: list of the rows of `recipes.compatibility`.
        path: path without extension.
    """
    version = importlib.metadata.version(library)
    data = {"library": library, "version": version, "rows": rows}
    kinds = configs(rows)
    table = [["name", *(CONFIGS[kind] for kind in kinds), "difference", "reason"]]
    for row in rows:
        if "failure" in row:
            table.append([row["name"], *["failed"] * len(kinds), "-", row["failure"]])
            continue
        cells = []
        for kind in kinds:
            given = ", ".join(f"`{k}`" for k in row[kind]["arguments"])
            cells.append(row[kind]["verdict"] + (f" with {given}" if given else ""))
        differences = [row[kind]["difference"] or 0.0 for kind in kinds]
        reason = next(filter(None, (row[kind]["reason"] for kind in kinds)), "")
        worst = f"{max(differences):.1e}" if any(differences) else "-"
        table.append([row["name"], *cells, worst, reason])
    text = (
        f"# Networks of {library} {version}\n\n"
        f"Written by `python -m recipes.compatibility {library}`: a small network of "
        f"each name, with perturbed weights, saved by {library} and loaded by keras_vit. "
        "Exact networks have the same tokens after the last norm, pooled features and "
        "logits, within 1e-4 of the largest value.\n\n"
        f"{_markdown(totals(rows))}\n\n"
        f"## {_title(rows)}\n\n"
        f"{_markdown(missing(rows))}\n\n"
        "## All networks\n\n"
        f"{_markdown(table)}\n"
    )
    path.with_suffix(".json").write_text(json.dumps(data, indent=1) + "\n")
    path.with_suffix(".md").write_text(text)
