"""Readers of published checkpoints, one module for each library that writes them."""
