"""Former place of `Augmentation`, from which older config files import it."""

from keras_vit.data.augment import Augmentation

__all__ = ["Augmentation"]
