"""Python source of configs, with a comment for every value."""

import dataclasses
import inspect
import json
import re
import textwrap

from keras_vit.training import config as configs

WIDTH = 90
INDENT = " " * 4


def source_of(name: str) -> str:
    """Return the source of a Python file that sets `CONFIG` to a config.

    Args:
        name: name of a config or path of a config file, as for `config.load`.

    Raises:
        ValueError: there is no such config.
    """
    return source_of_config(configs.load(name), f"A copy of {name}; change any value.")


def source_of_config(
    config: configs.Config, about: str, file: str = "my_config.py", command: str = ""
) -> str:
    """Return the source of a Python file that sets `CONFIG` to a config.

    Args:
        config: the config.
        about: the first line of the file's docstring.
        file: name of the file, for the command in its docstring.
        command: name of that command; by default, the one in the config.
    """
    kinds: dict[str, list[str]] = {}
    for kind in _kinds(config):
        kinds.setdefault(kind.__module__, []).append(kind.__name__)
    imports = [f"from {m} import {', '.join(sorted(kinds[m]))}" for m in sorted(kinds)]
    named = re.search(r"pretrain|finetune|sweep", config.command)
    command = command or (named[0] if named else "pretrain")
    weights = config.model.weights is None and "model.weights=" in config.command
    lines = [
        f'"""{about}',
        "",
        f"keras-vit {command} {file} "
        f"--workdir runs/my_config{' --set model.weights=PATH' if weights else ''}",
        '"""',
        "",
        *imports,
        "",
        f"CONFIG = {_call(config, '')}",
    ]
    return "\n".join(lines) + "\n"


def meanings(kind: type) -> dict[str, str]:
    """Return the first sentence of the documentation of each field of a dataclass.

    Args:
        kind: a dataclass whose docstring documents all fields.
    """
    documentation = inspect.getdoc(kind) or ""
    texts = dict(re.findall(r"^    (\w+): ((?:.|\n        )+)$", documentation, re.M))
    found = {}
    for field in dataclasses.fields(kind):
        sentence = re.split(r"(?<=\.) ", " ".join(texts[field.name].split()))[0]
        found[field.name] = sentence[0].upper() + sentence[1:]
    return found


def _kinds(config):
    """Yield the type of a config and of every part that differs from its default."""
    yield type(config)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and value != _default(field):
            yield from _kinds(value)


def _default(field):
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _call(value, indent):
    """Return the call that constructs a dataclass, with comments above its arguments."""
    known, inner, defaults = meanings(type(value)), indent + INDENT, []
    lines = [f"{type(value).__name__}("]
    for field in dataclasses.fields(value):
        current = getattr(value, field.name)
        if current == _default(field):
            defaults.append(f"{field.name}={_one_line(current)}")
            continue
        lines += _comment(known[field.name], inner)
        lines.append(f"{inner}{field.name}={_expression(current, inner, field.name)},")
    if defaults:
        lines += _comment(f"Defaults: {', '.join(defaults)}.", inner)
    return "\n".join([*lines, f"{indent})"])


def _comment(text, indent):
    mark = f"{indent}# "
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=mark,
        subsequent_indent=mark,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _expression(value, indent, name):
    """Return the source of a value that follows `name=` at an indent."""
    if dataclasses.is_dataclass(value):
        return _call(value, indent)
    text, inner = _one_line(value), indent + INDENT
    if len(f"{indent}{name}={text},") <= WIDTH:
        return text
    if isinstance(value, str):
        words = re.findall(r"\S+\s*|\s+", value)
        rows = [""]
        for word in words:
            if len(inner + _one_line(rows[-1] + word)) > WIDTH and rows[-1]:
                rows.append("")
            rows[-1] += word
        parts, ends = [_one_line(row) for row in rows], "()"
    elif isinstance(value, dict):
        parts = [
            f"{_one_line(key)}: {_expression(item, inner, _one_line(key) + ' ')},"
            for key, item in value.items()
        ]
        ends = "{}"
    else:
        parts = [f"{_expression(item, inner, '')}," for item in value]
        ends = "[]" if isinstance(value, list) else "()"
    return "\n".join([ends[0], *(inner + part for part in parts), indent + ends[1]])


def _one_line(value):
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        items = (f"{_one_line(key)}: {_one_line(v)}" for key, v in value.items())
        return f"{{{', '.join(items)}}}"
    if isinstance(value, list):
        return f"[{', '.join(map(_one_line, value))}]"
    if isinstance(value, tuple):
        return f"({', '.join(map(_one_line, value))}{',' * (len(value) == 1)})"
    return f"{type(value).__name__}()" if dataclasses.is_dataclass(value) else repr(value)
