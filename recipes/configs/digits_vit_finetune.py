"""`digits_vit`, fine-tuned at 96x96."""

import dataclasses

from recipes.config import Model, Optimization
from recipes.configs import digits_vit

CONFIG = dataclasses.replace(
    digits_vit.CONFIG,
    about="The ViT of digits_vit, fine-tuned at 96x96 with the ViT paper's optimizer "
    "(arXiv:2010.11929, appendix B.1.1).",
    command="python -m recipes.finetune digits_vit_finetune "
    "--set model.weights=runs/digits_vit/best.keras --workdir runs/digits_vit_finetune",
    expected="none published",
    measured="not measured here",
    model=Model(
        architecture="ViT", arguments={"input_shape": [96, 96, 1], "head": "keep"}
    ),
    optimization=Optimization(optimizer="sgd", learning_rate=0.01),
    epochs=10,
)
