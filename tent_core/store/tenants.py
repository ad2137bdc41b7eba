"""Whose pages are whose: a namespace belongs to the tenant that its field ``tenant`` names, if it has one."""

from __future__ import annotations

import hashlib
import json

from tent_core.store.context import Context
from tent_core.store.namespace import Namespace

__all__ = ["Tenants", "tenant_id"]


def tenant_id(name: str) -> bytes:
    return hashlib.blake2b(b"tent tenant 1\0" + name.encode(), digest_size=16).digest()


class Tenants:
    """Tells the native store, which counts the bytes and keeps to ``store.tenant_quota_percent``. Peers commit pages of
    namespaces that this process has never heard of: what they stand for is in the directory. Any thread."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._counts = context.native is not None and context.config.store.tenant_quota_percent > 0
        self._nobody: set[bytes] = set()  # namespaces that name no tenant

    def note(self, space: Namespace) -> None:
        self._assign(space.digest, space.fields.get("tenant"))

    def learn(self) -> None:
        """Looks up namespaces that peers have committed pages of. Raises DirectoryUnavailable."""
        if not self._counts:
            return
        unknown = [space for space in self._context.native.unassigned() if space not in self._nobody]
        if not unknown:
            return
        known = self._context.directory.spaces()
        for space in unknown:
            if space in known:
                self._assign(space, _tenant_in(known[space]))

    def _assign(self, space: bytes, tenant: object) -> None:
        if not self._counts:
            return
        if tenant is None or tenant == "":
            self._nobody.add(space)
        else:
            self._context.native.assign(space, tenant_id(str(tenant)))


def _tenant_in(facts: bytes) -> object:
    """Facts are other processes' notes: anything may be in them."""
    try:
        fields = json.loads(facts)
    except ValueError:
        return None
    return fields.get("tenant") if isinstance(fields, dict) else None
