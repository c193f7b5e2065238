"""Measurements of speed and memory; `python -m recipes.benchmark --help` says which."""
