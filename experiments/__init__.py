"""Experiments: data, models, runs, reports; from a checkout or by the command ``jaxprune``."""

import time

STARTED = time.perf_counter()
"""When the program began, if it is a command: this is the first of its modules."""
