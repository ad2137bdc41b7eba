"""Mooncake and NIXL beside TENT, where an interpreter has them. Each is a coprocess, so that none is a dependency."""

from .host import Absent, Rival, beside

__all__ = ["Absent", "Rival", "beside"]
