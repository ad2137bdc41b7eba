"""A test bed of one machine: network namespaces as hosts, joined by rails whose rates are set and whose faults are
real. Needs root, iproute2 (``ip`` and ``tc``) and nothing else. See docs/testbed.md."""

from tent_core.testbed.bed import CUTS, Counters, Rail, Testbed

__all__ = ["CUTS", "Counters", "Rail", "Testbed"]
