"""How each row's servers are set up: on one host, or on two hosts (network namespaces) joined by shaped rails."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support.stores import Server as Redis
from tent_core.cli.vllm_server import BLOCK_TOKENS, VllmServer
from tent_core.testbed import Testbed

# What is measured comes from elsewhere: the reader's own prefix cache would answer from the second round on.
_NO_CACHE = ("--no-enable-prefix-caching",)
_SECRET = "known to both servers of this benchmark"
# A namespace has no way out by which vLLM could find out its own address.
_INSIDE = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo"}


@dataclass
class Place:
    """Where servers are made, and what they share."""

    model: Path
    folder: Path
    directory: Redis
    capacity: str
    kv_gib: int
    bed: Testbed | None = None
    made: int = field(default=0, init=False)

    def server(self, name: str, which: int, *, apart: bool = False) -> VllmServer:
        """`which`: 0 the one that has computed, 1 the one that is measured; each keeps to a core. `apart`: each on a
        host of its own."""
        cores = sorted(os.sched_getaffinity(0))
        self.made += 1
        log = self.folder / f"{self.made:02}-{name}-{which}.log"
        namespace = self.bed.namespace(which) if apart and self.bed is not None else ""
        return VllmServer(
            sys.executable, self.model, log, core=cores[which * (len(cores) - 1)], namespace=namespace
        )


@contextmanager
def alone(place: Place) -> Iterator[VllmServer]:
    """vLLM as it comes, with its own prefix cache."""
    with place.server("plain", 1) as server:
        server.start(kv_gib=place.kv_gib)
        server.wait_ready(600)
        server.complete([5, 6, 7])
        yield server


@contextmanager
def tent_pair(
    place: Place, rails: int = 0, rates: Sequence[float] = ()
) -> Iterator[tuple[VllmServer, VllmServer]]:
    """(the one that computes and stores, the one that only loads). `rails`: over the first so many; 0: on one host."""
    apart = rails > 0
    with place.server("tent", 0, apart=apart) as source, place.server("tent", 1, apart=apart) as reader:
        for which, (server, role, more) in enumerate(
            ((source, "kv_both", ()), (reader, "kv_consumer", _NO_CACHE))
        ):
            config: dict[str, Any] = {
                "directory": {"url": place.directory.url},
                "store": {"capacity": place.capacity if which == 0 else "64MiB"},
                "cluster": {"secret": _SECRET},
            }
            if apart:
                assert place.bed is not None
                config["node"] = {
                    "host_identity": place.bed.namespace(which),
                    "bind": place.bed.addresses(which)[:rails],
                }
            server.start(
                connector={"kv_role": role},
                extra_config=config,
                arguments=more,
                kv_gib=place.kv_gib,
                environment=_INSIDE if apart else None,
            )
        yield _ready(source, reader)


@contextmanager
def example_pair(place: Place) -> Iterator[tuple[VllmServer, VllmServer]]:
    """vLLM's own ExampleConnector, over files in one folder."""
    kept = place.folder / "example"
    kept.mkdir()
    with place.server("example", 0) as source, place.server("example", 1) as reader:
        for server, more in ((source, ()), (reader, _NO_CACHE)):
            server.start(
                connector={"kv_connector": "ExampleConnector"},
                extra_config={"shared_storage_path": str(kept)},
                arguments=more,
                kv_gib=place.kv_gib,
            )
        yield _ready(source, reader)


@contextmanager
def nixl_pair(place: Place, rails: int) -> Iterator[tuple[VllmServer, VllmServer]]:
    """vLLM's own NixlConnector, for prefill and decode over the rails. Needs `pip install nixl`."""
    assert place.bed is not None
    with place.server("nixl", 0, apart=True) as source, place.server("nixl", 1, apart=True) as reader:
        for which, (server, more) in enumerate(((source, ()), (reader, _NO_CACHE))):
            server.start(
                connector={"kv_connector": "NixlConnector", "kv_buffer_device": "cpu"},
                arguments=more,
                kv_gib=place.kv_gib,
                environment={
                    **_INSIDE,
                    "UCX_TLS": "tcp,self",
                    "UCX_NET_DEVICES": ",".join(f"rail{rail}" for rail in range(rails)),
                    "UCX_MAX_RNDV_RAILS": str(rails),
                    "VLLM_NIXL_SIDE_CHANNEL_HOST": place.bed.address(which, 0),
                    "VLLM_NIXL_SIDE_CHANNEL_PORT": str(5600 + which),
                },
            )
        yield _ready(source, reader)


def _ready(source: VllmServer, reader: VllmServer) -> tuple[VllmServer, VllmServer]:
    for server in (source, reader):
        server.wait_ready(600)
        server.complete([5, 6, 7])
    return source, reader


def fill(source: VllmServer, prompts: list[list[int]], *, stored: bool = True) -> None:
    """Lets a server compute prompts. `stored`: waits until its pages are in TENT's pool."""
    for prompt in prompts:
        source.complete(prompt, new_tokens=1, timeout=600)
    if stored:
        blocks = {tuple(prompt[: (i + 1) * BLOCK_TOKENS]) for prompt in prompts for i in range(_full(prompt))}
        source.wait_stored(len(blocks), 120)


def _full(prompt: list[int]) -> int:
    return len(prompt) // BLOCK_TOKENS
