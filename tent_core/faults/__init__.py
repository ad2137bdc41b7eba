"""Faults on purpose: one plan for the fault injecting transport, the simulator and the test bed. See docs/faults.md."""

from tent_core.faults.plan import KINDS, Fault, FaultPlan, Kind

__all__ = ["KINDS", "Fault", "FaultPlan", "Kind"]
