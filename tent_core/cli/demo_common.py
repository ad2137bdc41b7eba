"""What the demos and the end-to-end tests of all serving engines share: a server as a child process, and its HTTP API.

Standard library only; the serving engine itself runs in the child.
"""

from __future__ import annotations

import ctypes
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from tent_core.config.environment import cache_home
from tent_core.errors import DeadlineExceeded, Internal

__all__ = ["ServerProcess", "free_port", "generated_model", "models_folder", "same_logprobs"]

_PR_SET_PDEATHSIG = 1
_CLONE_NEWNET = 0x40000000
_NAMESPACES = Path("/run/netns")
# Computed and loaded KV cache give log-probabilities that differ by some 1e-6 in fp32; wrong cache by 1e-2 and more.
LOGPROB_TOLERANCE = 1e-4


class ServerProcess:
    """One server and its children, on the loopback interface of this network namespace or of another one.

    Start and stop belong to one thread; requests may come from several. A server ends with the process that started
    it, also when that is killed.
    """

    name = "server"

    def __init__(
        self, log: Path, *, core: int | None = None, port: int | None = None, namespace: str = ""
    ) -> None:
        """`log`: where its output goes. `core`: the CPU core that it is kept to. `namespace`: in which it runs, and is
        asked (root only)."""
        self.log = log
        self.namespace = namespace
        self.core = core
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def spawn(self, command: Sequence[str], environment: dict[str, str]) -> None:
        """Starts the process and returns at once."""
        inside = ["ip", "netns", "exec", self.namespace] if self.namespace else []
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                [*inside, *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment},
                start_new_session=True,
                preexec_fn=_prepare_child(self.core),
            )

    def wait_ready(self, timeout: float = 300, progress: Callable[[str], None] | None = None) -> None:
        """Returns when the server answers. Raises Internal when it died and DeadlineExceeded when it takes longer.

        `progress` is called with the last line of the log now and then.
        """
        assert self.process is not None, "start() comes first"
        deadline = time.monotonic() + timeout
        while not self.healthy():
            if self.process.poll() is not None:
                raise Internal(
                    f"{self.name} ended with status {self.process.returncode} before it served:\n{self.tail()}"
                )
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"{self.name} does not serve after {timeout:.0f} s; its log {self.log} ends:\n{self.tail()}"
                )
            if progress is not None:
                progress(self.tail(1))
            time.sleep(0.2)

    def healthy(self) -> bool:
        try:
            return self.call("GET", "/health", timeout=30)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def call(self, method: str, path: str, body: Any = None, timeout: float = 120) -> tuple[int, str]:
        """One request: (HTTP status, answer). Raises OSError or HTTPException when the server goes away."""
        connection = self._connect(timeout)
        try:
            headers = {"Content-Type": "application/json"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

    def stream(self, path: str, body: Any, timeout: float = 300) -> Iterator[dict[str, Any]]:
        """The events of one streamed answer (server-sent events), as they come."""
        connection = self._connect(timeout)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise Internal(f"{self.name}: {response.status} {response.read().decode(errors='replace')}")
            for line in response:
                text = line.decode().strip()
                if text.startswith("data:") and text != "data: [DONE]":
                    yield json.loads(text[5:])
        finally:
            connection.close()

    def _connect(self, timeout: float) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        with _in_namespace(self.namespace):
            connection.connect()
        return connection

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a Prometheus metric over the rows that carry `labels`; 0 before its first event."""
        status, text = self.call("GET", "/metrics")
        if status != 200:
            raise Internal(f"{self.name} gives no metrics: {status}")
        wanted = [f'{key}="{value}"' for key, value in labels.items()]
        return sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.partition("{")[0].partition(" ")[0] == name and all(label in line for label in wanted)
        )

    def kill(self) -> None:
        """SIGKILL to the server and all its children, as a crash of the host would end them."""
        assert self.process is not None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()

    def stop(self, patience: float = 15) -> None:
        """Asks it to end, then makes it. May be called in any state."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(patience)
            except subprocess.TimeoutExpired:
                pass
        self.kill()
        self.process = None

    def tail(self, lines: int = 30) -> str:
        """The end of its log."""
        try:
            text = self.log.read_text(errors="replace").rstrip()
        except OSError:
            return ""
        return "\n".join(text.splitlines()[-lines:])

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@contextmanager
def _in_namespace(name: str) -> Iterator[None]:
    """Sockets that this thread makes meanwhile belong to the network namespace `name`; "": to its own."""
    if not name:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)

    def enter(path: Path) -> None:
        with open(path, "rb") as namespace:
            if libc.setns(namespace.fileno(), _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), f"cannot enter the network namespace {path}")

    with open("/proc/thread-self/ns/net", "rb") as own:
        enter(_NAMESPACES / name)
        try:
            yield
        finally:
            libc.setns(own.fileno(), _CLONE_NEWNET)


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def models_folder() -> Path:
    """Where generated models are kept from run to run."""
    return cache_home() / "tent-models"


def generated_model(python: str, size: str, progress: Callable[[str], None] | None = None) -> Path:
    """The folder of a generated model of `size`, made by the interpreter `python` (it needs torch and transformers).

    Kept under a hash of the generator. Raises Internal with the generator's words when it fails.
    """
    generator = Path(__file__).with_name("demo_model.py")
    version = hashlib.sha256(generator.read_bytes()).hexdigest()[:12]
    folder = models_folder() / f"{size}-{version}"
    if not (folder / "config.json").exists():
        if progress is not None:
            progress("making a model with random weights")
        environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
        }
        made = subprocess.run(
            [python, str(generator), str(folder), "--size", size],
            env=environment,
            timeout=600,
            capture_output=True,
            text=True,
        )
        if made.returncode != 0:
            raise Internal(f"the model could not be made with {python}:\n{made.stderr[-2000:]}")
    return folder


def same_logprobs(ours: Sequence[float], theirs: Sequence[float]) -> bool:
    """Whether two answers are one: as many tokens, log-probabilities within the tolerance."""
    return len(ours) == len(theirs) and all(
        abs(a - b) <= LOGPROB_TOLERANCE for a, b in zip(ours, theirs, strict=True)
    )


def _prepare_child(core: int | None) -> Callable[[], None]:
    """Runs in the child before the server: it ends with its parent, and stays on its core."""
    libc = ctypes.CDLL(None)
    cores = os.sched_getaffinity(0)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if core is not None and core in cores:
            os.sched_setaffinity(0, {core})

    return prepare
