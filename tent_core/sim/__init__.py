"""The simulator: the engine's own sprayer, fences, leases and responders on both ends of links that a file describes,
under a clock of its own. See docs/simulator.md."""

from tent_core.sim.results import Result
from tent_core.sim.run import run, run_text
from tent_core.sim.scenario import Scenario
from tent_core.sim.shrink import shrink

__all__ = ["Result", "Scenario", "run", "run_text", "shrink"]
