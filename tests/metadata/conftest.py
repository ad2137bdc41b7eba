"""Real servers for the directory's tests: single, replica, cluster and sentinel, each in a short-lived folder."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tent_metadata import Directory, open_directory
from tent_metadata.embedded import binary

PATIENCE_S = 20.0


@dataclasses.dataclass(frozen=True)
class Settings:
    """What a directory reads of the configuration. Tests are patient: a busy machine is no fault."""

    url: str = ""
    timeout_ms: int = 5000
    node_ttl_ms: int = 10_000
    embedded_dir: str = ""


def wait_for(what: Callable[[], Any], why: str, patience_s: float = PATIENCE_S) -> Any:
    """The first true result of ``what``; a test failure when there is none in time."""
    deadline = time.monotonic() + patience_s
    while True:
        result = what()
        if result:
            return result
        if time.monotonic() > deadline:
            pytest.fail(f"not in {patience_s} s: {why}")
        time.sleep(0.005)


def free_port() -> int:
    """Below the ports that the kernel gives to outgoing connections: one of those may take a port before the server."""
    while True:
        port = 12_000 + secrets.randbelow(18_000)
        with socket.socket() as sock:
            if sock.connect_ex(("127.0.0.1", port)) != 0:
                return port


def server_binaries() -> list[str]:
    found = [path for name in ("redis-server", "valkey-server") if (path := shutil.which(name))]
    packaged = binary._packaged()
    return found + ([packaged] if packaged else [])


class RedisServer:
    """One server process. ``options``: lines of its configuration."""

    def __init__(
        self, folder: Path, binary_path: str, *options: str, port: int = 0, sentinel: bool = False
    ) -> None:
        self.folder = folder
        self.port = port
        self.socket = str(folder / "s")
        self._words = [binary_path, str(folder / "conf"), *(["--sentinel"] if sentinel else [])]
        lines = [f"dir {folder}", f"port {port}", "bind 127.0.0.1", f"unixsocket {self.socket}"]
        if not sentinel:
            lines += ['save ""', "appendonly no"]
        (folder / "conf").write_text("\n".join([*lines, *options]) + "\n")
        self.process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"unix://{self.socket}"

    def start(self) -> None:
        with open(self.folder / "log", "ab") as log:
            self.process = subprocess.Popen(self._words, stdout=log, stderr=log)
        wait_for(self.listens, f"server in {self.folder} listens")

    def listens(self) -> bool:
        if self.process is not None and self.process.poll() is not None:
            pytest.fail(f"the server ended: {(self.folder / 'log').read_text()[-500:]}")
        with socket.socket(socket.AF_UNIX) as sock:
            return sock.connect_ex(self.socket) == 0

    def client(self, **options: Any) -> redis.Redis:
        return redis.Redis(unix_socket_path=self.socket, retry=Retry(NoBackoff(), 0), **options)

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def stop(self) -> None:
        """Ends it at once; nothing of its data is kept."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.socket)


@contextlib.contextmanager
def in_short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets."""
    path = Path(tempfile.mkdtemp(prefix="tm-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def server_maker() -> Iterator[Callable[..., RedisServer]]:
    """Makes servers, and ends them all."""
    made: list[RedisServer] = []

    def make(*options: str, which: str | None = None, **more: Any) -> RedisServer:
        folder = parent / secrets.token_hex(2)
        folder.mkdir()
        server = RedisServer(folder, which or server_binaries()[-1], *options, **more)
        made.append(server)
        return server

    with in_short_folder() as parent:
        try:
            yield make
        finally:
            for server in made:
                server.stop()


@pytest.fixture
def short_folder() -> Iterator[Path]:
    with in_short_folder() as folder:
        yield folder


@pytest.fixture
def make_server() -> Iterator[Callable[..., RedisServer]]:
    with server_maker() as make:
        yield make


@pytest.fixture
def server(make_server: Callable[..., RedisServer]) -> RedisServer:
    return make_server()


@pytest.fixture
def opened() -> Iterator[Callable[..., Directory]]:
    """Opens directories, and closes them when the test ends."""
    made: list[Directory] = []

    def make(url: str, *, cluster_id: str = "test", metrics: Any = None, **settings: Any) -> Directory:
        made.append(open_directory(Settings(url=url, **settings), cluster_id=cluster_id, metrics=metrics))
        return made[-1]

    yield make
    for directory in made:
        directory.close()


@pytest.fixture
def directory(server: RedisServer, opened: Callable[..., Directory]) -> Directory:
    return opened(server.url)


def form_cluster(make: Callable[..., RedisServer]) -> list[RedisServer]:
    """Three masters that share the slots."""
    nodes: list[tuple[RedisServer, int]] = []
    bounds = [0, 5461, 10923, 16384]
    for i in range(3):
        port, bus = free_port(), free_port()
        options = ("cluster-enabled yes", f"cluster-port {bus}", "cluster-node-timeout 1000")
        node = make(*options, "cluster-require-full-coverage no", port=port)
        client = node.client()
        client.execute_command("CLUSTER ADDSLOTSRANGE", bounds[i], bounds[i + 1] - 1)
        client.execute_command("CLUSTER SET-CONFIG-EPOCH", i + 1)
        for other, other_bus in nodes:
            client.execute_command("CLUSTER MEET", "127.0.0.1", other.port, other_bus)
        nodes.append((node, bus))

    def formed() -> bool:
        told = [node.client().cluster("INFO") for node, _ in nodes]
        return all(t["cluster_state"] == "ok" and t["cluster_slots_ok"] == "16384" for t in told)

    wait_for(formed, "the cluster formed")
    return [node for node, _ in nodes]


def url_of_cluster(nodes: list[RedisServer]) -> str:
    return "redis+cluster://" + ",".join(f"127.0.0.1:{node.port}" for node in nodes)


@pytest.fixture
def own_cluster(make_server: Callable[..., RedisServer]) -> list[RedisServer]:
    """A cluster that the test may break."""
    return form_cluster(make_server)


@pytest.fixture(scope="session")
def lasting_cluster() -> Iterator[list[RedisServer]]:
    with server_maker() as make:
        yield form_cluster(make)


@pytest.fixture
def cluster_url(lasting_cluster: list[RedisServer]) -> str:
    """A cluster that is empty, and stays whole."""
    for node in lasting_cluster:
        node.client().flushall()
    return url_of_cluster(lasting_cluster)


@pytest.fixture
def cluster_address() -> Callable[[list[RedisServer]], str]:
    return url_of_cluster


@pytest.fixture
def embedded_folder(short_folder: Path) -> str:
    return str(short_folder / "e")


@contextlib.contextmanager
def stopped(server: RedisServer) -> Iterator[None]:
    """The server process stands still meanwhile (SIGSTOP)."""
    server.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.signal(signal.SIGCONT)


@pytest.fixture
def stand_still() -> Callable[[RedisServer], contextlib.AbstractContextManager[None]]:
    return stopped


@pytest.fixture
def eventually() -> Callable[..., Any]:
    return wait_for


@pytest.fixture
def all_servers() -> list[str]:
    return server_binaries()


@pytest.fixture
def settings() -> type[Settings]:
    return Settings


@pytest.fixture
def tcp_port() -> Callable[[], int]:
    return free_port


@pytest.fixture
def access_list() -> str:
    """The rights that docs/directory.md tells an administrator to give."""
    text = (Path(__file__).parents[2] / "docs" / "directory.md").read_text()
    return re.search(r"ACL SETUSER tent on >PASSWORD ~tent:CLUSTER:\* (.*)", text).group(1)  # type: ignore[union-attr]
