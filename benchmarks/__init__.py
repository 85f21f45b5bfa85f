"""Ours beside what labs use today, on one machine, in one run: ``python -m benchmarks``."""
