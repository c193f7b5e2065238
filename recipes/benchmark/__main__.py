"""Speed and memory of keras_vit, beside KerasHub, timm and transformers.

python -m recipes.benchmark [WHAT ...] [options]

Contestants run in turn (A B C A B C ...), each in its own process, on the same machine in
the same minutes; what is told is the median over the alternations, the smallest and the
largest, and ratios of values of the same alternation. For each WHAT there will be a table
(.txt), a picture (.png) and all values with machine, versions and settings (.json).

Examples:
  python -m recipes.benchmark inference training
  python -m recipes.benchmark training --variant S16 --batch 32 --dtype mixed_bfloat16
  python -m recipes.benchmark inference --contestants keras_vit-jax timm timm-compile
  python -m recipes.benchmark --variant Ti16 --batch 1 --alternations 1   # everything

WHAT is one or more of:
"""

import argparse
import json
import pathlib
import statistics
import sys
import time

from keras_vit.models.variants import VIT_SIZES
from recipes.benchmark import machine, report, runner
from recipes.benchmark.contestants import CONTESTANTS, DEFAULT_CONTESTANTS
from recipes.benchmark.measurements import HEAD_DIM, MEASUREMENTS, Options

VARIANTS = [name.removeprefix("ViT") for name in VIT_SIZES]
DTYPES = ("float32", "bfloat16", "mixed_bfloat16")
# These are also told as a fraction of the rate that `matmul` gives.
NEED_RATE = ("inference", "training", "resolution", "depth", "width")


def main():
    parser = argument_parser()
    arguments = parser.parse_args()
    options = chosen_options(parser, arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    names = arguments.what or list(MEASUREMENTS)
    if set(names) & set(NEED_RATE):
        names = ["matmul", *names]
    names = list(dict.fromkeys(names))
    for number, name in enumerate(names):
        print(f"\n{name} ({number + 1} of {len(names)})", flush=True)
        try:
            measure(name, options, arguments)
        except KeyboardInterrupt:
            done = ", ".join(names[:number]) or "nothing"
            sys.exit(f"\nInterrupted in {name}; {options.out}/ has: {done}.")
    print(f"\nEverything is in {options.out}/")


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
        action="append",
        choices=VARIANTS,
        help="a size, once or more often; the first is that of resolution, depth and "
        "width (default: S16 and B16)",
    )
    add("--batch", type=positive, default=8, help="default: %(default)s")
    add("--alternations", type=positive, default=5, help="default: %(default)s")
    add(
        "--repetitions",
        type=positive,
        default=5,
        help="forward passes or steps in an alternation; their median is its value "
        "(default: %(default)s)",
    )
    add(
        "--contestants",
        nargs="+",
        choices=CONTESTANTS,
        default=DEFAULT_CONTESTANTS,
        metavar="NAME",
        help=f"of {', '.join(CONTESTANTS)} (default: {', '.join(DEFAULT_CONTESTANTS)})",
    )
    add(
        "--reference",
        metavar="NAME",
        help="contestant that all are compared with (default: keras_vit is compared with "
        "keras_hub and keras on the same backend, and with timm)",
    )
    add("--dtype", choices=DTYPES, default="float32", help="default: %(default)s")
    add("--image-size", type=positive, default=224, help="default: %(default)s")
    for option, default in [
        ("--resolutions", [224, 384, 512, 768, 1024]),
        ("--depths", [6, 12, 24]),
        ("--widths", [192, 384, 768]),
    ]:
        listed = " ".join(map(str, default))
        add(
            option,
            type=positive,
            nargs="+",
            default=default,
            metavar="N",
            help=f"default: {listed}",
        )
    add(
        "--out",
        type=pathlib.Path,
        default=pathlib.Path("runs", "benchmark"),
        help="directory; results of the same WHAT in it are replaced (default: "
        "%(default)s)",
    )
    return parser


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more; received {text}")
    return value


def chosen_options(parser, arguments):
    """The options; ends the program where they cannot be."""
    unknown = [name for name in arguments.what if name not in MEASUREMENTS]
    if unknown:
        parser.error(
            f"unknown WHAT: {', '.join(unknown)}; choose from {', '.join(MEASUREMENTS)}."
        )
    variants = list(dict.fromkeys(arguments.variant or ["S16", "B16"]))
    image_sizes = {"--image-size": [arguments.image_size]}
    if not arguments.what or "resolution" in arguments.what:
        image_sizes["--resolutions"] = arguments.resolutions
    for option, values in image_sizes.items():
        for variant in variants if option == "--image-size" else variants[:1]:
            patch = VIT_SIZES[f"ViT{variant}"][0]
            if any(value % patch for value in values):
                parser.error(
                    f"{option}: the patch of {variant}, {patch}, must divide the image "
                    f"size; received {values}."
                )
    if any(d % HEAD_DIM for d in arguments.widths):
        parser.error(
            f"--widths must be multiples of {HEAD_DIM}, the width of a head; received "
            f"{arguments.widths}."
        )
    contestants = []
    for name in dict.fromkeys(arguments.contestants):
        if missing := CONTESTANTS[name].missing:
            print(f"Left out: {name} ({', '.join(missing)} not installed)")
        else:
            contestants.append(CONTESTANTS[name])
    if not contestants:
        parser.error("none of the contestants is installed.")
    if arguments.reference and arguments.reference not in {c.name for c in contestants}:
        parser.error(
            f"--reference {arguments.reference} is not among the contestants: "
            f"{', '.join(c.name for c in contestants)}."
        )
    return Options(
        variants,
        contestants,
        arguments.batch,
        arguments.image_size,
        arguments.dtype,
        arguments.repetitions,
        arguments.resolutions,
        arguments.depths,
        arguments.widths,
        arguments.out,
    )


def measure(name, options, arguments):
    """Runs one WHAT, and writes its three files."""
    start = time.monotonic()

    def progress(line):
        print(f"  [{time.monotonic() - start:5.0f} s] {line}", flush=True)

    cases = list(MEASUREMENTS[name](options))
    log = options.out / f"{name}.log"
    log.unlink(missing_ok=True)
    record = {"what": name, "dtype": options.dtype, **machine.record()}
    rows = runner.run(cases, arguments.alternations, log, progress)
    record |= {
        "left_out": {
            n: CONTESTANTS[n].missing
            for n in arguments.contestants
            if CONTESTANTS[n].missing
        },
        "seconds": round(time.monotonic() - start, 1),
        "rows": [row.record() for row in rows],
    }
    (options.out / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    rate = machine_rate(options.out / "matmul.json")
    title = f"{name}, {options.dtype}"
    text = report.table(title, rows, rate, arguments.reference)
    for missing, packages in record["left_out"].items():
        text += f"\nLeft out: {missing} ({', '.join(packages)} not installed)\n"
    text += f"\n{record['cpu']}, {record['cores']} cores; {devices(rows)}; "
    text += f"{record['date']}; median (smallest to largest) of "
    text += f"{arguments.alternations} alternations\n"
    (options.out / f"{name}.txt").write_text(text)
    report.chart(title, rows, options.out / f"{name}.png")
    print(f"\n{text}", flush=True)


def devices(rows):
    return "computed on " + ", ".join(sorted({r.device for r in rows if r.device}))


def machine_rate(path):
    """GFLOP/s of the best framework's matrix product, or None."""
    if not path.exists():
        return None
    rows = json.loads(path.read_text())["rows"]
    rates = [statistics.median(row["values"]) for row in rows if row["values"]]
    return max(rates, default=None)


if __name__ == "__main__":
    main()
