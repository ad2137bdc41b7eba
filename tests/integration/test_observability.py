"""Nodes are seen from outside: their links, their flight recordings, each of their slices."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from support.peers import PATIENCE, PeerProcess, pattern, until
from support.relay import Relay, Rewritten, rewrite
from support.stores import Server
from tent_core import Engine, Intent, _native
from tent_core.cli.main import main
from tent_core.errors import ProtocolError, Unsupported
from tent_core.observe import Sampler, chrome_trace
from tent_core.store import PageStore

SIZE = 16 << 20
CONFIG: dict[str, Any] = {
    "shm.enabled": False,
    "node.bind": ["127.0.0.1", "127.0.0.2"],
    "engine.session_lease_ms": 4000,
    "engine.deadline_ms": 60_000,
}


class Rails:
    """An initiator with two rails to an owner, each through a relay."""

    def __init__(self, engine: Engine, peer: Any, relays: list[Relay]) -> None:
        self.engine, self.peer, self.relays = engine, peer, relays
        self.memory = np.zeros(SIZE, dtype=np.uint8)
        engine.register(self.memory, access="private")
        self.remote = peer.segment("kv")

    def read(self) -> None:
        self.engine.run(Intent("read", self.peer, [self.memory.ctypes.data], self.remote, [0], SIZE))

    def state(self, which: int) -> str:
        links = self.engine.stats()["links"]
        return str(links[which]["state"]) if which < len(links) else ""

    def both_up(self) -> None:
        """The pairs of counterparts come first; where one of them failed there are crossed ones behind them."""
        self.read()
        until(lambda: all(self.state(i) in ("up", "probation") for i in (0, 1)), "two links")


@contextmanager
def two_rails(**more: Any) -> Iterator[Rails]:
    with ExitStack() as stack:
        owner = stack.enter_context(PeerProcess(CONFIG, name="owner"))
        owner.register("kv", SIZE)
        owner.fill("kv", 1)
        rails = Rewritten.parse(owner.descriptor).rails
        relays = [stack.enter_context(Relay(rail[:2], rail[0])) for rail in rails]
        engine = stack.enter_context(Engine({**CONFIG, **more}, name="initiator"))
        yield Rails(engine, engine.connect(rewrite(owner.descriptor, relays), PATIENCE), relays)


class Done(NamedTuple):
    returncode: int
    stdout: str
    stderr: str


Tent = Callable[..., Done]


@pytest.fixture
def tent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Tent:
    """The command line, in this process: starting one takes longer than all that it does."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*arguments: str, **env: str) -> Done:
        for name, value in env.items():
            monkeypatch.setenv(name, value)
        capsys.readouterr()
        status = main(arguments)
        return Done(status, *capsys.readouterr())

    return run


def blackhole(relay: Relay) -> None:
    relay.hold("to_server")
    relay.hold("to_client")


