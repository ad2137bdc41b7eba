"""Looking at nodes from outside: what their links do (top), what became of each slice (trace), which rail is sick."""

from tent_core.observe.sampler import LinkRow, Sampler
from tent_core.observe.session import Observer
from tent_core.observe.trace import chrome_trace

__all__ = ["LinkRow", "Observer", "Sampler", "chrome_trace"]
