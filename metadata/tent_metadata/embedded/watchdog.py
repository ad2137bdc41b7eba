"""The embedded server's parent, a process of its own: makes every file of the directory, restarts the server if it
dies, and ends it, itself and every file when the last user is gone.

Run as ``python -I -S watchdog.py FOLDER SERVER SECONDS`` by `member`; imports nothing but the standard library. The
process started exits once the server answers, or another watchdog is there (0), or it did not come up (1, with the
reason on its output); the watchdog goes on in a session of its own. Its starter writes a line when it is a user; until
then the watchdog counts as one itself. The server is killed by the kernel should the watchdog die.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import secrets
import select
import signal
import socket
import stat
import sys
import threading
import time

USERS, WATCHDOG, SECRET, SOCKET, MADE_MARK = "users", "watchdog", "secret", "redis.sock", "made-by-tent"
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.002
_LONGEST_PAUSE_S = 1.0
_RIVAL_S = 0.1  # a lock held for less is somebody's look at it, not a watchdog's
_HANDOVER_S = 15.0


def read_secret(folder: str) -> str:
    """Raises OSError when there is none."""
    with open(os.path.join(folder, SECRET)) as file:
        return file.read()


def is_alive(folder: str) -> bool:
    """Whether a watchdog, or somebody who cleans up instead of one, holds the lock."""
    try:
        fd = os.open(os.path.join(folder, WATCHDOG), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def is_at(fd: int, path: str) -> bool:
    """Whether this open file is still the one at that path."""
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def take_watchdog_lock(folder: str, patience_s: float) -> int | None:
    """The lock's descriptor, or None: another has it. OSError where the folder is gone."""
    path = os.path.join(folder, WATCHDOG)
    deadline = time.monotonic() + patience_s
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if is_at(fd, path):
                return fd
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(fd)
                return None
            time.sleep(_POLL_S)
        os.close(fd)


def ensure_secret(folder: str) -> None:
    """Makes the secret appear whole. Called by the holder of the watchdog's lock."""
    path = os.path.join(folder, SECRET)
    if not os.path.exists(path):
        fd = os.open(path + ".new", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        os.write(fd, secrets.token_hex(32).encode())
        os.close(fd)
        os.rename(path + ".new", path)


def ping(path: str, secret: str, patience_s: float) -> bool:
    """Whether the server behind the socket knows the secret and answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(patience_s)
        try:
            sock.connect(path)
            sock.sendall(b"AUTH %b\r\nPING\r\n" % secret.encode())
            told = b""
            while told.count(b"\r\n") < 2 and len(told) < 4096:
                more = sock.recv(4096)
                if not more:
                    return False
                told += more
        except OSError:
            return False
    return told == b"+OK\r\n+PONG\r\n"


class Keeper:
    """Keeps one server running. Forks it from the main thread, whose death is the server's."""

    def __init__(self, folder: str, server: str) -> None:
        self._folder = folder
        self._server = server
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.socket_path = os.path.join(folder, SOCKET)
        self.secret = read_secret(folder)
        self.log = os.memfd_create("tent-directory-log", os.MFD_CLOEXEC)
        self.stopping = threading.Event()
        self.gone = threading.Event()
        self._lock = threading.Lock()
        self._pid = 0

    def start(self) -> None:
        config = (
            f"port 0\nunixsocket {_quoted(self.socket_path)}\nunixsocketperm 700\nrequirepass {self.secret}\n"
            f"dir {_quoted(self._folder)}\n"
            'save ""\nappendonly no\nmaxmemory 512mb\nmaxmemory-policy noeviction\nloglevel warning\n'
            "daemonize no\ndatabases 1\nstop-writes-on-bgsave-error no\n"
        )
        source, sink = os.pipe2(os.O_CLOEXEC)
        os.write(sink, config.encode())
        os.close(sink)
        watchdog = os.getpid()
        with self._lock:
            if self.stopping.is_set():
                os.close(source)
                return
            pid = os.fork()
            if pid == 0:
                self._become_server(source, watchdog)
            self._pid = pid
        os.close(source)

    def _become_server(self, config: int, watchdog: int) -> None:
        try:
            self._libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
            if os.getppid() != watchdog:
                os._exit(1)
            os.dup2(config, 0)
            os.dup2(self.log, 1)
            os.dup2(self.log, 2)
            os.execv(self._server, [self._server, "-"])
        finally:
            os._exit(127)

    def wait(self) -> None:
        """Until the server exits."""
        if self._pid:
            os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOWAIT)
        with self._lock:  # reaped under the lock: `stop` never kills a number that is somebody else's by now
            if self._pid:
                os.waitpid(self._pid, 0)
            self._pid = 0

    def exited(self) -> bool:
        if self._pid and os.waitpid(self._pid, os.WNOHANG) != (0, 0):
            self._pid = 0
        return not self._pid

    def last_words(self) -> str:
        size = os.lseek(self.log, 0, os.SEEK_END)
        return os.pread(self.log, 600, max(0, size - 600)).decode("utf-8", "replace")

    def stop(self) -> None:
        """Kills the server (it keeps nothing) and returns when it is gone. Called from the other thread."""
        with self._lock:
            self.stopping.set()
            if self._pid:
                os.kill(self._pid, signal.SIGKILL)
        self.gone.wait()


