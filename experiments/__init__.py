"""Experiments: data, models, runs and reports, run from a checkout or as the command ``jaxprune``."""

import time

STARTED = time.perf_counter()
"""When the program began, if it is a command: this is the first of its modules."""
