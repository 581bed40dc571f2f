"""What several benchmarks share: the command, the machine, timing and tables."""