def _quoted(path: str) -> str:
    escaped = path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _clean_up_after_users(folder: str, users: int, keeper: Keeper) -> None:
    """Waits for the last user; then nothing of the directory is left."""
    fcntl.flock(users, fcntl.LOCK_EX)
    keeper.stop()
    remove_all(folder)
    os._exit(0)


def remove_all(folder: str) -> None:
    """Removes every file, and the folder if TENT made it. By the holder of both locks; ``users`` goes last but one, so
    that whoever locked it too late sees that it is gone."""
    mark = os.path.join(folder, MADE_MARK)
    made = os.path.exists(mark)
    for name in (SOCKET, SECRET, SECRET + ".new", *([MADE_MARK] if made else []), USERS, WATCHDOG):
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            pass
    if made:
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            pass
        except OSError:  # the next watchdog is in it already, and will have to remove it
            _touch(mark)


def _touch(path: str) -> None:
    try:
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
    except FileNotFoundError:
        pass


def _enter(folder: str) -> int | None:
    """Makes the folder if need be and takes the watchdog's lock in it; None: another watchdog is there."""
    while True:
        try:
            os.mkdir(folder, 0o700)
            _touch(os.path.join(folder, MADE_MARK))
        except FileExistsError:
            pass
        found = os.lstat(folder)
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
            raise PermissionError(f"{folder} is not this user's own folder")
        try:
            return take_watchdog_lock(folder, _RIVAL_S)
        except FileNotFoundError:  # the one before us removed it just now
            continue


def _report(pipe: int, text: str) -> None:
    os.write(pipe, text.encode())
    os.close(pipe)


def _watch(folder: str, server: str, patience_s: float, pipe: int) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)  # the starter reads what the process that it started writes, to the end
    os.dup2(null, 2)
    own = _enter(folder)
    if own is None:
        _report(pipe, "ok")
        os._exit(0)
    ensure_secret(folder)
    users = os.open(os.path.join(folder, USERS), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    fcntl.flock(users, fcntl.LOCK_SH)
    keeper = Keeper(folder, server)
    keeper.start()
    deadline = time.monotonic() + patience_s
    while not ping(keeper.socket_path, keeper.secret, 0.25):
        if keeper.exited() or time.monotonic() > deadline:
            _give_up(folder, users)
            _report(pipe, f"error: {keeper.last_words()}")
            os._exit(1)
        time.sleep(_POLL_S)
    _report(pipe, "ok")
    select.select([0], [], [], _HANDOVER_S)  # a line from the starter, or its end
    os.dup2(null, 0)
    threading.Thread(target=_clean_up_after_users, args=(folder, users, keeper), daemon=True).start()
    _keep_running(keeper)


def _give_up(folder: str, users: int) -> None:
    """The server does not start: leaves nothing, unless others use what is there."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return
    remove_all(folder)


def _keep_running(keeper: Keeper) -> None:
    pause = _POLL_S
    while True:
        started = time.monotonic()
        keeper.wait()
        if keeper.stopping.is_set():
            keeper.gone.set()
            signal.pause()  # the other thread ends the process
        if time.monotonic() - started > 10 * _LONGEST_PAUSE_S:
            pause = _POLL_S
        keeper.stopping.wait(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_S)
        keeper.start()


def main(folder: str, server: str, patience_s: float) -> int:
    source, sink = os.pipe2(os.O_CLOEXEC)
    if os.fork() == 0:
        os.close(source)
        try:
            _watch(folder, server, patience_s, sink)
        except BaseException as error:  # nothing above this frame is ours
            try:
                os.write(sink, f"error: {error!r}".encode())
            except OSError:
                pass
        finally:
            os._exit(1)
    os.close(sink)
    told = b""
    while True:
        more = os.read(source, 4096)
        if not more:
            break
        told += more
    if told != b"ok":
        print(told.decode("utf-8", "replace") or "the watchdog ended without a word")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
