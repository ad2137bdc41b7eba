"""Pages that servers of different tensor-parallel sizes share: cut by groups of attention heads.

With SGLang's `tp_lcm_size` N, a multiple of every size in use, and the layout `page_head`, in which a head's bytes of
a page lie together, each rank's page is stored as its N / size groups of heads, every group under a key of its own.
Group 2 of 4 is the second half of rank 0 of 1, all of rank 1's first half of 2, and rank 2 of 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tent_core.errors import Unsupported


@dataclass(frozen=True)
class HeadGroups:
    """The groups `first` … `first + count - 1` of the `of` that the whole model has."""

    first: int
    count: int
    of: int

    def names(self, key: str) -> list[bytes]:
        """The store's keys of one page, group by group."""
        return [f"{key}/{group}".encode() for group in range(self.first, self.first + self.count)]

    def meta(self, pool: Any, indices: Any) -> Any:
        """SGLang's addresses and lengths: key and value of each group, page by page."""
        if self.count == 1:
            return pool.get_page_buffer_meta(indices)
        return pool.get_split_heads_page_buffer_meta(indices, self.count)


def head_groups(config: Any, pool: Any) -> HeadGroups | None:
    """How this rank's pages of `pool` are cut, or None when they are stored whole, as this rank's own.

    Raises Unsupported when `tp_lcm_size` asks for a cut that the heads do not allow.
    """
    of = getattr(config, "tp_lcm_size", None)
    if not of or config.is_mla_model or getattr(pool, "layout", "") != "page_head":
        return None
    if not hasattr(pool, "get_split_heads_page_buffer_meta"):
        return None
    of, size = int(of), int(config.tp_size)
    if of % size:
        raise Unsupported(f"tp_lcm_size {of} is no multiple of the tensor-parallel size {size}")
    count = of // size
    heads = int(pool.head_num)
    if heads % count:
        raise Unsupported(
            f"tp_lcm_size {of}: each of the {size} ranks has {heads} key/value heads, which do not divide into {count} "
            "groups; choose a smaller tp_lcm_size"
        )
    return HeadGroups(int(config.tp_rank) * count, count, of)
