"""The option `--data` of the commands that train: a run on the user's own photos."""

import argparse
import pathlib
import shlex
import sys
from typing import Any

from keras_vit.atomic_files import write_text
from keras_vit.cli import command_line
from keras_vit.training import config as configs
from keras_vit.training import dry_run, own_images
from keras_vit.training.config_source import source_of_config
from keras_vit.training.run_directory import DESCRIPTIONS, differences


def run(command: str, options: argparse.Namespace, config: configs.Config) -> None:
    """Train on the photos of `--data`, after a summary and a question.

    Args:
        command: name of the command, `"pretrain"` or `"finetune"`.
        options: the parsed options.
        config: config of the run, without the photos.
    """
    saved = options.save_config
    settings = [
        f"data.{name}={value}"
        for name in ("path_column", "label_column")
        if (value := getattr(options, name))
    ]
    settings += command_line.settings(options)
    if command == "finetune":
        own_images.check_weights(configs.override(config, settings))
    is_config = configs.is_config(options.what)
    prepared = own_images.prepare(
        config,
        options.data,
        settings,
        suggest=not is_config,
        workdir=options.workdir,
    )
    print(prepared.about)
    if saved is not None:
        about = f"{prepared.config.about} Change any value."
        text = source_of_config(prepared.config, about, saved, command)
        write_text(pathlib.Path(saved), text)
        print(f"config: {saved}")
    if options.dry_run:
        dry_run.report(prepared.config, prepared.sources)
    elif options.workdir is not None:

        def confirm(plan, model):
            own_images.announce(plan, model)
            if not is_config:
                print(f"Settings: {_settings(prepared.config)}")
                ask(options.yes)

        own_images.start(prepared, options.workdir, options.resume, confirm)
        command_line.write_report(options.workdir, prepared.config, prepared.sources)


def ask(yes: bool) -> None:
    """Ask whether to start, and exit if the answer is no.

    Scripts have no terminal, so the run then starts without a question.

    Args:
        yes: whether to start without a question.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        print("The input is not a terminal: the run starts without a question (--yes).")
        return
    try:
        answer = input("Start? [Y/n] ").strip().lower()
    except EOFError:
        answer = "n"
    if answer not in ("", "y", "yes"):
        sys.exit("not started; nothing was written")


def _settings(config: Any) -> str:
    """Return the values that differ from the defaults as settings for `--set`."""
    values = configs.to_dict(config)
    default = configs.to_dict(
        configs.Config(about="", command="", hardware="", expected="")
    )
    texts = []
    for key, _, new in differences(default, values):
        if key not in DESCRIPTIONS:
            texts.append(shlex.quote(f"{key}={new}"))
    return " ".join(texts)
