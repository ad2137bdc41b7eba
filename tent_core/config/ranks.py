"""One configuration for all processes of a server: what must differ between them."""

from __future__ import annotations

from dataclasses import replace

from tent_core.config.schema import Config

__all__ = ["for_rank"]


def for_rank(config: Config, rank: int) -> Config:
    """The configuration of one of a server's ranks: each is a node, so names and ports must not collide.

    Rank 0 has what was written; the others add their rank to the name and to the port, where there are any.
    """
    node = config.node
    name = f"{node.name}-{rank}" if node.name and rank else node.name
    return replace(config, node=replace(node, name=name, port=node.port + rank if node.port else 0))
