"""Benchmark programs of TENT: ``tent bench``. Installed as the package ``tent_benchmarks``."""
