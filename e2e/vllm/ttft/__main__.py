"""Time to first token of real vLLM servers under one load: cold, from the local prefix cache, through TENT on one host
and over shaped rails, beside vLLM's own connectors. docs/ttft.md is made by it.

    PYTHONPATH=tests python e2e/vllm/ttft [--quick] [--rows host,example,...] [--out docs/ttft.md]

Run it with an interpreter that has vLLM and TENT. Rows over rails need root and iproute2 (`tent testbed`); those of
NixlConnector need `pip install nixl`. The quick form takes some minutes and says that everything runs; the full one
takes about an hour on a quiet machine.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from load import Reply, Shape, conversations, differing, histories, run, through, to
from page import HEAD, Row, page, plot
from servers import Place, alone, example_pair, fill, nixl_pair, tent_pair

from support.stores import Server as Redis
from tent_core.cli.demo_common import generated_model
from tent_core.cli.table import table
from tent_core.cli.vllm_server import VllmServer
from tent_core.errors import DeadlineExceeded, Internal
from tent_core.testbed import Testbed

FULL = Shape(clients=4, rounds=5, groups=2, shortest=512, longest=4096, message=96, new_tokens=8)
QUICK = Shape(clients=2, rounds=3, groups=1, shortest=384, longest=1100, message=64, new_tokens=4)
RATES = (1000.0, 1000.0, 1000.0, 1000.0)
STAGES = ("host", "example", "rails1", "rails4", "nixl")
# How busy the cold server is: above 1 its queue would grow without end and its times would say nothing.
BUSY = 0.6


class Bench:
    def __init__(self, place: Place, shape: Shape, rates: tuple[float, ...]) -> None:
        self.place = place
        self.shape = shape
        self.rates = rates
        self.asks = conversations(shape)
        self.gap = 0.0
        self.rows: list[Row] = []
        self.reference: list[Reply] = []
        self.local: list[Reply] = []

    def plain(self) -> None:
        """The two rows that every other one is compared with, and how often requests come."""
        with alone(self.place) as server:
            server.complete(self.asks[0].prompt, salt="warm up")
            ends = [server.complete(self.asks[i].prompt, salt=f"probe {i}").first_token_s for i in (0, -1)]
            self.gap = sum(ends) / 2 / BUSY
            self.reference = self._row("cold", "host", to(server, self.shape, salted=True)).replies
            fill(server, histories(self.asks), stored=False)
            self.local = self._row("local", "host", to(server, self.shape)).replies
            self.rows[-1].ideal = [reply.first_token_s for reply in self.local]

    def tries(self, stage: str) -> bool:
        """Whether the servers of a stage ran; one that does not start is no reason to lose the other rows."""
        try:
            getattr(self, stage)()
        except (Internal, DeadlineExceeded) as fault:
            print(f"{stage}: {fault}", file=sys.stderr, flush=True)
            return False
        return True

    def host(self) -> None:
        with tent_pair(self.place) as (source, reader):
            self._fill(source)
            self._loading("TENT", "host", reader)

    def example(self) -> None:
        with example_pair(self.place) as (source, reader):
            fill(source, [ask.prompt for ask in self.asks], stored=False)
            self._row("Example", "host", to(reader, self.shape))

    def rails1(self) -> None:
        with tent_pair(self.place, 1) as (source, reader):
            self._fill(source)
            self._loading("1 rail", "rails", reader, sum(self.rates[:1]))

    def rails4(self) -> None:
        bed = self.place.bed
        assert bed is not None
        with tent_pair(self.place, len(self.rates)) as (source, reader):
            self._fill(source)
            self._loading(f"{len(self.rates)} rails", "rails", reader, sum(self.rates))
            slow = self.rates[0] / 10
            self._loading("degraded", "rails", reader, sum(self.rates), midway=lambda: bed.shape(0, slow))
            bed.shape(0, self.rates[0])
            self._handoff("TENT", source, reader)
            self._handoff("TENT, cut", source, reader, midway=lambda: bed.cut(1, "blackhole"))
            bed.heal(1)

    def nixl(self) -> None:
        with nixl_pair(self.place, len(self.rates)) as (source, reader):
            fill(source, histories(self.asks), stored=False)
            self._handoff("Nixl", source, reader)

    def _fill(self, source: VllmServer) -> None:
        source.reset(external=True)
        fill(source, histories(self.asks))

    def _handoff(
        self,
        name: str,
        source: VllmServer,
        reader: VllmServer,
        midway: Callable[[], None] = lambda: None,
    ) -> None:
        before = moved(reader, "handoff")
        row = self._row(name, "handoff", through(source, reader, self.shape), midway)
        row.moved(before, moved(reader, "handoff"), sum(self.rates))

    def _loading(
        self,
        name: str,
        kind: str,
        reader: VllmServer,
        mbit: float = 0.0,
        midway: Callable[[], None] = lambda: None,
    ) -> None:
        before = moved(reader, "load")
        row = self._row(name, kind, to(reader, self.shape), midway)
        row.moved(before, moved(reader, "load"), mbit)
        each = row.loaded_bytes / max(1, sum(reply.cached_tokens for reply in row.replies))
        row.ideal = [
            near.first_token_s + (reply.cached_tokens * each / row.rails_bytes_s if mbit else 0.0)
            for near, reply in zip(self.local, row.replies, strict=True)
        ]

    def _row(
        self, name: str, kind: str, send: Callable[..., Reply], midway: Callable[[], None] = lambda: None
    ) -> Row:
        replies, seconds = run(self.asks, self.gap, send, midway=midway)
        wrong = differing(replies, self.reference) if self.reference else 0
        self.rows.append(Row(name, kind, replies, seconds, wrong))
        print(f"{name}: {len(replies)} requests in {seconds:.0f} s", file=sys.stderr, flush=True)
        return self.rows[-1]


def moved(server: VllmServer, what: str) -> tuple[float, float]:
    """(bytes, seconds) of the connector's loads or hand-offs so far. It counts when vLLM works."""
    server.complete([5, 6, 7], new_tokens=1)
    nbytes = server.metric("vllm:tent_bytes_total", direction=what)
    return nbytes, server.metric("vllm:tent_microseconds_total", direction=what) / 1e6


