"""TENT: a data-movement engine and KV-cache store for LLM serving."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tent_core.engine import Engine, Intent, Peer, RemoteSegment, Segment, Transfer, TransferResult

__all__ = [
    "Engine",
    "Intent",
    "Peer",
    "RemoteSegment",
    "Segment",
    "Transfer",
    "TransferResult",
    "__version__",
]

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    # Loaded on first use: `tent config` and the errors need no native engine.
    if name in __all__:
        from tent_core import engine

        return getattr(engine, name)
    raise AttributeError(f"module 'tent_core' has no attribute {name!r}")
