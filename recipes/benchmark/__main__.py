"""Benchmark of keras_vit against KerasHub, timm, transformers, jimm and T2T-ViT.

python -m recipes.benchmark [WHAT ...] [options]

The contestants take turns (A B C A B C ...), each in its own process, on the same machine
and within the same few minutes. The report gives the median, minimum and maximum over all
alternations, and the ratios of values from the same alternation. Each WHAT writes a table
(.txt), a chart (.png), and all values with the machine, versions and settings (.json).

If a contestant fails, hangs (see --timeout) or runs out of memory, it is reported as
failed and the others continue. The exit status is 1 only if nothing could be measured.
Ctrl-C writes the results so far and exits with status 130.

Examples:
  python -m recipes.benchmark inference training
  python -m recipes.benchmark training --variant S16 --batch 32 --dtype mixed_bfloat16
  python -m recipes.benchmark inference --contestants keras_vit-jax timm timm-compile
  python -m recipes.benchmark training --variant T2T14 --t2t-code T2T-ViT
    --contestants keras_vit-jax t2t_vit
  python -m recipes.benchmark --variant Ti16 --batch 1 --alternations 1   # everything

WHAT is one or more of:
"""

import argparse
import difflib
import json
import os
import pathlib
import shutil
import statistics
import sys
import time
import uuid
from dataclasses import asdict

from keras_vit.models.variants import VIT_SIZES
from recipes.benchmark import machine, original_t2t, report, runner
from recipes.benchmark.contestants import CONTESTANTS, DEFAULT_CONTESTANTS
from recipes.benchmark.measurements import (
    HEAD_DIM,
    MEASUREMENTS,
    T2T_PATCH,
    T2T_VARIANTS,
    Options,
)

VARIANTS = [*(name.removeprefix("ViT") for name in VIT_SIZES), *T2T_VARIANTS]
FAMILIES = ("vit", "dinov3")
DTYPES = ("float32", "bfloat16", "mixed_bfloat16")
# These results are also reported as a fraction of the FLOP rate that `matmul` measures.
NEED_RATE = (
    *("inference", "training", "inference-on-device", "training-on-device"),
    *("resolution", "depth", "width"),
)


def main(arguments: list[str] | None = None) -> None:
    """Run the command-line interface."""
    # The default of the command `keras-vit`, here for every contestant on TensorFlow.
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    parser = argument_parser()
    options = chosen_options(parser, arguments)
    names = options.what or list(MEASUREMENTS)
    if set(names) & set(NEED_RATE):
        names = ["matmul", *names]
    cases = {name: list(MEASUREMENTS[name](options)) for name in dict.fromkeys(names)}
    for name in [name for name, found in cases.items() if not found]:
        print(f"Left out: {name} (nothing to measure with these options)")
        del cases[name]
    if not cases:
        parser.error(
            f"{', '.join(names)}: nothing to measure with these variants and "
            "contestants; change --variant, --family or --contestants."
        )
    if options.reference:
        taking_part = dict.fromkeys(c.contestant for cs in cases.values() for c in cs)
        check_names(parser, "--reference", [options.reference], taking_part)
    options.out.mkdir(parents=True, exist_ok=True)
    rate, measured = None, False
    try:
        for number, name in enumerate(cases):
            print(f"\n{name} ({number + 1} of {len(cases)})", flush=True)
            rows = measure(name, cases[name], options, rate)
            measured |= any(row.values for row in rows)
            if name == "matmul":
                medians = [statistics.median(row.values) for row in rows if row.values]
                rate = max(medians, default=None)
    except KeyboardInterrupt:
        print(f"\nInterrupted; the results so far are in {options.out}/", file=sys.stderr)
        sys.exit(130)
    finally:
        shutil.rmtree(options.scratch, ignore_errors=True)
    if not measured:
        sys.exit(f"\nNothing could be measured; the reasons are in {options.out}/")
    print(f"\nAll results are in {options.out}/")