def wanted(options: argparse.Namespace) -> list[str]:
    """The stages that can be run here; says why not of the others."""
    stages = [name for name in options.rows.split(",") if name]
    for name in stages:
        if name not in STAGES:
            raise SystemExit(f"no row '{name}': {', '.join(STAGES)}")
    missing = {}
    if os.geteuid() != 0:
        missing = {name: "network namespaces need root" for name in ("rails1", "rails4", "nixl")}
    if importlib.util.find_spec("nixl") is None:
        missing["nixl"] = "NixlConnector needs: pip install nixl"
    for name in [name for name in stages if name in missing]:
        print(f"left out: {name}: {missing[name]}", file=sys.stderr)
    return [name for name in stages if name not in missing]


def about(bench: Bench, size: str, quick: bool) -> list[str]:
    shape = bench.shape
    commit = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
    ).stdout.strip()
    return [
        f"{time.strftime('%Y-%m-%d')}, commit {commit or 'unknown'}{', quick form' if quick else ''}; "
        f"{os.cpu_count()} cores, of which each server keeps to one.",
        f"Model: `{size}` (`tent_core/cli/demo_model.py`), fp32. {len(bench.asks)} requests of {shape.clients} "
        f"clients in {shape.rounds} rounds; {shape.groups} system prompts; prompts of {shape.shortest} to "
        f"{shape.longest} tokens, of which the last {shape.message} are new; a request every {bench.gap:.2f} s on "
        f"average (Poisson), so that the cold server is busy for {BUSY:.0%} of the time.",
        "*cold*: computed in full. *local*: the conversation so far is in vLLM's own prefix cache. All others: another "
        "server has computed it, and the one that is measured has its own prefix cache switched off. *Example*: vLLM's "
        "ExampleConnector over files; it knows whole prompts only, so there the other server has computed the new "
        "messages too.",
        f"Rails: {', '.join(f'{rate:g}' for rate in bench.rates)} Mbit/s between two network namespaces. *degraded*: "
        "midway the first one slows down to a tenth. *cut*: midway one becomes a black hole.",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="few, short prompts on a model that costs nothing"
    )
    parser.add_argument("--model", help="tiny, demo or large (default: demo, quick: tiny)")
    parser.add_argument(
        "--rows", default=",".join(STAGES), help=f"beside cold and local (default: {','.join(STAGES)})"
    )
    parser.add_argument("--out", type=Path, help="write the page here, and its plot beside it")
    options = parser.parse_args()
    stages = wanted(options)
    size = options.model or ("tiny" if options.quick else "demo")
    model = Path(generated_model(sys.executable, size))
    rates = tuple(rate / 4 for rate in RATES) if options.quick else RATES
    apart = bool({"rails1", "rails4", "nixl"} & set(stages))
    folder = Path(tempfile.mkdtemp(prefix="ttft-"))
    redis = Redis()
    bed = Testbed.up(rates, name=f"ttft{os.getpid() % 10000}") if apart else None
    try:
        bench = Bench(
            Place(model, folder, redis, "1GiB", 1 if options.quick else 2, bed),
            QUICK if options.quick else FULL,
            rates,
        )
        bench.plain()
        failed = [name for name in stages if not bench.tries(name)]
    finally:
        redis.close()
        if bed is not None:
            bed.down()
    print(table(HEAD, [tuple(row.cells()) for row in bench.rows]))
    if options.out is not None:
        command = (
            "PYTHONPATH=tests python e2e/vllm/ttft"
            + (" --quick" if options.quick else "")
            + f" --out {options.out}"
        )
        drawn = options.out.with_suffix(".svg")
        options.out.write_text(page(bench.rows, about(bench, size, options.quick), command, drawn.name))
        drawn.write_text(plot(bench.rows))
    if failed:
        raise SystemExit(f"did not run: {', '.join(failed)}")


if __name__ == "__main__":
    main()
