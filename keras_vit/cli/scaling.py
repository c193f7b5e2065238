"""The command `keras-vit scaling`."""

import argparse
import pathlib

from keras_vit.cli import command_line
from keras_vit.training import config as configs
from keras_vit.training.scaling import study


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.reported():
        families = _families(options)
    with command_line.writing(options.workdir):
        results = study(
            families, options.workdir, options.fractions, options.steps, options.seeds
        )
    for name, law in results["laws"].items():
        print(f"\n{name}: {law if isinstance(law, str) else _in_words(law)}")
    print(f"\npoints and figures: {options.workdir}/scaling.json, scaling.png")


def _families(options):
    """Return the configs of the networks, by their names."""
    families: dict[str, configs.Config] = {}
    for what in (options.what, *options.others):
        name = pathlib.Path(what).stem
        if name in families:
            raise ValueError(
                f"{what}: the results of a study call each network by the name of its "
                f"config, and {name!r} is taken. Rename the file."
            )
        settings = command_line.settings(options)
        families[name] = configs.override(configs.load(what), settings)
    return families


def _in_words(law):
    """Return the parameters of a law and its extrapolation as text."""
    parts = []
    for name in ("floor", "scale", "exponent"):
        low, high = law[name]["interval"]
        parts.append(f"{name} {law[name]['value']:.4f} ({low:.4f} to {high:.4f})")
    beyond = law["extrapolation"]
    low, high = beyond["interval"]
    largest = max(map(abs, law["residuals"]))
    return (
        f"{', '.join(parts)}; largest residual {largest:.4f}\n"
        f"  at {beyond['x']:.3g}, ten times the largest: {beyond['value']:.4f} "
        f"({low:.4f} to {high:.4f})\n"
        "  warning: this is an extrapolation. The interval assumes that the law holds "
        "there, which these runs cannot show."
    )
