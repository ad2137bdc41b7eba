"""What containers do to a node: other namespaces than its peer's, and a memory limit."""

from __future__ import annotations

import os
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest

from support.peers import PATIENCE, PeerGone, PeerProcess, digest_of, pattern, until
from support.stores import Server
from tent_core import Engine, Intent
from tent_core.errors import NoMemory, PeerDead, PeerUnreachable

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="making namespaces and control groups needs root"),
]
SIZE = 4 << 20
GiB = 1 << 30
CONFIG = {"node.bind": ["127.0.0.1"], "engine.session_lease_ms": 6000}
# In each the node is another process number than its peer sees; in the last it has its user's rights there only.
NAMESPACES = {
    "pid-and-mount": ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"],
    "mount": ["unshare", "--mount"],
    "user": ["unshare", "--user", "--map-root-user"],
}
WITHIN = pytest.mark.parametrize("within", NAMESPACES.values(), ids=NAMESPACES)
KIND = pytest.mark.parametrize("kind", ["allocate", "register"])
# Its own key lies with its user, who is another one in a user namespace.
SECRET = {"cluster.secret": "of these tests"}


@WITHIN
@KIND
def test_an_owner_in_other_namespaces(within: list[str], kind: str) -> None:
    """Reads and writes find its memory and no other; its end is noticed."""
    config = {**CONFIG, **SECRET}
    owner = PeerProcess(config, name="owner", within=within)
    with Engine(config, name="initiator") as engine:
        owner.ask(kind, "kv", SIZE)
        owner.fill("kv", 1)
        peer = engine.connect(owner.descriptor, PATIENCE)
        remote = peer.segment("kv")
        memory = np.zeros(SIZE, dtype=np.uint8)
        segment = engine.register(memory, access="private")
        read = Intent("read", peer, [memory.ctypes.data], remote, [0], SIZE)
        engine.run(read)
        assert digest_of(memory) == digest_of(pattern(1, SIZE))
        memory[:] = pattern(2, SIZE)
        engine.run(Intent("write", peer, [memory.ctypes.data], remote, [0], SIZE))
        assert owner.digest("kv") == digest_of(memory)
        owner.kill()
        with pytest.raises(PeerGone):
            owner.answer()
        owner.end()
        until(lambda: not peer.alive, "notice of its end")
        with pytest.raises((PeerDead, PeerUnreachable)):
            engine.run(read)
        segment.close(PATIENCE)


@WITHIN
@KIND
def test_an_initiator_in_other_namespaces(within: list[str], kind: str) -> None:
    config = {**CONFIG, **SECRET}
    with PeerProcess(config, name="owner") as owner:
        owner.ask(kind, "kv", SIZE)
        owner.fill("kv", 1)
        with PeerProcess(config, name="initiator", within=within) as initiator:
            initiator.register("mine", SIZE)
            name = initiator.connect(owner.descriptor)
            assert initiator.result(initiator.submit("read", name, "kv", "mine")) == SIZE
            assert initiator.digest("mine") == digest_of(pattern(1, SIZE))
            initiator.fill("mine", 2)
            assert initiator.result(initiator.submit("write", name, "kv", "mine")) == SIZE
            assert owner.digest("kv") == digest_of(pattern(2, SIZE))
            if "--pid" in within:  # it cannot name the owner's process, so it cannot prove that it is alive
                assert {row["transport"] for row in initiator.links() if row["posted"]} == {"tcp"}
        owner.unregister("kv")


def _wire(owner: PeerProcess, initiator: PeerProcess) -> None:
    """Joins the network namespaces of two processes by a pair of interfaces: 10.231.0.1 and 10.231.0.2."""
    for node in (owner, initiator):
        node.in_order()  # answers: its namespace is its own only once unshare has run
    ends = {"tt0": owner.pid, "tt1": initiator.pid}
    add = ["ip", "link", "add", "tt0", "netns", str(owner.pid), "type", "veth"]
    subprocess.run([*add, "peer", "name", "tt1", "netns", str(initiator.pid)], check=True)
    for number, (device, pid) in enumerate(ends.items(), start=1):
        for command in (
            ["ip", "link", "set", "lo", "up"],
            ["ip", "addr", "add", f"10.231.0.{number}/24", "dev", device],
            ["ip", "link", "set", device, "up"],
        ):
            subprocess.run(["nsenter", "--net", f"--target={pid}", *command], check=True)


