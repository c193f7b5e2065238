"""Configuration file of TF Serving for one or several models."""

import os
import re
from collections.abc import Mapping

_MODEL = """\
  config {{
    name: "{name}"
    base_path: "{path}"
    model_platform: "tensorflow"
{versions}  }}
"""


def models_config(
    models: Mapping[str, str | os.PathLike], all_versions: bool = False
) -> str:
    """Return the text of a `models.config` file for TF Serving.

    Start the server with `tensorflow_model_server --model_config_file=...`. A single
    model needs no such file: pass `--model_name=NAME --model_base_path=PATH` instead.

    Args:
        models: dict from the model name that clients request to the directory of the
            model's versions, an absolute path as seen by the server.
        all_versions: whether to serve all versions, each under its number, instead of
            only the highest.

    Returns:
        str, a `ModelServerConfig` in the text format of Protocol Buffers.

    Raises:
        ValueError: a path is not absolute, or a name or path is empty or has characters
            other than letters, digits and `_ - . / :` (paths may have spaces too).

    Example:

    >>> import keras_vit
    >>> print(keras_vit.export.models_config({"vit": "/models/vit"}))
    model_config_list {
      config {
        name: "vit"
        base_path: "/models/vit"
        model_platform: "tensorflow"
      }
    }
    <BLANKLINE>

    Reference: https://www.tensorflow.org/tfx/serving/serving_config
    """
    text = ""
    for name, path in models.items():
        path = os.fspath(path)
        if not re.fullmatch(r"[\w.-]+", name, re.ASCII):
            raise ValueError(
                "The name of a model must be letters, digits, '_', '-' and '.', as it is "
                f"a part of a URL; received {name!r}."
            )
        if not re.fullmatch(r"(/|[a-z0-9]+://)[\w ./:-]+", path, re.ASCII):
            raise ValueError(
                "A path must be absolute, or a URL as gs://bucket/model, of letters, "
                f"digits, spaces and _ - . / : ; received {path!r}."
            )
        versions = "    model_version_policy { all {} }\n" if all_versions else ""
        text += _MODEL.format(name=name, path=path, versions=versions)
    return f"model_config_list {{\n{text}}}\n"
