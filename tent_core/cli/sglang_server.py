"""A real SGLang server on the CPU as a child process: start, ask, flush, stop.

Used by the demo and by the end-to-end tests. Standard library only; SGLang itself runs in the child, under the
interpreter that runs this.
"""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from tent_core.errors import DeadlineExceeded, Internal

__all__ = ["Answer", "SglangServer", "free_port"]

ADMIN_KEY = "tent-demo"
PAGE_TOKENS = 16
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Answer:
    """One completion. `logprobs` and `tokens` are of the output, in order."""

    tokens: list[int]
    logprobs: list[float]
    prompt_tokens: int
    storage_tokens: int
    """Prompt tokens that SGLang says came from its storage backend."""
    cached_tokens: int
    """Prompt tokens that SGLang did not compute, from wherever."""
    first_token_s: float
    """Seconds from sending the request to the first token."""


class SglangServer:
    """One server and its children. Not thread-safe for start and stop; requests may come from several threads."""

    def __init__(self, model: Path, log: Path, *, core: int | None = None, port: int | None = None) -> None:
        """`core`: the CPU core it is kept to. `log`: where its output goes."""
        self.model = model
        self.log = log
        self.core = core
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        *,
        backend: str | None = "tent",
        extra_config: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        arguments: Sequence[str] = (),
        max_tokens: int = 16384,
    ) -> None:
        """Starts the process and returns at once. `backend`: what `--hicache-storage-backend` says; None leaves it out.

        `max_tokens`: room of its KV cache, and the longest prompt it takes.
        """
        command = [
            sys.executable, "-m", "sglang.launch_server",
            "--model-path", str(self.model), "--served-model-name", "tent-demo",
            "--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32",
            "--mem-fraction-static", "0.6", "--page-size", str(PAGE_TOKENS), "--max-total-tokens", str(max_tokens),
            "--context-length", str(max_tokens - PAGE_TOKENS), "--chunked-prefill-size", "-1",
            "--skip-server-warmup", "--host", "127.0.0.1", "--port", str(self.port),
            "--admin-api-key", ADMIN_KEY, "--enable-metrics",
            "--enable-hierarchical-cache", "--hicache-ratio", "2", "--hicache-write-policy", "write_through",
            "--hicache-storage-prefetch-policy", "wait_complete",
        ]  # fmt: skip
        if backend is not None:
            command += ["--hicache-storage-backend", backend]
        if extra_config:
            command += ["--hicache-storage-backend-extra-config", json.dumps(extra_config)]
        with open(self.log, "wb") as output:
            self.process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**_environment(), **(environment or {})},
                start_new_session=True,
                preexec_fn=_prepare_child(self.core),
            )

    def wait_ready(self, timeout: float = 300, progress: Callable[[str], None] | None = None) -> None:
        """Returns when the server answers. Raises Internal when it died and DeadlineExceeded when it takes longer.

        `progress` is called with the last line of the log whenever that changes.
        """
        deadline = time.monotonic() + timeout
        last = ""
        while True:
            assert self.process is not None, "start() comes first"
            if self.process.poll() is not None:
                raise Internal(
                    f"SGLang ended with status {self.process.returncode} before it served:\n{self.tail()}"
                )
            if self._alive():
                return
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"SGLang does not serve after {timeout:.0f} s; its log {self.log} ends:\n{self.tail()}"
                )
            line = self.tail(1)
            if progress is not None and line != last:
                progress(line)
                last = line
            time.sleep(0.2)

    def generate(self, prompt: str | list[int], *, new_tokens: int = 8, timeout: float = 300) -> Answer:
        """A greedy completion of text or token ids. Raises OSError or HTTPException when the server goes away."""
        body = {
            ("text" if isinstance(prompt, str) else "input_ids"): prompt,
            "sampling_params": {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True},
            "return_logprob": True,
            "stream": True,
        }
        started = time.monotonic()
        first = 0.0
        meta: dict[str, Any] = {}
        for event in self._stream("/generate", body, timeout):
            if "error" in event:
                raise Internal(f"SGLang refused the request: {event['error']}")
            first = first or time.monotonic() - started
            meta = event["meta_info"]
        details = meta.get("cached_tokens_details") or {}
        return Answer(
            tokens=[entry[1] for entry in meta["output_token_logprobs"]],
            logprobs=[entry[0] for entry in meta["output_token_logprobs"]],
            prompt_tokens=meta["prompt_tokens"],
            storage_tokens=details.get("storage", 0),
            cached_tokens=meta.get("cached_tokens", 0),
            first_token_s=first,
        )

    def flush(self, timeout: float = 30) -> None:
        """Empties the server's own caches (device and host), not the storage. Waits until it is idle enough to."""
        deadline = time.monotonic() + timeout
        while True:
            status, text = self.call("POST", "/flush_cache")
            if status == 200:
                return
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"SGLang does not flush its cache: {status} {text}")
            time.sleep(0.1)

    def clear_storage(self) -> None:
        """Empties what the storage backend holds for this model."""
        status, text = self.call("POST", "/hicache/storage-backend/clear")
        if status != 200:
            raise Internal(f"SGLang did not clear its storage: {status} {text}")

    def counter(self, name: str) -> float:
        """The sum of one of SGLang's own Prometheus counters over its labels, 0 before its first event."""
        status, text = self.call("GET", "/metrics")
        if status != 200:
            raise Internal(f"SGLang gives no metrics: {status}")
        lines = (line for line in text.splitlines() if line.startswith(f"sglang:{name}"))
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    def wait_backed_up(self, tokens: float, timeout: float = 60) -> None:
        """Returns when SGLang has backed up `tokens` tokens to the storage since it started."""
        deadline = time.monotonic() + timeout
        while (done := self.counter("backuped_tokens_total")) < tokens:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(
                    f"SGLang backed up {done:.0f} of {tokens:.0f} tokens in {timeout:.0f} s"
                )
            time.sleep(0.05)

    def attach(self, backend: str, extra_config: dict[str, Any] | None = None) -> tuple[int, str]:
        """Attaches a storage backend to the running server; (HTTP status, what it says)."""
        body: dict[str, Any] = {
            "hicache_storage_backend": backend,
            "hicache_storage_prefetch_policy": "wait_complete",
            "hicache_write_policy": "write_through",
        }
        if extra_config is not None:
            body["hicache_storage_backend_extra_config_json"] = json.dumps(extra_config)
        return self.call("PUT", "/hicache/storage-backend", body)

    def detach(self) -> tuple[int, str]:
        """Detaches the storage backend; (HTTP status, what it says)."""
        return self.call("DELETE", "/hicache/storage-backend")

    def call(self, method: str, path: str, body: Any = None, timeout: float = 120) -> tuple[int, str]:
        """One request of the server's control interface: (HTTP status, answer)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {ADMIN_KEY}"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()

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

    def __enter__(self) -> SglangServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _alive(self) -> bool:
        try:
            return self.call("GET", "/health", timeout=30)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def _stream(self, path: str, body: Any, timeout: float) -> Any:
        """The events of one streamed answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
            response = connection.getresponse()
            if response.status != 200:
                raise Internal(
                    f"SGLang answered {response.status}: {response.read().decode(errors='replace')}"
                )
            for line in response:
                text = line.decode().strip()
                if text.startswith("data:") and text != "data: [DONE]":
                    yield json.loads(text[5:])
        finally:
            connection.close()


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment() -> dict[str, str]:
    """The child's: SGLang's CPU engine, nothing fetched, its own environment's tools first."""
    here = os.path.dirname(sys.executable)
    return {
        **os.environ,
        "PATH": os.pathsep.join([here, os.environ.get("PATH", "")]),
        "SGLANG_USE_CPU_ENGINE": "1",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TORCHDYNAMO_DISABLE": "1",
        "OMP_NUM_THREADS": "1",
    }


def _prepare_child(core: int | None) -> Callable[[], None]:
    """Runs in the child before SGLang: it ends with its parent, and stays on its core."""
    libc = ctypes.CDLL(None)
    cores = os.sched_getaffinity(0)

    def prepare() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if core is not None and core in cores:
            os.sched_setaffinity(0, {core})

    return prepare
