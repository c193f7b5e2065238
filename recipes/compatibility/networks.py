"""Comparison of one network, for a pool of processes."""

import pathlib
import tempfile


def check_timm(name):
    """Return the row of the table for an architecture of timm."""
    from recipes.compatibility import timm_networks
    from recipes.compatibility.comparison import compare

    network = timm_networks.build(name)
    images = timm_networks.images(network)
    expected = timm_networks.outputs(network, images)
    row = {"name": name, "ideas": timm_networks.ideas(network)}
    with tempfile.TemporaryDirectory() as directory:
        for config in ("published", "saved", "bare"):
            path = timm_networks.save(network, pathlib.Path(directory), config)
            answers = timm_networks.answers(network, name) if config == "bare" else None
            row[config] = compare(path, images, expected, answers)._asdict()
    return row


def check_transformers(name):
    """Return the row of the table for a class of transformers."""
    from recipes.compatibility import transformers_networks
    from recipes.compatibility.comparison import compare

    network = transformers_networks.build(name)
    images = transformers_networks.images(network)
    expected = transformers_networks.outputs(network, images)
    row = {"name": name, "ideas": []}
    with tempfile.TemporaryDirectory() as directory:
        for config in ("saved", "bare"):
            path = transformers_networks.save(network, pathlib.Path(directory), config)
            answers = transformers_networks.answers(network)
            row[config] = compare(
                path, images, expected, answers if config == "bare" else None
            )._asdict()
    return row


CHECKS = {"timm": check_timm, "transformers": check_transformers}


def check(library, name):
    """Return the row of the table for a network, also if the comparison fails."""
    try:
        return CHECKS[library](name)
    except Exception as error:  # The libraries raise errors of any kind.
        return {"name": name, "failure": f"{type(error).__name__}: {error}"}


def start_worker():
    import torch

    torch.set_num_threads(1)
