"""Benchmarks: commands that measure, and print what was measured beside what was aimed at."""
