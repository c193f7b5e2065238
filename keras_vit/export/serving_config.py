"""The file that tells TF Serving which models to serve."""

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
    """Text of a `models.config`, for `tensorflow_model_server --model_config_file=...`.

    One model needs none: `--model_name=NAME --model_base_path=PATH` say the same.

    Args:
        models: dict from the name that clients ask for to the directory of the model's
            versions, as the server sees it: an absolute path.
        all_versions: whether all versions are served, each under its number, or only
            the highest.

    Returns:
        str, a `ModelServerConfig` in the text format of Protocol Buffers.

    Raises:
        ValueError: a name or path is empty or has other characters than letters,
            digits and `_ - . / :` (and in paths spaces), or a path is not absolute.

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

    Source: https://www.tensorflow.org/tfx/serving/serving_config
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
