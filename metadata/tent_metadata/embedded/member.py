"""Joining and leaving the embedded directory, safely against everybody else who does so at the same moment.

Files in the folder:

``users``     each process that uses the directory holds a shared flock on it. The watchdog waits for an exclusive
              one: it gets it when the last user is gone, SIGKILLed ones included, since the kernel drops their locks.
              Holding it, it stops the server and removes every file, this one last. So whoever locked a file that is
              no longer the one at that path came too late, and starts over.
``start``     held, exclusively, by the one user that looks whether there is a watchdog, and starts it if not.
``watchdog``  held by the watchdog while it lives.
``secret``    the server's password, and the secret that this user's nodes share.

A forked child closes its copy of the lock: it is no user until it opens a directory itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

from tent_core.errors import DirectoryUnavailable
from tent_metadata.embedded import binary, folder, watchdog

__all__ = ["Membership", "join"]

log = logging.getLogger("tent.directory")
_JOIN_S = 15.0
_START_S = 10.0
_POLL_S = 0.002
_REVIVE_S = 0.5

_lock = threading.Lock()
_members: dict[str, _Member] = {}


def join(setting: str, *, keep: bool = False) -> Membership:
    """Becomes a user of the embedded directory in the folder that ``setting`` says, starting it if need be.

    ``keep``: the process stays one until it leaves a membership that was joined without. Raises ConfigError (no
    server to start, a folder that is not safe) or DirectoryUnavailable (it does not start).
    """
    path = folder.choose_folder(setting)
    with _lock:
        member = _members.get(path)
        if member is None:
            member = _members[path] = _Member(path)
        if not keep:
            member.references += 1
    membership = Membership(member, counted=not keep)
    try:
        member.ensure_running(time.monotonic() + _JOIN_S)
    except BaseException:
        if not keep or member.references == 0:
            membership.abandon()
        raise
    return membership


class Membership:
    """A directory's hold on the embedded server. Thread-safe."""

    def __init__(self, member: _Member, *, counted: bool) -> None:
        self._member = member
        self._counted = counted
        self.url = "embedded://" + member.path
        self.socket_path = os.path.join(member.path, folder.SOCKET)

    def secret(self) -> str:
        """The shared secret, 64 hex digits."""
        return watchdog.read_secret(self._member.path)

    def revive(self) -> None:
        """The server does not answer: sees, in the background and at a bounded pace, that somebody restarts it."""
        self._member.revive()

    def leave(self) -> None:
        """Gives up the hold; the process stops being a user with its last one. Idempotent."""
        if self._counted:
            self._counted = False
            self._release(1)

    def abandon(self) -> None:
        """Undoes a join that failed."""
        if self._counted:
            self.leave()
        else:
            self._release(0)

    def _release(self, references: int) -> None:
        member = self._member
        with _lock:
            member.references -= references
            if member.references > 0 or _members.get(member.path) is not member:
                return
            del _members[member.path]
        member.release()


class _Member:
    """This process as a user of one folder."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.references = 0
        self._users: int | None = None
        self._busy = threading.Lock()
        self._next_revival = 0.0
        self._leaving = False

    def ensure_running(self, deadline: float) -> None:
        with self._busy:
            self._become_user(deadline)
            self._ensure_secret()
            if _answers(self.path):
                return
            with self._starting(deadline):
                self._start(deadline)

    def release(self) -> None:
        self._leaving = True
        with self._busy:
            if self._users is not None:
                os.close(self._users)
                self._users = None
                self._tidy()

    def abandon(self) -> None:
        """In a forked child."""
        if self._users is not None:
            os.close(self._users)
            self._users = None

    def revive(self) -> None:
        now = time.monotonic()
        if now < self._next_revival:
            return
        self._next_revival = now + _REVIVE_S
        threading.Thread(target=self._revive, name="tent-revive", daemon=True).start()

    def _revive(self) -> None:
        if not self._busy.acquire(blocking=False):
            return
        try:
            if self._users is not None:
                deadline = time.monotonic() + _START_S
                with self._starting(deadline):
                    self._start(deadline)
        except Exception as error:  # a background attempt: the next failed call makes another
            log.warning("the embedded directory in %s could not be restarted: %s", self.path, error)
        finally:
            self._busy.release()

    def _become_user(self, deadline: float) -> None:
        """Holds the shared lock on the ``users`` file that is at its path now."""
        users = os.path.join(self.path, watchdog.USERS)
        while self._users is None:
            folder.ensure_folder(self.path)
            try:
                fd = os.open(users, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            except FileNotFoundError:
                continue
            try:
                _flock(fd, fcntl.LOCK_SH, deadline, self.path)
                if _is_at(fd, users):
                    self._users, fd = fd, -1
            finally:
                if fd >= 0:
                    os.close(fd)

    def _ensure_secret(self) -> None:
        """Makes the secret appear whole: whoever links its file first wins."""
        path = os.path.join(self.path, watchdog.SECRET)
        if os.path.exists(path):
            return
        draft = f"{path}.{os.getpid()}.{secrets.token_hex(4)}"
        fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "w") as file:
                file.write(secrets.token_hex(32))
            with contextlib.suppress(FileExistsError):
                os.link(draft, path)
        finally:
            os.unlink(draft)

    @contextlib.contextmanager
    def _starting(self, deadline: float) -> Iterator[None]:
        """Holds the ``start`` lock. Its file is removed by a watchdog without users only, so it is the right one."""
        fd = os.open(os.path.join(self.path, watchdog.START), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            _flock(fd, fcntl.LOCK_EX, deadline, self.path)
            yield
        finally:
            os.close(fd)

    def _tidy(self) -> None:
        """Removes the files where no watchdog will: none ever started here, or it was killed."""
        try:
            fd = os.open(os.path.join(self.path, watchdog.USERS), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, os.path.join(self.path, watchdog.USERS)) and not watchdog.is_alive(self.path):
                watchdog.remove_all(self.path)
        except OSError:  # others use it still, or the watchdog was faster
            pass
        finally:
            os.close(fd)

    def _start(self, deadline: float) -> None:
        while not _answers(self.path) and not self._leaving:
            if not watchdog.is_alive(self.path):
                self._spawn()
            elif time.monotonic() > deadline:
                raise DirectoryUnavailable(f"the embedded directory in {self.path} does not answer")
            else:
                time.sleep(_POLL_S)

    def _spawn(self) -> None:
        server = binary.find_server()
        python = sys.executable or shutil.which("python3") or "python3"
        words = [python, "-I", "-S", watchdog.__file__, self.path, server, str(_START_S)]
        try:
            told = subprocess.run(
                words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True, cwd="/", timeout=_START_S + 5, check=False,
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as error:
            raise DirectoryUnavailable(f"the embedded directory's watchdog did not start: {error}") from None
        if told.returncode != 0:
            text = told.stdout.decode("utf-8", "replace").strip()[-600:]
            raise DirectoryUnavailable(f"the embedded directory ({server}) did not start: {text}")


def _answers(path: str) -> bool:
    try:
        return watchdog.ping(os.path.join(path, folder.SOCKET), watchdog.read_secret(path), 0.25)
    except OSError:
        return False


def _flock(fd: int, how: int, deadline: float, path: str) -> None:
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise DirectoryUnavailable(
                    f"the embedded directory in {path} is stuck: a lock is not let go"
                ) from None
            time.sleep(_POLL_S)


def _is_at(fd: int, path: str) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(fd), there)


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for member in _members.values():
        member.abandon()
    _members.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
