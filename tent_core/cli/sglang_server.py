"""A real SGLang server on the CPU as a child process, for the demo and the end-to-end tests."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tent_core.cli.demo_common import ServerProcess
from tent_core.errors import DeadlineExceeded, Internal

__all__ = ["PAGE_TOKENS", "Answer", "SglangServer"]

PAGE_TOKENS = 16
_MODEL = "tent-demo"
# Whoever knows it may attach and detach storage; the server listens on the loopback interface only.
_ADMIN_KEY = "tent-demo"
_IDLE_WITHIN_S = 30.0
# SGLang's CPU engine, nothing fetched, one core a server.
_ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}

_HICACHE_ARGUMENTS = (
    "--enable-hierarchical-cache", "--hicache-ratio", "2", "--hicache-write-policy", "write_through",
    "--hicache-storage-prefetch-policy", "wait_complete",
)  # fmt: skip


def _linker_arguments(extra_config: dict[str, Any]) -> list[str]:
    config = {
        "linker": "TentLinker",
        "linker_module_path": "tent_sglang.linker",
        "linker_extra_config": extra_config,
    }
    return [
        "--enable-unified-cache-external-linker", "--unified-cache-external-linker-backend", "dynamic",
        "--unified-cache-external-linker-config", json.dumps(config),
    ]  # fmt: skip


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


class SglangServer(ServerProcess):
    name = "SGLang"

    def __init__(
        self,
        python: str,
        model: Path,
        log: Path,
        *,
        core: int | None = None,
        port: int | None = None,
        namespace: str = "",
    ) -> None:
        """`python`: the interpreter that has SGLang and TENT. `namespace`: see `ServerProcess`."""
        super().__init__(log, core=core, port=port, namespace=namespace)
        self.python = python
        self.model = model

    def start(
        self,
        *,
        backend: str | None = "tent",
        extra_config: dict[str, Any] | None = None,
        environment: dict[str, str] | None = None,
        arguments: Sequence[str] = (),
        max_tokens: int = 16384,
        linker: bool = False,
        hicache: bool = True,
    ) -> None:
        """Starts the process and returns at once.

        `backend`: what `--hicache-storage-backend` says; None leaves the flag out. `extra_config`: TENT's
        configuration and SGLang's keys beside it. `max_tokens`: room of the KV cache, and the longest prompt.
        `linker`: device pools straight to the pool, without HiCache and its host pool. `hicache`: without `linker`,
        whether there is a host cache and a storage at all.
        """
        command = [
            self.python, "-m", "sglang.launch_server",
            "--model-path", str(self.model), "--served-model-name", _MODEL,
            "--device", "cpu", "--attention-backend", "torch_native", "--dtype", "float32",
            "--mem-fraction-static", "0.6", "--page-size", str(PAGE_TOKENS), "--max-total-tokens", str(max_tokens),
            "--context-length", str(max_tokens - PAGE_TOKENS), "--chunked-prefill-size", "-1",
            "--skip-server-warmup", "--host", "127.0.0.1", "--port", str(self.port),
            "--admin-api-key", _ADMIN_KEY, "--enable-metrics",
        ]  # fmt: skip
        if linker:
            command += _linker_arguments(extra_config or {})
        elif hicache:
            command += _HICACHE_ARGUMENTS
        stored = hicache and not linker
        if backend is not None and stored:
            command += ["--hicache-storage-backend", backend]
        if extra_config and stored:
            command += ["--hicache-storage-backend-extra-config", json.dumps(extra_config)]
        # SGLang runs the ninja that it finds first, and compiles anew for another one.
        path = os.pathsep.join([os.path.dirname(self.python), os.environ.get("PATH", "")])
        self.spawn([*command, *arguments], {**_ENVIRONMENT, "PATH": path, **(environment or {})})

    def generate(
        self,
        prompt: str | list[int],
        *,
        new_tokens: int = 8,
        cache_key: str | None = None,
        more: dict[str, Any] | None = None,
        timeout: float = 300,
    ) -> Answer:
        """A greedy completion of text or token ids. Raises OSError or HTTPException when the server goes away.

        `cache_key`: pages made under one key are found under no other, so a fresh one recomputes. `more`: further
        fields of the request.
        """
        body: dict[str, Any] = {
            ("text" if isinstance(prompt, str) else "input_ids"): prompt,
            "sampling_params": {"temperature": 0, "max_new_tokens": new_tokens, "ignore_eos": True},
            "return_logprob": True,
            "stream": True,
            **(more or {}),
        }
        if cache_key is not None:
            body["extra_key"] = cache_key
        started = time.monotonic()
        first, meta = 0.0, {}
        for event in self.stream("/generate", body, timeout):
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
        """Empties the server's own caches (device and host), not the storage, as soon as it is idle."""
        deadline = time.monotonic() + timeout
        while (answer := self.call("POST", "/flush_cache"))[0] != 200:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"SGLang does not flush its cache: {answer[1]}")
            time.sleep(0.1)

    def clear_storage(self) -> None:
        """Empties what the storage backend holds for this model."""
        status, text = self.call("POST", "/hicache/storage-backend/clear")
        if status != 200:
            raise Internal(f"SGLang did not clear its storage: {status} {text}")

    def backed_up(self) -> int:
        """Tokens that SGLang has handed to its storage since it started."""
        return int(self.metric("sglang:backuped_tokens_total"))

    def prefetched(self) -> int:
        """Tokens that SGLang has read from its storage since it started."""
        return int(self.metric("sglang:prefetched_tokens_total"))

    def wait_backed_up(self, tokens: int, timeout: float = 60) -> None:
        """Returns when `backed_up()` has reached `tokens`."""
        deadline = time.monotonic() + timeout
        while (done := self.backed_up()) < tokens:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"SGLang backed up {done} of {tokens} tokens in {timeout:.0f} s")
            time.sleep(0.05)

    def attach(self, backend: str, extra_config: dict[str, Any] | None = None) -> tuple[int, str]:
        """Attaches a storage backend to the running server once it is idle: (HTTP status, what it says)."""
        body: dict[str, Any] = {
            "hicache_storage_backend": backend,
            "hicache_storage_prefetch_policy": "wait_complete",
            "hicache_write_policy": "write_through",
        }
        if extra_config is not None:
            body["hicache_storage_backend_extra_config_json"] = json.dumps(extra_config)
        return self._once_idle("PUT", body)

    def detach(self) -> tuple[int, str]:
        """Detaches the storage backend once the server is idle: (HTTP status, what it says)."""
        return self._once_idle("DELETE")

    def _once_idle(self, method: str, body: Any = None) -> tuple[int, str]:
        # SGLang answers a client before it has put the request away, and refuses a change of backends until then.
        deadline = time.monotonic() + _IDLE_WITHIN_S
        while True:
            status, text = self.call(method, "/hicache/storage-backend", body)
            if status == 200 or "not idle" not in text or time.monotonic() > deadline:
                return status, text
            time.sleep(0.05)

    def call(self, method: str, path: str, body: Any = None, timeout: float = 120) -> tuple[int, str]:
        """One request with the administrator's key: (HTTP status, answer)."""
        connection = self._connect(timeout)
        try:
            headers = {"Content-Type": "application/json", "Authorization": f"Bearer {_ADMIN_KEY}"}
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response.status, response.read().decode(errors="replace")
        finally:
            connection.close()
