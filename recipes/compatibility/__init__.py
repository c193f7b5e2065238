"""Comparison of keras_vit with the networks of timm and transformers."""

from recipes.benchmark import torchvision_stub

torchvision_stub.install()