def test_two_network_namespaces_of_one_host() -> None:
    """As two containers: one kernel, so one host by its boot id, and no unix socket between them: TCP carries all."""
    within = ["unshare", "--net"]
    with PeerProcess(within=within) as owner, PeerProcess(within=within) as initiator:
        _wire(owner, initiator)
        owner.open({**SECRET, "node.bind": ["10.231.0.1"]}, "owner")
        initiator.open({**SECRET, "node.bind": ["10.231.0.2"]}, "initiator")
        owner.allocate("kv", SIZE)
        owner.fill("kv", 3)
        initiator.register("mine", SIZE)
        name = initiator.connect(owner.descriptor)
        initiator.result(initiator.submit("read", name, "kv", "mine"))
        assert initiator.digest("mine") == digest_of(pattern(3, SIZE))
        assert {row["transport"] for row in initiator.links() if row["posted"]} == {"tcp"}


# ---- memory ---------------------------------------------------------------------------------------------------------


@contextmanager
def memory_limit(nbytes: int) -> Iterator[Callable[[int], None]]:
    """A control group of that much memory; gives what puts a process into it. Both versions of cgroups are known."""
    old = Path("/sys/fs/cgroup/memory")
    root, file = (old, "memory.limit_in_bytes") if old.is_dir() else (Path("/sys/fs/cgroup"), "memory.max")
    group = root / f"tent-test-{secrets.token_hex(4)}"
    group.mkdir()
    try:
        (group / file).write_text(str(nbytes))
        yield lambda pid: (group / "cgroup.procs").write_text(str(pid)) and None
    finally:
        until(lambda: not (group / "cgroup.procs").read_text(), "end of the processes in the control group")
        group.rmdir()


def _allocates(owner: PeerProcess, name: str, nbytes: int) -> bool:
    try:
        owner.allocate(name, nbytes)
    except NoMemory:
        return False
    return True


def test_a_gibibyte_of_memory() -> None:
    """More than the limit is refused by name before the kernel kills the process; what fits is served."""
    with ExitStack() as stack:
        put_into = stack.enter_context(memory_limit(GiB))
        owner = stack.enter_context(PeerProcess())
        put_into(owner.pid)
        owner.open(CONFIG, "owner")
        with pytest.raises(NoMemory, match=r"limit of cgroup .*tent-test-"):
            owner.allocate("big", 2 * GiB)
        owner.allocate("kv", GiB // 2)
        with pytest.raises(NoMemory, match=r"limit of cgroup .*tent-test-"):
            owner.allocate("second", GiB // 2 + GiB // 4)
        engine = stack.enter_context(Engine(CONFIG, name="initiator"))
        peer = engine.connect(owner.descriptor, PATIENCE)
        memory = np.zeros(GiB // 8, dtype=np.uint8)
        segment = engine.register(memory, access="private")
        owner.set("kv", 4)  # in place: a pattern would need its own room
        last = GiB // 2 - GiB // 8
        engine.run(Intent("read", peer, [memory.ctypes.data], peer.segment("kv"), [last], GiB // 8))
        assert (memory == 4).all()
        segment.close(PATIENCE)
        owner.unregister("kv")
        # Freed once the reader has heard of it, too, and let go of its mapping.
        until(lambda: _allocates(owner, "again", GiB // 2), "the memory to be free again")


def test_a_store_that_does_not_fit_is_refused_at_the_start() -> None:
    server = Server()
    try:
        with memory_limit(GiB) as put_into, PeerProcess() as node:
            put_into(node.pid)
            config = {**CONFIG, "directory.url": server.url}
            with pytest.raises(NoMemory, match=r"store\.capacity"):
                node.open_store({**config, "store.capacity": "2GiB"})
            node.open_store({**config, "store.capacity": "256MiB"})
    finally:
        server.close()
