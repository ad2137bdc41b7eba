"""Helpers of the tests. Importable as ``support`` from every test (pyproject.toml puts tests/ on the path)."""
