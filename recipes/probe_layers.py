r"""Linear probe of every block of several models, as a table and a picture.

python -m recipes.probe_layers NAME=CONFIG_OR_RUN ... --out DIRECTORY [--data-dir DIR]
    [--set key=value]

Each model is a config, for random weights, or the directory of a run. The features of a
block are the mean of its tokens after the model's last norm, or its class token; the
probe is that of `keras-vit probe` on all images. The scale and shift of the norm cancel,
because the probe standardizes features, so that these are the features of iGPT's paper.
`--palette NAME` gives models with random weights the palette of another model.

Example:

  python -m recipes.probe_layers next=runs/digits_igpt masked=runs/digits_igpt_masked \
      random=digits_igpt --palette next --out docs/results/igpt_digits

It writes probes.json, probes.md and probes.png.

Reference: Chen et al., "Generative Pretraining from Pixels" (ICML 2020), figure 2.
"""

import argparse
import json
import pathlib
from typing import Any

import keras
import numpy as np

from keras_vit.evaluation.accuracy import outputs
from keras_vit.evaluation.features import class_token_or_mean
from keras_vit.evaluation.linear_probe import probe
from keras_vit.models.features import blocks_of
from keras_vit.training import config as configs
from keras_vit.training.image_sets import check_single, open_parts
from keras_vit.training.networks import network
from keras_vit.training.runs import check_classes
from keras_vit.training.starting_point import config_of


def main(words: list[str] | None = None) -> None:
    """Run the program.

    Args:
        words: command-line arguments; None for those of the process.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=CONFIG_OR_RUN")
    parser.add_argument("--out", required=True, type=pathlib.Path)
    parser.add_argument("--palette", metavar="NAME")
    parser.add_argument("--data-dir", metavar="DIR")
    parser.add_argument("--set", action="append", default=[], dest="changes")
    options = parser.parse_args(words)
    changes = [f"data.data_dir={options.data_dir}"] if options.data_dir else []
    changes += options.changes
    names = dict(text.split("=", 1) for text in options.models)
    settings = {
        name: configs.override(config_of(what, configs.load("digits_igpt")), changes)
        for name, what in names.items()
    }
    for config in settings.values():
        _check_data(config)
    networks = {name: _network(config) for name, config in settings.items()}
    if options.palette:
        # A NumPy array: two models must not share a JAX buffer, which `predict` donates.
        palette = keras.ops.convert_to_numpy(networks[options.palette].palette.palette)
        for name, config in settings.items():
            if config.model.weights is None:
                networks[name].palette.palette.assign(palette)
    results = {name: probes(networks[name], config) for name, config in settings.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "probes.json").write_text(json.dumps(results, indent=1))
    (options.out / "probes.md").write_text(table(results))
    picture(results, options.out / "probes.png")
    print(table(results))


def _check_data(config):
    """Raise a `ValueError` unless three data sets are there and share their classes."""
    data = config.data
    if not (data.train and data.validation and data.test):
        raise ValueError(
            "Probes need data.train, data.validation and data.test; received "
            f"{data.train!r}, {data.validation!r} and {data.test!r}."
        )
    check_single(data)
    check_classes(open_parts(data))


def _network(config):
    keras.utils.set_random_seed(config.seed)
    return network(config, include_top=False)


def probes(model: Any, config: configs.Config) -> list[float]:
    """Return the test accuracy of a linear probe of each block, the first one first.

    Args:
        model: a `ViT` or `ImageGPT` without a top.
        config: config with the data sets.
    """
    sources = open_parts(config.data)
    count = len(blocks_of(model))
    features = block_features(model)
    parts = {}
    for part, source in sources.items():
        rows, labels = zip(*outputs(features, source, config), strict=True)
        parts[part] = np.split(np.concatenate(rows), count, -1), np.concatenate(labels)
    classes = sources["train"].num_classes
    found = []
    for number in range(count):
        train, validation, test = (
            (parts[part][0][number], parts[part][1])
            for part in ("train", "validation", "test")
        )
        found.append(probe(train, validation, test, classes)["accuracy"])
    return found


def block_features(model: Any) -> Any:
    """Return a model with one output, whose equal parts are the features of the blocks.

    Args:
        model: a `ViT` or `ImageGPT` without a top.
    """
    count = len(blocks_of(model))
    tokens = model.feature_model(range(count), as_grid=False, prefix_tokens=True)
    maps = tokens(model.input)
    names = [f"block_{number}" for number in range(count)]
    pooled = [
        class_token_or_mean(model, maps[name], maps[f"{name}_prefix"]) for name in names
    ]
    features = keras.Model(model.input, keras.ops.concatenate(pooled, axis=-1))
    features.preprocessor = model.preprocessor
    return features


def table(results: dict[str, list[float]]) -> str:
    """Return the accuracies as a table in Markdown.

    Args:
        results: accuracies of the blocks by the names of the models.
    """
    depth = max(map(len, results.values()))
    lines = [f"| model | {' | '.join(f'block {i}' for i in range(depth))} |"]
    lines.append(f"|---|{'---|' * depth}")
    for name, values in results.items():
        cells = [f"{100 * value:.1f}" for value in values]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def picture(results: dict[str, list[float]], path: pathlib.Path) -> None:
    """Draw the accuracy of the probes against the number of the block.

    Args:
        results: as for `table`.
        path: the file.
    """
    from matplotlib import figure

    drawing = figure.Figure(figsize=(6, 4))
    axes = drawing.subplots()
    for name, values in results.items():
        axes.plot(range(len(values)), [100 * v for v in values], marker="o", label=name)
    axes.set_xlabel("block")
    axes.set_ylabel("accuracy of a linear probe, %")
    axes.legend()
    drawing.tight_layout()
    drawing.savefig(path)


if __name__ == "__main__":
    main()
