"""``tent ls``, ``stat``, ``pin``, ``unpin``, ``evict``, ``verify``: the pool of pages, for people who operate it."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from itertools import chain
from typing import Any

import numpy as np

from tent_core import _native
from tent_core.cli.observing import add_config
from tent_core.cli.progress import Progress
from tent_core.cli.table import table
from tent_core.config import load_config
from tent_core.errors import InvalidArgument
from tent_core.observe.pool import NodeRow, PoolView, SpaceRow, Verified

__all__ = ["add_parser"]


def add_parser(commands: Any) -> None:
    _add_ls(commands)
    _add_stat(commands)
    _add_pin(commands, "pin", True, "keep pages from being evicted")
    _add_pin(commands, "unpin", False, "let pinned pages be evicted again")
    _add_evict(commands)
    _add_verify(commands)


def _common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="machine-readable output")
    add_config(parser)


def _bytes(value: int | None) -> str:
    if value is None:
        return "-"
    for unit, size in (("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if value >= size:
            return f"{value / size:.2f} {unit}"
    return f"{value} B"


# ---- tent ls


def _add_ls(commands: Any) -> None:
    parser = commands.add_parser(
        "ls",
        help="the nodes of the pool and how full they are",
        description="Each node of the directory: what it gives to the pool, and how much of that is in use. A 'node' "
        "is a 'tent node', an 'engine' a serving process that gives memory, a 'reader' one that gives none.",
    )
    _common(parser)
    parser.set_defaults(run=_ls)


def _ls(options: argparse.Namespace) -> int:
    with PoolView(load_config(options.config)) as view:
        rows = view.nodes()
    if options.json:
        print(json.dumps({"nodes": [dataclasses.asdict(row) for row in rows]}))
        return 0
    if not rows:
        print("no nodes: start one with 'tent node', or a serving engine with the connector")
        return 0
    head = ("node", "kind", "state", "host", "capacity", "used", "pages", "pinned", "lent", "on disk")
    print(table(head, [_node_cells(row) for row in rows]))
    for row in rows:
        if row.why:
            print(f"\n{row.node} does not answer: {row.why}")
    return 0


def _node_cells(row: NodeRow) -> tuple[str, ...]:
    used = "-" if row.used is None else f"{_bytes(row.used)} ({100 * row.used / row.capacity:.0f} %)"
    counts = ("-" if value is None else str(value) for value in (row.pages, row.pinned))
    return (
        row.node, row.kind, row.state, row.host[:8] or "-", _bytes(row.capacity) if row.capacity else "-", used,
        *counts, _bytes(row.lent), _disk_cell(row),
    )  # fmt: skip


def _disk_cell(row: NodeRow) -> str:
    if not row.disk_capacity or row.disk_used is None:
        return "-"
    return (
        "off"
        if row.disk_off
        else f"{_bytes(row.disk_used)} ({100 * row.disk_used / row.disk_capacity:.0f} %)"
    )


# ---- tent stat


def _add_stat(commands: Any) -> None:
    parser = commands.add_parser(
        "stat",
        help="what the pool holds of a model, or of one page",
        description="Without KEY: by model and node, how many pages and bytes the pool holds. With KEY: where that "
        "page lies. A key is what the serving engine calls a block; give it as text, or in hexadecimal after 0x.",
    )
    parser.add_argument("key", nargs="?", metavar="KEY")
    parser.add_argument(
        "--model", metavar="M", help="only this model: its name, or the last part of its path"
    )
    _common(parser)
    parser.set_defaults(run=_stat)


def _stat(options: argparse.Namespace) -> int:
    with PoolView(load_config(options.config)) as view:
        wanted = view.of_model(options.model) if options.model else None
        if options.key is not None:
            return _stat_key(view, wanted, options)
        rows, failed = view.spaces()
    if wanted is not None:
        rows = [row for row in rows if bytes.fromhex(row.space) in wanted]
    if options.json:
        print(json.dumps({"spaces": [dataclasses.asdict(row) for row in rows], "unreachable": failed}))
        return 0
    head = ("model", "namespace", "node", "generation", "pages", "bytes", "on disk", "bytes on disk")
    print(table(head, [_space_cells(row) for row in rows]) if rows else "no pages")
    for name, why in failed.items():
        print(f"\n{name} does not answer: {why}")
    return 0


def _space_cells(row: SpaceRow) -> tuple[str, ...]:
    model = str(row.facts.get("model", "?"))
    return (
        model, row.space[:12], row.node, str(row.generation), str(row.pages), _bytes(row.bytes),
        str(row.disk_pages), _bytes(row.disk_bytes),
    )  # fmt: skip


def _key(text: str) -> bytes:
    try:
        key = bytes.fromhex(text[2:]) if text.startswith("0x") else text.encode()
    except ValueError:
        raise InvalidArgument(f"KEY {text!r}: after 0x come hexadecimal digits, two a byte") from None
    if not 1 <= len(key) <= 256:
        raise InvalidArgument(f"a key has 1 to 256 bytes, this one has {len(key)}")
    return key


def _stat_key(view: PoolView, wanted: Any, options: argparse.Namespace) -> int:
    spaces = wanted if wanted is not None else view.facts()
    found = view.records(list(spaces), _key(options.key))
    shown = [
        {
            "model": str(spaces[space].get("model", "?")),
            "namespace": space.hex(),
            "digest": digest.hex(),
            "length": info["length"],
            "generation": info["generation"],
            "replicas": [name for name, *_ in info["replicas"]],
            "on_disk": [name for name, _, segment, *_ in info["replicas"] if segment == _native.DISK_SEGMENT],
        }
        for space, (digest, info) in found.items()
    ]
    if options.json:
        print(json.dumps({"pages": shown}))
    elif shown:
        head = ("model", "namespace", "digest", "length", "generation", "nodes")
        cells = [
            (
                str(page["model"]),
                str(page["namespace"])[:12],
                str(page["digest"])[:12],
                _bytes(int(page["length"])),
                str(page["generation"]),
                ", ".join(f"{name} (disk)" if name in page["on_disk"] else name for name in page["replicas"]),
            )
            for page in shown
        ]
        print(table(head, cells))
    else:
        print("no such page")
    return 0 if shown else 1


# ---- tent pin, tent unpin


def _add_pin(commands: Any, name: str, pinned: bool, text: str) -> None:
    parser = commands.add_parser(
        name,
        help=text,
        description="Pages by KEY (as 'tent stat' takes it), or all that the pool holds of a model. A pin stays until "
        "'tent unpin', the page's removal or the end of its node; pinned memory is not given to other pages. Pages "
        "that lie on a node's disk are brought into its memory and pinned there.",
    )
    parser.add_argument("keys", nargs="*", metavar="KEY")
    parser.add_argument("--model", metavar="M", help="only this model; without KEY: all of its pages")
    _common(parser)
    parser.set_defaults(run=_pin, pinned=pinned)


def _pin(options: argparse.Namespace) -> int:
    if not options.keys and not options.model:
        raise InvalidArgument("name pages by KEY, or a model by --model")
    with PoolView(load_config(options.config)) as view:
        spaces = view.of_model(options.model) if options.model else view.facts()
        if options.keys:
            pages = _pages_of_keys(view, list(spaces), options.keys)
        else:
            pages = _pages_of_spaces(view, set(spaces))
        done = sum(
            view.keep(node, np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 16), options.pinned)
            for node, digests in pages.items()
        )
    word = "pinned" if options.pinned else "unpinned"
    print(json.dumps({word: done}) if options.json else f"{done} pages {word}")
    return 0 if done else 1


def _pages_of_keys(view: PoolView, spaces: list[bytes], keys: list[str]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for text in keys:
        for digest, info in view.records(spaces, _key(text)).values():
            for name, *_ in info["replicas"]:
                found.setdefault(name, []).append(digest)
    return found


def _pages_of_spaces(view: PoolView, spaces: set[bytes]) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    for node in view.owners():
        mine: set[bytes] = set()
        for _segment, digests, owners, *_ in chain(view.pages(node), view.pages(node, disk=True)):
            mine |= {d.tobytes() for d, s in zip(digests, owners, strict=True) if s.tobytes() in spaces}
        found[node] = sorted(mine)
    return {node: digests for node, digests in found.items() if digests}


# ---- tent evict


def _add_evict(commands: Any) -> None:
    parser = commands.add_parser(
        "evict",
        help="forget all pages of a model, everywhere",
        description="Raises the generation of the model's namespaces: every page that was put before is a miss for "
        "everybody from then on, pinned ones included, and its memory is used again.",
    )
    parser.add_argument("--model", required=True, metavar="M", help="its name, or the last part of its path")
    _common(parser)
    parser.set_defaults(run=_evict)


def _evict(options: argparse.Namespace) -> int:
    with PoolView(load_config(options.config)) as view:
        spaces = view.of_model(options.model)
        view.evict(list(spaces))
    names = [space.hex() for space in spaces]
    print(json.dumps({"evicted": names}) if options.json else f"{len(names)} namespaces evicted")
    return 0


# ---- tent verify


def _add_verify(commands: Any) -> None:
    parser = commands.add_parser(
        "verify",
        help="read every page and check it; remove bad ones",
        description="A scrub: reads the pages of each node's memory over the network, at low priority, and compares "
        "their checks; pages on disk are read and checked by the node itself. Bad pages are removed, so that they are "
        "computed again. Exit status 1 when there was a bad one.",
    )
    parser.add_argument("nodes", nargs="*", metavar="NODE", help="only these (default: all that give memory)")
    parser.add_argument("--keep", action="store_true", help="report bad pages and leave them there")
    _common(parser)
    parser.set_defaults(run=_verify)


def _verify(options: argparse.Namespace) -> int:
    with PoolView(load_config(options.config)) as view:
        owners = view.owners()
        if unknown := sorted(set(options.nodes) - set(owners)):
            raise InvalidArgument(
                f"no node {unknown[0]!r} gives memory; these do: {', '.join(owners) or 'none'}"
            )
        results = []
        for node in options.nodes or owners:
            with Progress(f"verifying {node}") as progress:

                def show(state: Verified, progress: Progress = progress) -> None:
                    progress.update(_so_far(state))

                results.append(view.verify(node, not options.keep, show))
                if (on_disk := view.verify_disk(node, not options.keep, show)) is not None:
                    results.append(on_disk)
    if options.json:
        print(json.dumps({"nodes": [dataclasses.asdict(row) for row in results]}))
    else:
        head = ("node", "where", "pages", "bytes", "bad", "removed", "gone meanwhile", "not read")
        print(table(head, [_verified_cells(row) for row in results]) if results else "no node gives memory")
        for row in results:
            if row.why:
                print(f"\n{row.node}: {row.why}", file=sys.stderr)
    return 1 if any(row.bad or row.why for row in results) else 0


def _so_far(state: Verified) -> str:
    return f"{state.pages} pages {'on disk' if state.where == 'disk' else 'in memory'}, {state.bad} bad"


def _verified_cells(row: Verified) -> tuple[str, ...]:
    return (
        row.node, row.where, str(row.pages), _bytes(row.bytes), str(row.bad), str(row.removed), str(row.moved),
        str(row.unread),
    )  # fmt: skip
