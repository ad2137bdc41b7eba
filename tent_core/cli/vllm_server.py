"""A real vLLM server on the CPU as a child process: start, ask, reset, stop. For the demo and the end-to-end tests."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tent_core.cli.demo_common import ServerProcess
from tent_core.errors import DeadlineExceeded, Internal

__all__ = ["BLOCK_TOKENS", "PREFILL", "Answer", "VllmServer"]

# vLLM's block size on a CPU: tokens in a page.
BLOCK_TOKENS = 128
_MODEL = "tent-demo"
# One core a server: with more threads than cores they fight; compiling the sampler costs 16 s at the first request.
_ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "TORCHDYNAMO_DISABLE": "1",
    "VLLM_SERVER_DEV_MODE": "1",
}


# What proxies ask of the prefill server: a completion of one token, with this as its kv_transfer_params.
PREFILL = {
    "do_remote_decode": True,
    "do_remote_prefill": False,
    "remote_engine_id": None,
    "remote_block_ids": None,
    "remote_host": None,
    "remote_port": None,
}


@dataclass(frozen=True)
class Answer:
    """One completion. `logprobs` and `tokens` are of the output, in order."""

    tokens: list[str]
    logprobs: list[float]
    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens that vLLM did not compute, from wherever."""
    first_token_s: float
    """Seconds from sending the request to the first token."""


class VllmServer(ServerProcess):
    name = "vLLM"

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
        """`python`: the interpreter that has vLLM and TENT."""
        super().__init__(log, core=core, port=port, namespace=namespace)
        self.python = python
        self.model = model

    def start(
        self,
        *,
        extra_config: dict[str, Any] | None = None,
        connector: dict[str, Any] | None = None,
        arguments: Sequence[str] = (),
        kv_gib: int = 1,
        max_tokens: int = 8192,
        environment: dict[str, str] | None = None,
    ) -> None:
        """Starts the process and returns at once.

        `extra_config`: TENT's configuration. `connector`: further keys of `--kv-transfer-config`; {} is the plain one,
        None leaves TENT out. `kv_gib`: GiB of KV cache. `environment`: beside this process's own.
        """
        command = [
            self.python, "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(self.model), "--served-model-name", _MODEL,
            "--dtype", "float32", "--enforce-eager", "--distributed-executor-backend", "uni",
            "--max-model-len", str(max_tokens), "--max-num-batched-tokens", str(max_tokens),
            "--enable-prompt-tokens-details", "--host", "127.0.0.1", "--port", str(self.port),
        ]  # fmt: skip
        if connector is not None:
            transfer = {"kv_connector": "TentConnector", "kv_role": "kv_both", **connector}
            if extra_config:
                transfer["kv_connector_extra_config"] = extra_config
            command += ["--kv-transfer-config", json.dumps(transfer)]
        own = {**_ENVIRONMENT, "VLLM_CPU_KVCACHE_SPACE": str(kv_gib), **(environment or {})}
        self.spawn([*command, *arguments], own)

    def complete(
        self,
        prompt: str | list[int],
        *,
        new_tokens: int = 8,
        salt: str | None = None,
        handoff: dict[str, Any] | None = None,
        timeout: float = 300,
    ) -> Answer:
        """A greedy completion. `salt`: pages of one salt are found under no other, so a fresh one recomputes.
        `handoff`: what `prefill` of another server answered. `timeout`: between two events."""
        body = {**_body(prompt, new_tokens), "stream": True, "stream_options": {"include_usage": True}}
        if salt is not None:
            body["cache_salt"] = salt
        if handoff is not None:
            body["kv_transfer_params"] = handoff
        started = time.monotonic()
        first = 0.0
        tokens: list[str] = []
        logprobs: list[float] = []
        usage: dict[str, Any] = {}
        for event in self.stream("/v1/completions", body, timeout):
            if "error" in event:
                raise Internal(f"vLLM refused the request: {event['error']}")
            usage = event.get("usage") or usage
            for choice in event["choices"]:
                first = first or time.monotonic() - started
                tokens += choice["logprobs"]["tokens"]
                logprobs += choice["logprobs"]["token_logprobs"]
        details = usage.get("prompt_tokens_details") or {}
        return Answer(tokens, logprobs, usage.get("prompt_tokens", 0), details.get("cached_tokens", 0), first)

    def begin(
        self, prompt: str | list[int], *, new_tokens: int = 8, handoff: dict[str, Any] | None = None
    ) -> http.client.HTTPConnection:
        """Sends a request and reads no answer; the client goes away when the connection is closed."""
        connection = self._connect(120)
        body = {**_body(prompt, new_tokens), "stream": True}
        if handoff is not None:
            body["kv_transfer_params"] = handoff
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        return connection

    def choices(self, prompt: str | list[int], count: int, *, new_tokens: int = 8) -> list[list[float]]:
        """Log-probabilities of `count` completions of one prompt, as one request (`n`)."""
        # vLLM refuses several greedy answers; of one candidate a token all are the same.
        body = {**_body(prompt, new_tokens), "n": count, "temperature": 1, "top_k": 1}
        return [choice["logprobs"]["token_logprobs"] for choice in self._post(body)["choices"]]

    def prefill(self, prompt: str | list[int]) -> dict[str, Any]:
        """Computes a prompt that is to be decoded elsewhere, as a proxy asks for it: `kv_transfer_params` for there."""
        params: dict[str, Any] = self._post({**_body(prompt, 1), "kv_transfer_params": PREFILL})[
            "kv_transfer_params"
        ]
        return params

    def _post(self, body: dict[str, Any]) -> dict[str, Any]:
        status, text = self.call("POST", "/v1/completions", body)
        if status != 200:
            raise Internal(f"vLLM refused the request: {status} {text}")
        answer: dict[str, Any] = json.loads(text)
        return answer

    def external_hits(self) -> int:
        """Tokens of prompts that vLLM says came through its connector."""
        return int(self.metric("vllm:external_prefix_cache_hits_total"))

    def stored_pages(self) -> int:
        """Pages that this server has stored, as far as it has told: it counts when it works."""
        return int(self.metric("vllm:tent_events_total", event="save.stored"))

    def events(self) -> str:
        """The connector's own counters, for whoever wonders what became of pages; "" when the server is gone."""
        try:
            _, text = self.call("GET", "/metrics")
        except (OSError, http.client.HTTPException):
            return ""
        return "\n".join(
            line for line in text.splitlines() if line.startswith("vllm:tent_") and "_created" not in line
        )

    def wait_stored(self, pages: int, timeout: float = 60) -> None:
        """Returns when the server has stored `pages` pages since it started; keeps it working meanwhile."""
        deadline = time.monotonic() + timeout
        while (stored := self.stored_pages()) < pages:
            if time.monotonic() > deadline:
                raise DeadlineExceeded(f"vLLM stored {stored} of {pages} pages in {timeout:.0f} s")
            self.complete("Go on.", new_tokens=1)

    def reset(self, *, external: bool = False) -> None:
        """Forget the local prefix cache; with `external` clear what the connector stores for this model as well."""
        path = "/reset_prefix_cache" + ("?reset_external=true" if external else "")
        status, text = self.call("POST", path)
        if status != 200:
            raise Internal(f"vLLM did not reset its prefix cache: {status} {text}")


def _body(prompt: str | list[int], new_tokens: int) -> dict[str, Any]:
    """A greedy completion of exactly so many tokens, with their log-probabilities."""
    return {
        "model": _MODEL,
        "prompt": prompt,
        "max_tokens": new_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": 1,
    }
