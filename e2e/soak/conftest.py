"""Fixtures of the soak tests over a test bed."""

from support.beds import make_bed

__all__ = ["make_bed"]
