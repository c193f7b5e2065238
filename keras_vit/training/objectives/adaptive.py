"""Classification with tokens that stop, each at its own depth (A-ViT)."""

from typing import Any

import keras

from keras_vit.layers import TokenHalting
from keras_vit.training import config as configs
from keras_vit.training.adaptive_tokens import AdaptiveTokens
from keras_vit.training.objectives.classification import BackboneClassification


class AdaptiveClassification(BackboneClassification):
    """Classification that also trains when each token stops."""

    printed: tuple[str, ...] = ("accuracy", "depth")

    def arguments(self) -> dict[str, Any]:
        """Return the argument that makes tokens stop."""
        settings = self.config.adaptive
        return {"token_reduction": TokenHalting(settings.scale, settings.center)}

    def trainer(self, network: keras.Model) -> keras.Model:
        """Return an `AdaptiveTokens` model of the network."""
        settings = self.config.adaptive
        assert settings.ponder_weight is not None
        return AdaptiveTokens(
            network, settings.ponder_weight, settings.prior_weight, settings.target_depth
        )


def check_adaptive(config: configs.Config) -> None:
    """Raise a `ValueError` if a config with `adaptive` has settings that exclude it.

    Args:
        config: config of a run.
    """
    wrong = {
        "objective": config.objective != "classification",
        "data.labels": config.data.labels != "single",
        "flexible.patch_sizes": bool(config.flexible.patch_sizes),
        "lora.rank": config.lora.rank is not None,
        "resolutions": bool(config.resolutions),
    }
    found = [name for name, is_wrong in wrong.items() if is_wrong]
    if found:
        raise ValueError(
            f"adaptive.ponder_weight={config.adaptive.ponder_weight} trains a classifier "
            "of images with one class each, all weights, at one size: remove "
            f"{', '.join(found)} from the config."
        )
