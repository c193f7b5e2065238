"""The command `keras-vit plan`."""

import argparse
import dataclasses
import difflib
import inspect

from keras_vit import api
from keras_vit.cli import command_line
from keras_vit.training import config as configs
from keras_vit.training import hardware
from keras_vit.training.plan import mesh_plans
from keras_vit.training.plan_report import report

# Images on each device in the plan of a variant, unless --batch is given.
IMAGES = 128


def run(options: argparse.Namespace) -> None:
    """Run the command.

    Args:
        options: the parsed options.
    """
    with command_line.reported():
        devices = hardware.load(options.hardware)
        for name in ("images", "image_bytes", "epochs"):
            value = getattr(options, name)
            if value is not None and value < 1:
                raise ValueError(
                    f"--{name.replace('_', '-')} must be 1 or more; received {value}. "
                    "Pass a larger number, or leave the option out."
                )
        config = _config(options, devices)
        plan = mesh_plans(config, devices)
        length = configs.is_config(options.what) or options.epochs is not None
        print(report(plan, config, devices, options.images, options.image_bytes, length))


def _config(options, devices):
    """Return the config of a name, or one for the variant of that name."""
    name = options.what
    # Not `dir(keras_vit)`: in a command, that package imports names when they are used.
    variants = [key for key in api.__all__ if _is_variant(key)]
    if name in variants:
        config = _variant(name, devices)
    elif configs.is_config(name):
        config = configs.load(name)
    else:
        near = difflib.get_close_matches(name, [*variants, *configs.names()], cutoff=0.4)
        raise ValueError(
            f"No variant and no config is called {name!r}. Near: "
            f"{', '.join(near) or 'none'}. Pass a variant such as ViTB16, a config of "
            "keras-vit pretrain, or the path of a Python file: my_config.py."
        )
    config = configs.override(config, command_line.settings(options))
    if config.batch_size < 1:
        raise ValueError(
            f"batch_size must be 1 or more; received {config.batch_size}. Use --batch N."
        )
    return config


def _is_variant(name):
    """Return True for functions such as `keras_vit.ViTB16`, and for `ViT`."""
    found = getattr(api, name)
    return found is api.ViT or (name[0].isupper() and inspect.isfunction(found))


def _variant(name, devices):
    """Return the config of a variant such as `ViTB16`."""
    return dataclasses.replace(
        command_line.UNSPECIFIED,
        about=f"A plan of {name}.",
        model=configs.Model(architecture=name),
        batch_size=IMAGES * devices.devices,
        dtype="float32" if devices.platform == "cpu" else "mixed_bfloat16",
        data=configs.Data(train="tfds:imagenet2012:train"),
    )
