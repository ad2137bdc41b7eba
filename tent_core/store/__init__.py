"""The page store: zero-copy batches of KV-cache pages over the caller's memory. See docs/store.md."""

from tent_core.store.lookup import Lookup
from tent_core.store.namespace import Namespace
from tent_core.store.reason import PageStatus
from tent_core.store.store import PageStore
from tent_core.store.transfer import StoreTransfer

__all__ = ["Lookup", "Namespace", "PageStatus", "PageStore", "StoreTransfer"]
