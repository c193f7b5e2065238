"""Accuracy, predictions and linear probes of checkpoints and exports."""
