"""The KV-cache groups of a model: how long each one's blocks are, which of them a prefix needs, how they are named.

vLLM keeps the layers of one kind of attention in a group with a block table of its own. A prefix of T tokens needs
every block of a full-attention group and only the last ones of a window. A hit is a length that every group can
serve. Counts are in units: the tokens of one of vLLM's block hashes, of which a group's block holds one or several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import lcm
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tent_core.errors import Unsupported

# Attention whose blocks stay in the block table at the place of their tokens, or are nulled there.
_FULL = frozenset({"FullAttentionSpec", "MLAAttentionSpec"})
_WINDOW = "SlidingWindowSpec"
_CHUNK = "ChunkedLocalAttentionSpec"


@dataclass(frozen=True)
class Group:
    """One KV-cache group. `window` and `chunk` are tokens, 0 where the attention has none."""

    kind: str
    tokens: int
    """Tokens in a block."""
    layers: tuple[str, ...] = ()
    window: int = 0
    chunk: int = 0

    @property
    def full(self) -> bool:
        """Whether every block of a prefix is needed to go on from it."""
        return not (self.window or self.chunk)

    def first_needed(self, computed: NDArray[np.int64]) -> NDArray[np.int64]:
        """Index of the first block that the token after `computed` ones still looks at."""
        if self.window:
            return np.maximum(0, computed - self.window + 1) // self.tokens
        if self.chunk:
            return computed // self.chunk * self.chunk // self.tokens
        return np.zeros_like(computed)


@dataclass(frozen=True)
class Groups:
    """All groups of a model. `unit`: tokens of one block hash."""

    unit: int
    all: tuple[Group, ...]

    @property
    def step(self) -> int:
        """Units between two lengths at which every group's block ends."""
        return lcm(*(group.tokens // self.unit for group in self.all))

    @property
    def plain(self) -> bool:
        """One group of full attention: what failed can be told by block, and what came before it is kept."""
        return len(self.all) == 1 and self.all[0].full

    def scale(self, group: int) -> int:
        """Units in a block of the group."""
        return self.all[group].tokens // self.unit

    def keys(self, hashes: Sequence[Any], group: int, start: int, end: int) -> list[bytes]:
        """Names of the group's blocks `start` … `end` (not included): the hash of the block's last unit, which covers
        everything before it."""
        scale = self.scale(group)
        return [bytes(key) for key in hashes[(start + 1) * scale - 1 : end * scale : scale]]

    def longest(self, hits: Sequence[NDArray[np.bool_]], start: int, end: int) -> int:
        """The longest prefix in units, up to `end`, that goes on from `start` with pages that are there; at least
        `start`. `hits[g][i]`: whether block i of group g is."""
        step = self.step
        ends = np.arange(start // step + 1, end // step + 1, dtype=np.int64) * step
        good = np.ones(len(ends), dtype=bool)
        for index, (group, hit) in enumerate(zip(self.all, hits, strict=True)):
            scale = self.scale(index)
            there = np.concatenate([[0], np.cumsum(hit)])
            last = ends // scale
            first = np.maximum(group.first_needed(ends * self.unit), start // scale)
            known = last < len(there)
            last = np.minimum(last, len(there) - 1)
            first = np.minimum(first, last)
            good &= known & (there[last] - there[first] == last - first)
        return int(ends[good][-1]) if good.any() else start

    def agrees_with(self, managers: Sequence[Any]) -> bool:
        """Whether vLLM's own managers skip the blocks that we take for unneeded (drafting keeps some longer)."""
        lengths = np.arange(self.step * self.unit, 64 * self.step * self.unit, self.unit, dtype=np.int64)
        for group, manager in zip(self.all, managers, strict=True):
            theirs = [int(manager.get_num_skipped_tokens(int(n))) // group.tokens for n in lengths]
            if theirs != group.first_needed(lengths).tolist():
                return False
        return True


def read_groups(kv_cache_config: Any, unit: int) -> Groups:
    """The groups of vLLM's `kv_cache_config`; `unit`: tokens of a block hash. Raises Unsupported, naming the kind."""
    made = []
    for group in kv_cache_config.kv_cache_groups:
        spec = group.kv_cache_spec
        parts = list(getattr(spec, "kv_cache_specs", {"": spec}).values())
        kinds = {type(part).__name__ for part in parts}
        for kind in sorted(kinds - _FULL - {_WINDOW, _CHUNK}):
            raise Unsupported(
                f"TentConnector does not store {kind} caches yet; requests are computed as without it"
            )
        windows = {
            int(getattr(part, "sliding_window", None) or 0)
            for part in parts
            if type(part).__name__ == _WINDOW
        }
        chunks = {int(part.attention_chunk_size) for part in parts if type(part).__name__ == _CHUNK}
        if (len(kinds) > 1 and kinds - _FULL) or len(windows) > 1 or len(chunks) > 1:
            raise Unsupported(
                f"TentConnector does not store a group that mixes {', '.join(sorted(kinds))} of different reach; "
                "requests are computed as without it"
            )
        if not getattr(group, "enable_kv_transfer", True) or getattr(group, "host_resident", False):
            raise Unsupported(
                "TentConnector does not store groups that vLLM keeps to itself; requests are computed as without it"
            )
        tokens = int(getattr(spec, "block_size", unit))
        if tokens % unit:
            raise Unsupported(
                f"TentConnector: a block of {tokens} tokens is no multiple of a hash of {unit}; requests are computed "
                "as without it"
            )
        window, chunk = max(windows, default=0), max(chunks, default=0)
        made.append(Group(type(spec).__name__, tokens, tuple(group.layer_names), window, chunk))
    if not made:
        raise Unsupported(
            "TentConnector does not store models without a KV cache; requests are computed as without it"
        )
    return Groups(unit, tuple(made))
