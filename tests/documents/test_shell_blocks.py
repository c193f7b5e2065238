"""The commands in shell blocks, read by the parsers of the commands themselves."""

import argparse
import importlib
import re
import shlex
import sys

import pytest

from keras_vit.cli import COMMANDS, command_line
from keras_vit.training import config as configs
from tests.documents.pages import BLOCKS, PAGES, ROOT

SHELL = [block for block in BLOCKS if block.language in ("", "bash", "sh")]
# Programs that are not ours; the shell's own words are read like them.
FOREIGN = {"curl", "docker", "done", "export", "printf", "python"}
BEFORE_COMMANDS = ("do", "srun")
ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


class Parsed(BaseException):
    """Raised in place of running a command, with its options."""


def commands(code):
    """Return the words of each command of a block; a loop has its first value."""
    for name, value in re.findall(r"for (\w+) in (\S+)", code):
        code = code.replace(f"${name}", value)
    lexer = shlex.shlex(
        code.replace("\\\n", " "), posix=True, punctuation_chars="|;&<>\n"
    )
    lexer.whitespace, lexer.whitespace_split = " \t", True
    found = [[]]
    for word in lexer:
        if word.strip("|;&\n"):
            found[-1].append(word)
        else:
            found.append([])
    for words in found:
        while words and (ASSIGNMENT.fullmatch(words[0]) or words[0] in BEFORE_COMMANDS):
            del words[0]
        if words and words[0] != "for":
            yield words[: words.index(">")] if ">" in words else words


def parse(words, monkeypatch):
    """Return the options that a command's own parser finds in its arguments."""
    parse_args = argparse.ArgumentParser.parse_args

    def parse_and_stop(self, *arguments, **named):
        self.allow_abbrev = False
        raise Parsed(parse_args(self, *arguments, **named))

    if words[0] == "keras-vit":
        assert words[1] in COMMANDS
        module, *rest = f"keras_vit.cli.parsers.{words[1].replace('-', '_')}", *words[2:]
    else:
        assert words[1] == "-m"
        module, *rest = words[2:]
        if (ROOT / module.replace(".", "/") / "__main__.py").exists():
            module += ".__main__"
    monkeypatch.setattr(sys, "argv", [words[0], *rest])
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    program = importlib.import_module(module)
    with pytest.raises(Parsed) as parsed:
        program.parse(rest) if words[0] == "keras-vit" else program.main()
    return parsed.value.args[0]


@pytest.mark.any_backend
@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands(block, monkeypatch):
    for words in commands(block.code):
        with monkeypatch.context() as patch:
            check(words, patch)


def check(words, monkeypatch):
    """Check one command of a block."""
    program, *rest = words
    if program == "keras-vit" or rest[:1] == ["-m"]:
        options = parse(words, monkeypatch)
        if not hasattr(options, "settings"):
            return
        settings = [s for s in command_line.settings(options) if not s.endswith("=...")]
        known = options.what in configs.names()
        config = configs.load(options.what) if known else command_line.UNSPECIFIED
        configs.override(config, settings)
    elif program == "make":
        targets = re.findall(
            r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE
        )
        assert set(rest) <= set(targets)
    elif program == "pip":
        text = (ROOT / "pyproject.toml").read_text()
        extras = re.findall(
            r"^([\w-]+) = \[", text.partition("optional-dep")[2], re.MULTILINE
        )
        named = ",".join(re.findall(r"\[([\w,-]+)\]", " ".join(rest)))
        assert set(filter(None, named.split(","))) <= set(extras)
    else:
        assert program in FOREIGN


@pytest.mark.any_backend
def test_settings_that_the_text_names():
    text = "".join(page.read_text() for page in PAGES)
    settings = set(re.findall(r"`(?:--set )?([a-z_]+(?:\.[a-z_]+)?=[^`=]+)`", text))
    sections = "augmentation|data|distillation|flexible|masking|model|optimization"
    settings = {s for s in settings if re.match(rf"({sections})\.", s)}
    config = configs.load("digits_vit")
    for setting in settings:
        if not setting.endswith("..."):
            configs.override(config, [setting])
    # `data` and `model` are also names of a module and of a variable.
    sections = "augmentation|distillation|flexible|masking|optimization"
    for section, key in re.findall(rf"`({sections})\.([a-z_]+)", text):
        assert hasattr(getattr(config, section), key), f"{section}.{key}"
    assert len(settings) > 3
