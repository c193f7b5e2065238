r"""Train a model from a checkpoint, with other classes or at another size.

keras-vit finetune CONFIG_OR_CHECKPOINT --workdir DIR [--set key=value ...]

A config names its checkpoint in `model.weights`. A checkpoint is anything that
`keras_vit.load_checkpoint` reads, or the directory of a run, whose data set is then used
again. A checkpoint is trained as in the ViT paper: SGD with momentum 0.9, a cosine
schedule, gradient clipping at 1 and no weight decay. The head is replaced by a new one
and the position embeddings are resized.

Examples:

  keras-vit finetune runs/digits --workdir runs/digits_16 \
      --set model.arguments.input_shape=96,96,1 --set epochs=10
  keras-vit finetune vit_b16_cifar10 --workdir runs/cifar10 \
      --set model.weights=ViT-B_16.npz
"""

import dataclasses
from collections.abc import Sequence

from keras_vit.cli import command_line
from keras_vit.training import config as configs
from keras_vit.training import runs

# The settings of the ViT paper, appendix B.1.1 and table 4.
PAPER = configs.Optimization(
    optimizer="sgd", learning_rate=0.01, momentum=0.9, clip_norm=1.0
)


def configured(what: str) -> configs.Config:
    """Return the config of a fine-tuning run.

    Args:
        what: name of a config, a config file, or a checkpoint.

    Raises:
        ValueError: there is no such config or checkpoint.
    """
    otherwise = configs.Config(
        about=f"{what}, fine-tuned.",
        command=f"keras-vit finetune {what} --workdir ...",
        hardware="not specified",
        expected="none published",
    )
    config = command_line.config_of(what, otherwise)
    if not configs.is_config(what):
        config = dataclasses.replace(
            otherwise,
            data=config.data,
            augmentation=config.augmentation,
            model=config.model,
            batch_size=config.batch_size,
            optimization=PAPER,
        )
    return config


def train(config: configs.Config, workdir: str, resume: bool | None = None) -> dict:
    """Train from a checkpoint with `runs.train`.

    Args:
        config: config of the run.
        workdir: directory of the run.
        resume: whether to require (True) or to forbid (False) an existing run.

    Returns:
        The results of `runs.train`.

    Raises:
        ValueError: the config has no `model.weights`.
    """
    if config.model.weights is None:
        raise ValueError(
            "Fine-tuning begins with a checkpoint: --set model.weights=PATH, or the "
            "command keras-vit pretrain to begin with random weights."
        )
    return runs.train(config, workdir, resume)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = command_line.parser(
        "finetune", __doc__, "CONFIG_OR_CHECKPOINT", "directory of the run"
    )
    command_line.run(parser, arguments, lambda options: configured(options.what), train)
