"""Load a small checkpoint of every network of timm or transformers and compare it.

Each network is built by its own library with two blocks and perturbed weights, saved, and
loaded by `keras_vit.load_checkpoint`: with config.json, and the bare weights. The tokens
after the last norm, the pooled features and the logits must agree within 1e-4 of their
largest value ("exact"), or an error must refuse the file ("refused"). Anything else is
"wrong".

    python -m recipes.compatibility timm
    python -m recipes.compatibility timm vit_small_patch16_dinov3 'eva02_*'
    python -m recipes.compatibility transformers

Without names, all networks are compared and the table is written to docs/results/. Run
the same command again to resume an interrupted sweep. The environment needs timm or
transformers, and torch.
"""

import argparse
import fnmatch
import functools
import hashlib
import importlib.metadata
import json
import multiprocessing
import pathlib
import sys

from recipes.compatibility.networks import CHECKS, check, start_worker
from recipes.compatibility.report import CONFIGS, summary, write_report

ROOT = pathlib.Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"


def names_of(library):
    """Return the names of all networks of a library."""
    if library == "timm":
        from recipes.compatibility import timm_networks

        return timm_networks.names()
    from recipes.compatibility import transformers_networks

    return transformers_networks.names()


def fingerprint(library):
    """Return a hash of the code and of the versions that determine the results."""
    import keras

    digest = hashlib.sha256()
    for package in (library, "torch", "keras", keras.backend.backend()):
        version = importlib.metadata.version(package)
        digest.update(f"{package} {version}\n".encode())
    for directory in ("keras_vit", "recipes/compatibility"):
        for path in sorted((ROOT / directory).rglob("*")):
            if path.suffix in (".py", ".toml"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def unfinished(path, library):
    """Return the rows of an interrupted sweep of the same code and versions, by name."""
    lines = path.read_text().splitlines() if path.exists() else []
    code = fingerprint(library)
    if not lines or lines[0] != code:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code + "\n")
        return {}
    rows = [json.loads(line) for line in lines[1:] if line.endswith("}")]
    return {row["name"]: row for row in rows}


def main():
    parser = argparse.ArgumentParser(
        prog="python -m recipes.compatibility",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("library", choices=CHECKS)
    parser.add_argument("names", nargs="*", help="names or patterns; default: all")
    parser.add_argument("--processes", type=int, default=2, help="default: 2")
    arguments = parser.parse_args()
    library, patterns = arguments.library, arguments.names
    names = names_of(library)
    chosen = [n for n in names if any(fnmatch.fnmatch(n, p) for p in patterns)]
    if patterns and not chosen:
        parser.error(f"{library} has no network named {', '.join(patterns)}")
    rows, part = {}, ROOT / "runs" / "compatibility" / f"{library}.jsonl"
    if not patterns:
        chosen, rows = names, unfinished(part, library)
    todo = [name for name in chosen if name not in rows]
    context = multiprocessing.get_context("spawn")
    processes = min(arguments.processes, len(todo)) or 1
    with context.Pool(processes, start_worker) as pool:
        for row in pool.imap_unordered(functools.partial(check, library), todo):
            rows[row["name"]] = row
            print(line(row), flush=True)
            if not patterns:
                with part.open("a") as file:
                    file.write(json.dumps(row) + "\n")
    table = [rows[name] for name in chosen]
    print(summary(table))
    if not patterns:
        write_report(library, table, RESULTS / f"compatibility_{library}")
        part.unlink()
    sys.exit(not all(map(is_right, table)))


def is_right(row):
    """Return True if a network is exact or refused with every configuration."""
    return "failure" not in row and all(
        row[config]["verdict"] != "wrong" for config in CONFIGS if config in row
    )


def line(row):
    """Return one line about a network."""
    if "failure" in row:
        return f"{row['name']}: FAILED: {row['failure']}"
    parts = []
    for config in CONFIGS:
        if config in row:
            outcome = row[config]
            given = ", ".join(f"{k}={v!r}" for k, v in outcome["arguments"].items())
            parts.append(f"{config} {outcome['verdict']}" + (f" ({given})" * bool(given)))
    reasons = [row[c]["reason"] for c in CONFIGS if c in row]
    reason = next(filter(None, reasons), "")
    return f"{row['name']}: {'; '.join(parts)}{f': {reason}' if reason else ''}"


if __name__ == "__main__":
    main()
