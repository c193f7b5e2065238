"""Benchmarks of speed and memory; see `python -m recipes.benchmark --help`."""