@pytest.mark.parametrize("fault", [Relay.cut, blackhole])
def test_a_recording_of_real_transfers_with_faults_replays_bit_for_bit(fault: Any) -> None:
    with two_rails() as world:
        world.both_up()
        transfers = []
        for part in range(8):
            at, address = part * (SIZE // 8), world.memory.ctypes.data + part * (SIZE // 8)
            transfers.append(
                world.engine.submit(Intent("read", world.peer, [address], world.remote, [at], SIZE // 8))
            )
            if part == 2:
                fault(world.relays[0])
        for transfer in transfers:
            transfer.result(PATIENCE)
        until(lambda: world.state(0) == "down", "notice of the fault")
        world.relays[0].mend()
        world.relays[0].release()
        until(lambda: world.state(0) in ("up", "probation"), "the rail's return")
        world.read()
        assert np.array_equal(world.memory, pattern(1, SIZE))
        recording = world.engine.recording()
        result = _native.replay_recording(recording)
        assert result["identical"], result["difference"]
        assert result["skipped"] == 0
        assert result["actions"] > 20
        kinds = {
            event[0]
            for segment in _native.read_recording(recording)["segments"]
            for event in segment["events"]
        }
        assert {"flow", "post", "ended", "link_state", "flow_done", "flow_released"} <= kinds

        times = world.engine.stats()["links"][0]["last_fault"]
        for name in ("detect_ns", "reroute_ns", "fence_ns", "readmit_ns"):
            assert times[name] is not None and times[name] >= 0, times
        assert times["reroute_ns"] >= times["detect_ns"]
        assert times["fence_ns"] >= times["detect_ns"]
        assert times["readmit_ns"] > times["detect_ns"]


def test_a_ring_that_has_gone_round_replays_from_its_oldest_segment() -> None:
    with two_rails(**{"recorder.memory": "128KiB", "engine.slice_max": "64KiB"}) as world:
        world.both_up()
        while _native.read_recording(world.engine.recording())["segments"][0]["sequence"] < 3:
            world.read()
        recording = world.engine.recording()
        result = _native.replay_recording(recording)
        assert result["identical"], result["difference"]
        assert result["skipped"] == 0
        assert result["segments"] == 8
        assert result["checkpoints"] == 7
        assert len(recording) < 140 << 10


def test_damaged_recordings_are_refused() -> None:
    with Engine(CONFIG) as engine:
        good = engine.recording()
    assert _native.replay_recording(good)["identical"]
    for bad in (b"", b"TENTFLR1", good[:-1], good + b"\0", bytes(len(good)), good[:60] + b"\xff" + good[61:]):
        for read in (_native.replay_recording, _native.read_recording, chrome_trace):
            with pytest.raises(ProtocolError):
                read(bad)


def test_every_slice_of_a_transfer_is_on_the_trace(tmp_path: Path, tent: Tent) -> None:
    with two_rails() as world:
        world.both_up()
        before = {event["args"]["flow"] for event in slices_of(chrome_trace(world.engine.recording()))}
        world.read()
        file = tmp_path / "r.flight"
        before_links = {f"link {row['name']}" for row in world.engine.links()}
        assert world.engine.dump_recorder(str(file)) == str(file)
        links = {f"link {row['name']}" for row in world.engine.links()}  # crossed ones may have joined
    done = tent("trace", "--recording", str(file), "--out", str(tmp_path / "t.json"))
    assert done.returncode == 0, done.stderr
    trace = json.loads((tmp_path / "t.json").read_text())
    assert trace["metadata"]["complete"]
    assert trace["metadata"]["node"] == "initiator"
    tracks = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["name"] == "process_name"}
    assert before_links | {"transfers"} <= set(tracks.values()) <= links | {"transfers"}
    assert len(tracks) == len(set(tracks.values()))
    mine = [e for e in slices_of(trace) if e["args"]["flow"] not in before and e["args"]["outcome"] == "done"]
    assert {tracks[e["pid"]] for e in mine} <= links
    # Together they are the transfer, each byte once.
    spans = sorted((e["args"]["begin"], e["args"]["end"]) for e in mine)
    assert [0, *(end for _, end in spans)] == [*(begin for begin, _ in spans), SIZE]
    lanes: dict[tuple[int, int], list[tuple[float, float]]] = {}
    for e in slices_of(trace):
        assert e["args"]["predicted_us"] > 0
        lanes.setdefault((e["pid"], e["tid"]), []).append((e["ts"], e["ts"] + e["dur"]))
    for times in lanes.values():  # viewers cannot show slices of a lane that overlap
        times.sort()
        assert all(a[1] <= b[0] for a, b in pairwise(times))


def slices_of(trace: dict[str, Any]) -> list[dict[str, Any]]:
    return [e for e in trace["traceEvents"] if e["ph"] == "X" and "attempt" in e["args"]]


def test_a_node_is_observed_over_its_session(tmp_path: Path, tent: Tent) -> None:
    with two_rails() as world, Engine({"node.bind": ["127.0.0.1"]}, name="watcher") as watcher:
        world.both_up()
        peer = watcher.connect(world.engine.descriptor(), PATIENCE)
        sampler = Sampler()
        first = sampler.add(peer.stats())
        assert {row.rate for row in first} == {None}
        world.read()
        rows = sampler.add(peer.stats())
        # Crossed links may join at any time.
        names = {row.link for row in rows}
        assert {row.link for row in first} <= names <= {row["name"] for row in world.engine.links()}
        assert sum(row.share or 0 for row in rows) == pytest.approx(1)
        assert all(row.predicted > 0 for row in rows) and sum(row.slices for row in rows) > 1
        own, seen = world.engine.stats(), peer.stats()
        assert seen["name"] == "initiator" and seen["incarnation"] == world.engine.incarnation
        carried = {link["name"]: link["bytes_used"] for link in seen["links"]}
        assert carried.items() >= {link["name"]: link["bytes_used"] for link in own["links"]}.items()
        assert seen["counters"]["completed"] == 2
        with pytest.raises(Unsupported):
            peer.call(99, b"")
        with pytest.raises(ProtocolError):
            peer.call(64, b"\1\0nonsense")

        descriptor = tmp_path / "descriptor"
        descriptor.write_bytes(world.engine.descriptor())
        shown = tent("top", "--descriptor", str(descriptor), "--once", "--json", "--interval", "50ms")
        assert shown.returncode == 0, shown.stderr
        assert {row["link"] for row in json.loads(shown.stdout)["links"]} >= names
        table = tent("top", "--descriptor", str(descriptor), "--once", "--interval", "50ms")
        assert all(name in table.stdout for name in names)

        file = tmp_path / "remote.flight"
        dumped = tent("recorder", "dump", "--descriptor", str(descriptor), "--out", str(file))
        assert dumped.returncode == 0, dumped.stderr
        replayed = tent("recorder", "replay", str(file), "--json")
        assert replayed.returncode == 0, replayed.stdout + replayed.stderr
        assert json.loads(replayed.stdout)["node"] == "initiator"
        assert json.loads(replayed.stdout)["actions"] > 10
        traced = tent(
            "trace", "--descriptor", str(descriptor), "--for", "50ms", "--out", str(tmp_path / "live.json")
        )
        assert traced.returncode == 0, traced.stderr
        assert json.loads((tmp_path / "live.json").read_text())["metadata"]["complete"]


def test_a_recording_larger_than_a_frame_is_fetched_in_parts() -> None:
    with two_rails(**{"engine.slice_max": "64KiB"}) as world, Engine({"node.bind": ["127.0.0.1"]}) as watcher:
        world.both_up()
        while len(world.engine.recording()) < 300 << 10:
            world.read()
        peer = watcher.connect(world.engine.descriptor(), PATIENCE)
        fetched = peer.recording("test")
        assert len(fetched) >= 300 << 10
        result = _native.replay_recording(fetched)
        assert result["identical"], result["difference"]
        assert result["node"] == "initiator" and result["reason"] == "test"


def test_nodes_of_the_directory_are_found_by_name(tent: Tent) -> None:
    with closing(Server()) as server:
        env = {"TENT_DIRECTORY_URL": server.url}
        with PageStore.open({"directory.url": server.url, "node.name": "serving-1", "store.capacity": "64MiB",
                             "store.extent": "16MiB"}):  # fmt: skip
            shown = tent("top", "serving-1", "--once", "--json", "--interval", "50ms", **env)
            assert shown.returncode == 0, shown.stderr
            assert json.loads(shown.stdout) == {"links": [], "unreachable": {}}
            everyone = tent("top", "--once", "--interval", "50ms", **env)
            assert everyone.returncode == 0 and "no links yet" in everyone.stdout
            unknown = tent("top", "serving-2", "--once", **env)
            assert unknown.returncode == 2
            assert "'serving-2'" in unknown.stderr and "serving-1" in unknown.stderr


def test_a_fault_writes_a_recording_and_the_next_one_soon_after_does_not(tmp_path: Path) -> None:
    more = {"recorder.dir": str(tmp_path / "flights"), "recorder.interval_s": 3600}
    with two_rails(**more) as world:
        world.both_up()
        for _ in range(2):
            world.relays[1].cut()
            until(lambda: world.state(1) == "down", "notice of the cut")
            until(lambda: list((tmp_path / "flights").glob("*.flight")), "a recording")
            world.relays[1].mend()
            until(lambda: world.state(1) in ("up", "probation"), "the rail's return")
    files = list((tmp_path / "flights").iterdir())
    assert len(files) == 1
    assert files[0].stat().st_mode & 0o077 == 0
    result = _native.replay_recording(files[0].read_bytes())
    assert result["identical"], result["difference"]
    assert "is down" in result["reason"]


_PROGRAM = """
import select, signal, sys
from tent_core import Engine
if sys.argv[2] == "own":
    signal.signal(signal.SIGUSR2, lambda *_: print("mine", flush=True))
with Engine({"recorder.signal": True, "recorder.dir": sys.argv[1], "node.bind": ["127.0.0.1"]}) as engine:
    print("ready", flush=True)
    # A handler runs when the main thread runs Python code, whichever thread the kernel chose for the signal.
    while not select.select([sys.stdin], [], [], 0.02)[0]:
        pass
"""


@pytest.mark.parametrize("whose", ["ours", "own"])
def test_sigusr2_writes_a_recording_and_an_application_keeps_its_handler(tmp_path: Path, whose: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(tmp_path), whose],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGUSR2)
        if whose == "own":
            assert process.stdout.readline() == "mine\n"
        else:
            until(lambda: list(tmp_path.glob("tent-*.flight")), "a recording")
        process.stdin.close()
        assert process.wait(PATIENCE) == 0
    assert len(list(tmp_path.iterdir())) == (0 if whose == "own" else 1)


def test_a_recording_that_is_no_recording(tmp_path: Path, tent: Tent) -> None:
    (tmp_path / "x").write_bytes(b"something else")
    done = tent("recorder", "replay", str(tmp_path / "x"))
    assert done.returncode == 1
    assert "not a recording" in done.stderr and "Traceback" not in done.stderr
    gone = tent("recorder", "replay", str(tmp_path / "y"))
    assert gone.returncode == 2 and "No such file" in gone.stderr


def test_dump_to_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with Engine({"node.bind": ["127.0.0.1"]}) as engine, pytest.raises(FileNotFoundError):
        engine.dump_recorder(str(tmp_path / "none" / "x"))
