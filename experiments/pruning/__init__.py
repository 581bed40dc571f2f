"""Pruning of pretrained networks: `python -m experiments.prune`. Nothing here imports JAX."""
