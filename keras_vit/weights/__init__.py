"""Reading published checkpoints: one file a source, one rule (`strict`)."""
