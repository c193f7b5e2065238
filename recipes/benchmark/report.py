"""Tables and charts of the results: medians, minima and maxima."""

import statistics

import matplotlib

matplotlib.use("Agg")  # This backend writes files and needs no display.
import matplotlib.pyplot as plt

from recipes.benchmark.runner import Row

COLORS = {
    "keras_vit": "C0",
    "keras_hub": "C1",
    "keras": "C1",
    "timm": "C2",
    "transformers": "C4",
    "t2t_vit": "C5",
    "jimm": "C6",
}


def comparisons(rows: list[Row]) -> dict[tuple[str, str], list[Row]]:
    """Group rows by group and figure.

    A contestant that failed before it measured anything appears in every comparison of
    its group.

    Args:
        rows: all rows of a measurement.

    Returns:
        Dict from `(group, figure)` to rows.
    """
    keys = dict.fromkeys((row.group, row.figure) for row in rows)
    # If nothing was measured in a group, its only figure is "".
    groups = {group for group, figure in keys if figure}
    return {
        (group, figure): [
            r for r in rows if r.group == group and r.figure in (figure, "")
        ]
        for group, figure in keys
        if figure or group not in groups
    }


def references(contestant: str, reference: str | None) -> list[str]:
    """Return the names of the contestants that one is compared with.

    Args:
        contestant: name of the contestant.
        reference: name of the reference that the user chose. If it is None, keras_vit is
            compared with keras_hub and keras on the same backend, timm, t2t_vit and
            jimm-jax, and exported files are compared with keras_vit-tensorflow.
    """
    if reference is not None:
        return [reference] if contestant != reference else []
    library, _, backend = contestant.partition("-")
    if library == "keras_vit":
        return [f"keras_hub-{backend}", f"keras-{backend}", "timm", "t2t_vit", "jimm-jax"]
    return ["keras_vit-tensorflow"] if library in ("SavedModel", "ONNX", "LiteRT") else []


def ratios(row: Row, other: Row) -> list[float]:
    """Return the ratio `row / other` for each alternation."""
    pairs = zip(row.values, other.values, strict=False)
    return [a / b for a, b in pairs if b]


def spread(values: list[float], digits: int = 4) -> str:
    """Format values as "median (minimum to maximum)"."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:.{digits}g} ({low:.{digits}g} to {high:.{digits}g})"


def table(title: str, rows: list[Row], rate: float | None, reference: str | None) -> str:
    """Return a table of results as plain text.

    Args:
        title: str, the first line.
        rows: list of results.
        rate: highest rate of the matrix product in GFLOP/s, or None if it was not
            measured.
        reference: see `references`.
    """
    lines = [title, "=" * len(title)]
    for (group, figure), members in comparisons(rows).items():
        lines += ["", f"{group}: {figure or 'nothing measured'}"]
        by_name = {row.contestant: row for row in members}
        for row in members:
            outcome = spread(row.values) if row.values else ""
            if row.error:
                outcome = f"{outcome} FAILED".lstrip()
            line = f"  {row.contestant:24} {outcome:34}"
            if row.flops and row.values:
                achieved = row.flops / statistics.median(row.values) / 1e9
                line += f" {achieved:8.1f} GFLOP/s"
                if rate:
                    line += f", {achieved / rate:4.0%} of matmul"
            lines.append(line.rstrip())
        for row in members:
            for name in references(row.contestant, reference):
                values = ratios(row, by_name[name]) if name in by_name else []
                if values:
                    pair = f"{row.contestant} / {name}"
                    lines.append(f"  {pair:46} {spread(values, 3)}")
    failures = {(row.group, row.contestant): row.error for row in rows if row.error}
    if failures:
        lines += ["", "Failed:"]
    lines += [f"  {group}: {name}: {error}" for (group, name), error in failures.items()]
    return "\n".join(lines) + "\n"


def chart(title: str, rows: list[Row], path) -> None:
    """Write a PNG chart with one panel for each group and figure.

    Each panel has one bar for each contestant, with whiskers from minimum to maximum.

    Args:
        title: str.
        rows: list of results.
        path: path of the file.
    """
    panels = list(comparisons(rows).items())
    if not panels:
        return
    columns = min(2, len(panels))
    lines = [panels[i : i + columns] for i in range(0, len(panels), columns)]
    heights = [0.8 + 0.3 * max(len(members) for _, members in line) for line in lines]
    figure, axes = plt.subplots(
        len(lines),
        columns,
        figsize=(6.5 * columns, sum(heights) + 0.5),
        height_ratios=heights,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    for axis, ((group, unit), members) in zip(axes.flat, panels, strict=False):
        values = [row.values or [0.0] for row in members]
        medians = [statistics.median(v) for v in values]
        below = [m - min(v) for m, v in zip(medians, values, strict=True)]
        above = [max(v) - m for m, v in zip(medians, values, strict=True)]
        names = [row.contestant + " (failed)" * bool(row.error) for row in members]
        colors = [COLORS.get(r.contestant.partition("-")[0], "C7") for r in members]
        axis.barh(names, medians, xerr=(below, above), color=colors, capsize=3)
        axis.invert_yaxis()
        axis.set_title(group, fontsize=10)
        axis.set_xlabel(unit)
        axis.grid(axis="x", alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=110)
    plt.close(figure)
