"""Time to first token of SGLang over TENT, beside no storage and other backends.

Conversations with a long history are asked for their next turn; the history has left the server's own caches, so it is
computed anew or comes from the pool of another host, over four shaped rails. One server serves all backends in turn.
Run as root, by the interpreter of an environment that has SGLang and TENT (e2e/sglang/env/install.sh).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path

import load
import report
from report import Block
from world import BACKENDS, KV_BYTES, World

PAGE = 16
# Mbit/s: with the model's KV a computed history takes some four times as long as one that Mooncake brings over a rail.
RAILS = (1400, 1400, 700, 175)
# So many clients that a history has left the server's own caches when its next turn comes.
FULL = load.Shape(clients=8, turns=4, first=1536, more=64)
QUICK = load.Shape(clients=6, turns=2, first=1024, more=64)
MOST_WAIT_S = 60.0
PAIR = ("mooncake", "tent")


@dataclass(frozen=True)
class Slow:
    """Rails that are slowed down while the turns are asked, to this part of their rate."""

    name: str
    rails: tuple[int, ...]
    part: float


class Bench:
    """Blocks in their order. `shape`: of each."""

    def __init__(self, world: World, shape: load.Shape, utilisation: float, at_once: int) -> None:
        self.world, self.shape, self.at_once = world, shape, at_once
        self.blocks: list[Block] = []
        self._seeds = count(1)
        self._utilisation = utilisation
        self.rate = 0.0

    def calibrate(self) -> float:
        """Seconds that a history takes to compute; arrivals keep a server without storage this busy."""
        asked = load.prompts(self.shape, next(self._seeds))
        self.world.attach("none")
        times = []
        for conversation in asked[:3]:
            times.append(self.world.ask(conversation[-1])[2])
            self.world.server.flush()
        self.rate = self._utilisation / min(times)
        return min(times)

    def pairs(self, backends: tuple[str, ...], what: str, repetitions: int, slow: Slow | None = None) -> None:
        """Each repetition asks every backend the same; the order turns round from one to the next. Of those that are
        there for comparison alone half the repetitions do. `slow`: rails that are slow while the turns are asked."""
        for repetition in range(repetitions):
            seed = next(self._seeds)
            some = [one for one in backends if one in PAIR or repetition < (repetitions + 1) // 2]
            for backend in some[:: -1 if repetition % 2 else 1]:
                self.blocks.append(self._block(backend, what, repetition, seed, slow))
                _say(report.plain(report.table(self.blocks[-1:])[1:]))

    def _block(self, backend: str, what: str, repetition: int, seed: int, slow: Slow | None) -> Block:
        asked = load.prompts(self.shape, seed)
        self.world.attach(backend)
        try:
            before = self.world.server.backed_up() if backend != "none" else 0
            load.fill(self.world.ask, asked)
            if backend != "none":
                stored = sum(len(conversation[0]) // PAGE * PAGE for conversation in asked)
                self.world.server.wait_backed_up(before + stored, MOST_WAIT_S)
            self.world.take_prefetches()
            self.world.server.flush()
            with self.world.slower(slow.rails if slow else (), slow.part if slow else 1.0):
                if what == "closed loop":
                    turns, seconds = load.closed_loop(self.world.ask, asked, self.at_once)
                else:
                    turns = load.poisson(self.world.ask, asked, self.rate, seed)
                    seconds = max(turn.began + turn.ttft for turn in turns)
            name = slow.name if slow else what
            return Block(backend, name, repetition, turns, seconds, self.world.take_prefetches())
        finally:
            self.world.detach(backend)


def measure(bench: Bench, backends: tuple[str, ...], repetitions: int, rails: int) -> None:
    pair = tuple(name for name in PAIR if name in backends)
    half = max(1, repetitions // 2)
    bench.pairs(backends, "poisson", repetitions)
    bench.pairs(tuple(name for name in backends if name == "none" or name in PAIR), "closed loop", half)
    bench.pairs(pair, "poisson", half, Slow("Mooncake's rail at a quarter", (0,), 0.25))
    bench.pairs(pair, "poisson", half, Slow("another rail at a quarter", (1,), 0.25))
    alone = tuple(name for name in backends if name in ("none", "tent"))
    bench.pairs(alone, "poisson", half, Slow(report.SLOW_POOL, tuple(range(rails)), 0.01))


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(prog="ttft", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few turns, once: a look, not a verdict")
    parser.add_argument(
        "--mooncake", metavar="FOLDER", help="where pip has put mooncake-transfer-engine-non-cuda (--target)"
    )
    parser.add_argument("--backends", default=",".join(BACKENDS), help="of these: %(default)s")
    parser.add_argument("--repetitions", type=int, default=6)
    parser.add_argument("--rails", default=",".join(map(str, RAILS)), help="Mbit/s of each: %(default)s")
    parser.add_argument(
        "--utilisation", type=float, default=0.6, help="of a server without storage, by the arrivals"
    )
    parser.add_argument("--page", metavar="FOLDER", help="also write sglang-ttft.md and its plot there")
    parser.add_argument("--json", metavar="FILE", help="also write every answer there")
    options = parser.parse_args()
    shape = QUICK if options.quick else FULL
    repetitions = 1 if options.quick else options.repetitions
    rails = tuple(int(rate) for rate in options.rails.split(","))
    backends = tuple(name for name in options.backends.split(",") if name != "mooncake" or options.mooncake)
    conversations = shape.clients * shape.longest * KV_BYTES
    # Every block leaves its pages; the two pools are to hold all of them.
    capacity = max(1 << 30, conversations * 3)
    max_tokens = -(-shape.longest * 2 // PAGE) * PAGE
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="ttft-") as folder:
        world = World(rails, capacity, max_tokens, Path(folder), options.mooncake)
        try:
            bench = Bench(world, shape, options.utilisation, at_once=3)
            computed = bench.calibrate()
            _say(f"a history is computed in {computed:.2f} s; {bench.rate:.2f} turns a second")
            measure(bench, backends, repetitions, len(rails))
        except BaseException:
            _say(world.server.tail(40))
            raise
        finally:
            world.close()
    found = report.figures(bench.blocks)
    setting = _setting(shape, rails, computed, bench.rate, backends)
    print(report.plain(report.lines(found)), report.plain(report.table(bench.blocks)), sep="\n\n")
    _say(f"{time.monotonic() - started:.0f} s")
    if options.json:
        blocks = [
            {**asdict(block), "turns": [asdict(turn) for turn in block.turns]} for block in bench.blocks
        ]
        Path(options.json).write_text(json.dumps({"figures": found, "blocks": blocks}))
    if options.page:
        command = (
            f"sudo python e2e/sglang/ttft --mooncake FOLDER --page {options.page}"
            + " --quick" * options.quick
        )
        Path(options.page, "sglang-ttft.md").write_text(report.page(bench.blocks, found, setting, command))
        Path(options.page, "sglang-ttft.svg").write_text(report.plot(bench.blocks))
    return 0


def _setting(
    shape: load.Shape, rails: tuple[int, ...], computed: float, rate: float, backends: tuple[str, ...]
) -> list[str]:
    return [
        f"One SGLang server on the CPU, a Llama of 27 M parameters with {KV_BYTES >> 10} KiB of KV a token, one output "
        f"token. {shape.clients} conversations: a first prompt of {shape.first} tokens, which is not counted, then "
        f"{shape.turns} turns of {shape.more} more. The pool is on another host (network namespaces), over rails of "
        f"{', '.join(map(str, rails))} Mbit/s; the server's own caches hold {2 * shape.longest} tokens on the device "
        f"and twice that on the host. Computing a whole history takes {computed:.2f} s; {rate:.2f} turns a second "
        "arrive under Poisson; three callers make the closed loop. Model and rails are chosen so that the transfer, "
        "and not two busy cores, is most of what a hit costs over one rail.",
        "",
        f"Backends, attached to the same running server in turn: {', '.join(backends)}. `none`: histories are "
        "computed. `file`: SGLang's files, on this machine, over no rail. `sim`: SGLang's simulated storage at the sum "
        "of the rails. `mooncake`: Mooncake Store over TCP, its pool on the other host. `tent`: with default settings, "
        "into the `tent node` of the other host. Pairs of blocks ask the same at the same times; intervals are drawn "
        "over pairs.",
    ]


if __name__ == "__main__":
    sys.exit(main())
