"""The demo, studies and the benchmark: `python -m recipes.NAME`."""
