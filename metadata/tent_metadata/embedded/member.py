"""Joining and leaving the embedded directory, safely against everybody else who does so at the same moment.

Files in the folder, all of them made by the watchdog, so that a user may be killed at any moment:

``users``     each process that uses the directory holds a shared flock on it. The watchdog waits for an exclusive
              one: it gets it when the last user is gone, SIGKILLed ones included, since the kernel drops their locks.
              Holding it, it stops the server and removes every file. So whoever locked a file that is no longer the
              one at that path came too late, and starts over.
``watchdog``  held by the watchdog while it lives: there is one at a time, and who finds none starts one.
``secret``    the server's password, and the secret that this user's nodes share.

A forked child closes its copy of the lock: it is no user until it opens a directory itself.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import subprocess
import sys
import threading
import time

from tent_core.errors import DirectoryUnavailable
from tent_metadata.embedded import binary, folder, watchdog

__all__ = ["Membership", "join"]

log = logging.getLogger("tent.directory")
_JOIN_S = 15.0
_START_S = 10.0
_POLL_S = 0.002
_REVIVE_S = 0.5
_DYING_S = 1.0

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
        """Until this process is a user and the server answers. Raises ConfigError or DirectoryUnavailable."""
        with self._busy:
            while not self._leaving:
                if self._become_user(deadline) and _answers(self.path):
                    return
                if not watchdog.is_alive(self.path):
                    self._start_watchdog(deadline)
                elif time.monotonic() > deadline:
                    raise DirectoryUnavailable(f"the embedded directory in {self.path} does not answer")
                else:
                    time.sleep(_POLL_S)

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
        try:
            if self._users is not None:
                self.ensure_running(time.monotonic() + _START_S)
        except Exception as error:  # a background attempt: the next failed call makes another
            log.warning("the embedded directory in %s could not be restarted: %s", self.path, error)

    def _become_user(self, deadline: float) -> bool:
        """Holds the shared lock on the ``users`` file that is at its path now, if there is one."""
        users = os.path.join(self.path, watchdog.USERS)
        while self._users is None:
            folder.check_folder(self.path)
            try:
                fd = os.open(users, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
            except FileNotFoundError:
                return False
            try:
                _flock(fd, fcntl.LOCK_SH, deadline, self.path)
                if watchdog.is_at(fd, users):
                    self._users, fd = fd, -1
            finally:
                if fd >= 0:
                    os.close(fd)
        return True

    def _tidy(self) -> None:
        """Does a watchdog's last duty where there is none, because it was killed."""
        with contextlib.suppress(OSError):  # others use it still, or were faster
            if not os.path.isdir(self.path):
                return
            # One that is just being killed holds its lock a moment longer than its server lives.
            patience = 0.0 if _answers(self.path) else _DYING_S
            own = watchdog.take_watchdog_lock(self.path, patience)
            if own is None:
                return
            users = os.open(
                os.path.join(self.path, watchdog.USERS), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
            )
            try:
                fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                watchdog.remove_all(self.path)
            finally:
                os.close(users)
                os.close(own)

    def _start_watchdog(self, deadline: float) -> None:
        """Starts one, and becomes a user before it looks whether there are any."""
        server = binary.find_server()
        python = sys.executable or shutil.which("python3") or "python3"
        words = [python, "-I", "-S", watchdog.__file__, self.path, server, str(_START_S)]
        try:
            process = subprocess.Popen(
                words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                start_new_session=True, cwd="/",
            )  # fmt: skip
        except OSError as error:
            raise DirectoryUnavailable(f"the embedded directory's watchdog did not start: {error}") from None
        assert process.stdin is not None and process.stdout is not None
        try:
            text = process.stdout.read().decode("utf-8", "replace").strip()[-600:]
            if process.wait() != 0:
                raise DirectoryUnavailable(f"the embedded directory ({server}) did not start: {text}")
            self._become_user(deadline)
            with contextlib.suppress(BrokenPipeError):  # another watchdog was faster, and this one is gone
                os.write(process.stdin.fileno(), b"joined\n")
        finally:
            process.stdin.close()
            process.stdout.close()


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


def _after_fork_in_child() -> None:
    global _lock
    _lock = threading.Lock()
    for member in _members.values():
        member.abandon()
    _members.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)
