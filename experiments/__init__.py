"""Experiments: data, models, runs and reports, run from a checkout and never installed."""
