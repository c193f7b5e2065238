"""Programs that use the package: the demo, studies and the benchmark."""
