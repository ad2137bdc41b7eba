"""Benchmark programs of TENT: ``tent bench``. Installed as ``tent_core.benchmarks``."""