def argument_parser():
    listing = "\n".join(
        f"  {name:14} {function.__doc__}" for name, function in MEASUREMENTS.items()
    )
    parser = argparse.ArgumentParser(
        prog="python -m recipes.benchmark",
        description=f"{__doc__}{listing}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("what", nargs="*", metavar="WHAT", help="default: all of them")
    add(
        "--variant",
        dest="variants",
        action="append",
        choices=VARIANTS,
        help="model size; may be repeated, and resolution, depth and width use the first "
        "(default: S16 and B16)",
    )
    add(
        "--family",
        choices=FAMILIES,
        default="vit",
        help="plain ViT, or DINOv3 of the same sizes (default: %(default)s)",
    )
    add(
        "--batch",
        dest="batches",
        type=positive,
        nargs="+",
        default=[8],
        metavar="N",
        help="number of images; inference and training run with all that are given, the "
        "others with the first (default: 8)",
    )
    add("--alternations", type=positive, default=5, help="default: %(default)s")
    add(
        "--repetitions",
        type=positive,
        default=5,
        help="forward passes or steps in each alternation, of which the median is taken "
        "(default: %(default)s)",
    )
    add(
        "--timeout",
        type=positive,
        default=900,
        metavar="SECONDS",
        help="time limit for the preparation of a contestant and for each alternation; "
        "a contestant that exceeds it is killed and reported as failed "
        "(default: %(default)s)",
    )
    add(
        "--contestants",
        nargs="+",
        default=DEFAULT_CONTESTANTS,
        metavar="NAME",
        help=f"one or more of {', '.join(CONTESTANTS)} "
        f"(default: {', '.join(DEFAULT_CONTESTANTS)})",
    )
    add(
        "--reference",
        metavar="NAME",
        help="contestant that all others are compared with (default: keras_vit is "
        "compared with keras_hub and keras on the same backend, timm, t2t_vit and "
        "jimm-jax, and exported files with keras_vit-tensorflow)",
    )
    add(
        "--checkpoint",
        metavar="PATH",
        help="checkpoint whose features are compared by the measurement `features` "
        "(default: a random plain ViT of each variant)",
    )
    add(
        "--t2t-code",
        metavar="DIR",
        help="clone of https://github.com/yitu-opensource/T2T-ViT, for the contestants "
        "t2t_vit and t2t_vit-compile with the variants T2T7 to T2T24",
    )
    add("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    add("--image-size", type=positive, default=224, help="default: %(default)s")
    for option, default in [
        ("--resolutions", [224, 384, 512, 768, 1024]),
        ("--depths", [6, 12, 24]),
        ("--widths", [192, 384, 768]),
    ]:
        text = f"default: {' '.join(map(str, default))}"
        add(option, type=positive, nargs="+", default=default, metavar="N", help=text)
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs", "benchmark"),
        help="output directory, in which existing results of the same WHAT are replaced "
        "(default: %(default)s)",
    )
    return parser


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; received {text}")
    return value


def chosen_options(parser, arguments):
    """Parse the command line; exit with an error message if an option is invalid."""
    options = parser.parse_args(arguments, namespace=Options())
    check_names(parser, "WHAT", options.what, MEASUREMENTS)
    check_names(parser, "--contestants", options.contestants, CONTESTANTS)
    options.variants = list(dict.fromkeys(options.variants or ["S16", "B16"]))
    image_sizes = {"--image-size": ([options.image_size], options.variants)}
    if not options.what or "resolution" in options.what:
        image_sizes["--resolutions"] = options.resolutions, options.variants[:1]
    for option, (values, variants) in image_sizes.items():
        for variant in variants:
            patch = T2T_PATCH
            if variant not in T2T_VARIANTS:
                patch = VIT_SIZES[f"ViT{variant}"][0]
            if any(value % patch for value in values):
                parser.error(
                    f"{option}: the patch of {variant}, {patch}, must divide the image "
                    f"size; received {values}."
                )
    if any(d % HEAD_DIM for d in options.widths):
        parser.error(
            f"--widths must be multiples of {HEAD_DIM}, the width of a head; received "
            f"{options.widths}."
        )
    _check_t2t(parser, options)
    _check_features(parser, options)
    chosen = [CONTESTANTS[name] for name in dict.fromkeys(options.contestants)]
    options.left_out = {c.name: c.missing for c in chosen if c.missing}
    for name, packages in options.left_out.items():
        print(f"Left out: {name} ({', '.join(packages)} not installed)")
    options.contestants = [c for c in chosen if c.name not in options.left_out]
    if not options.contestants:
        parser.error("none of the contestants is installed.")
    # A unique name: another benchmark, or the user, may have files in the same directory.
    options.scratch = options.out.resolve() / f"scratch-{uuid.uuid4().hex}"
    return options


def _check_t2t(parser, options):
    """Exit with an error message if a variant and a contestant are of two families."""
    of_t2t = [variant in T2T_VARIANTS for variant in options.variants]
    original = [n for n in options.contestants if n.startswith("t2t_vit")]
    if original and not all(of_t2t):
        parser.error(f"{original[0]} has the variants {', '.join(T2T_VARIANTS)} only.")
    if not any(of_t2t):
        return
    if options.family != "vit":
        parser.error(f"--family {options.family}: T2T-ViT is a family of its own.")
    kin = ("t2t_vit", "keras_vit")
    others = [name for name in options.contestants if not name.startswith(kin)]
    if options.contestants == DEFAULT_CONTESTANTS:
        options.contestants = [n for n in options.contestants if n not in others]
    elif others:
        parser.error(f"{', '.join(others)}: no T2T-ViT there.")
    if original and not original_t2t.is_clone(options.t2t_code or ""):
        parser.error(
            f"{original[0]} needs --t2t-code DIR, a clone of "
            "https://github.com/yitu-opensource/T2T-ViT."
        )
    if options.t2t_code:
        os.environ[original_t2t.CODE] = str(pathlib.Path(options.t2t_code).resolve())


def _check_features(parser, options):
    """Exit with an error message if `features` is chosen and cannot make its models."""
    others = [v for v in options.variants if v not in options.plain_variants]
    if "features" in options.what and others and not options.checkpoint:
        parser.error(
            f"features: its random models are plain ViTs; received --family "
            f"{options.family} and the variants {', '.join(others)}. Pass --checkpoint "
            "PATH, or leave features out."
        )


def check_names(parser, argument, names, known):
    """Exit with an error message if a name is unknown.

    Args:
        parser: the argument parser.
        argument: name of the argument, for the message.
        names: the names that the user passed.
        known: the allowed names.
    """
    for name in names:
        if name not in known:
            nearest = difflib.get_close_matches(name, known, n=1)
            meant = f" (did you mean {nearest[0]}?)" if nearest else ""
            parser.error(
                f"unknown {argument}: {name}{meant}; choose from {', '.join(known)}."
            )


def measure(name, cases, options, rate):
    """Run one measurement and write its three files, even if it is interrupted.

    Args:
        name: name of the measurement.
        cases: list of `runner.Case`s.
        options: `Options` from the command line.
        rate: highest rate of the matrix product in GFLOP/s, or None.

    Returns:
        List of `runner.Row`s.
    """
    start = time.monotonic()

    def progress(line):
        print(f"  [{time.monotonic() - start:5.0f} s] {line}", flush=True)

    out = options.out
    rows: list[runner.Row] = []
    log = out / f"{name}.log"
    log.unlink(missing_ok=True)
    record = {"what": name, "family": options.family, "dtype": options.dtype}
    record |= machine.record({case.backend for case in cases})
    record |= {"left_out": options.left_out, "interrupted": True}
    try:
        runner.run(cases, options.alternations, options.timeout, log, rows, progress)
        record["interrupted"] = False
    finally:
        record["seconds"] = round(time.monotonic() - start, 1)
        record["rows"] = [asdict(row) for row in rows]
        (out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
        title = titled(name, cases, options.dtype)
        title += ", interrupted" * record["interrupted"]
        text = report.table(title, rows, rate, options.reference)
        for missing, packages in record["left_out"].items():
            text += f"\nLeft out: {missing} ({', '.join(packages)} not installed)\n"
        text += f"\n{record['cpu']}, {record['cores']} cores; {devices(rows)}; "
        text += f"{record['date']}; median (smallest to largest) of "
        text += f"{options.alternations} alternations\n"
        (out / f"{name}.txt").write_text(text)
        report.chart(title, rows, out / f"{name}.png")
        print(f"\n{text}", flush=True)
    return rows


def titled(name, cases, dtype):
    """Return the title of a measurement, with the dtype if its cases use it.

    Args:
        name: name of the measurement.
        cases: list of `runner.Case`s.
        dtype: `--dtype`.
    """
    uses = ["dtype" in case.parameters for case in cases]
    if all(uses):
        return f"{name}, {dtype}"
    return f"{name}, models in {dtype}" if any(uses) else name


def devices(rows):
    return "computed on " + ", ".join(sorted({r.device for r in rows if r.device}))


if __name__ == "__main__":
    main()
