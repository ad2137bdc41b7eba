"""The memory that a node gives to the store: one segment of extents, and the native store over it."""

from __future__ import annotations

from tent_core import _native
from tent_core.config import Config
from tent_core.engine import Engine, Segment
from tent_core.store.prefault import Prefault

__all__ = ["make_pool"]

_PAGE = 4096
# An extent is larger by this fraction: pages whose size is a power of two fit with their headers.
_SLACK = 256


def make_pool(
    engine: Engine, config: Config
) -> tuple[Segment | None, _native.NativeStore | None, Prefault | None]:
    """Nothing where ``store.capacity`` is 0: such a node stores no pages. Raises NoMemory."""
    capacity = config.store.capacity
    if capacity == 0:
        return None, None, None
    # A few extents at least, or nothing could be reclaimed while the rest is in use.
    extent = min(config.store.extent, max(_PAGE, capacity // 4))
    extent = extent // _PAGE * _PAGE
    count = max(1, capacity // extent)
    extent += (extent // _SLACK + _PAGE - 1) // _PAGE * _PAGE
    segment = engine.allocate(extent * count, name="pages", extent=extent, access="rw")
    native = _native.NativeStore(
        segment.address,
        segment.nbytes,
        extent,
        segment._epochs,
        segment.id,
        engine.name,
        engine.incarnation,
        max(config.engine.quarantine, extent),
        float(config.store.ttl_s),
        segment.nbytes * config.store.tenant_quota_percent // 100,
    )
    native.attach(engine._native)
    prefault = Prefault(segment.address, segment.nbytes) if config.store.prefault else None
    return segment, native, prefault
