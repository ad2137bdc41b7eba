"""TENT as the third cache level of SGLang: a HiCache storage backend.

    python -m sglang.launch_server ... --enable-hierarchical-cache --hicache-storage-backend tent

SGLang finds :mod:`tent_sglang.plugin` through its entry point group ``sglang.srt.plugins``; the backend itself is
:class:`tent_sglang.backend.TentHiCacheStorage`. Importing this package needs neither SGLang nor torch.
"""

from __future__ import annotations

__all__: list[str] = []
