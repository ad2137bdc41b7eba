"""Two hosts joined by shaped rails: a SGLang server on the one, and on the other what holds the pages.

The hosts are network namespaces. One server serves all backends in turn: they are attached to it and detached while it
runs, so that nothing but the backend differs between two blocks.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tent_core.cli.sglang_server import SglangServer
from tent_core.testbed import Testbed
from tent_metadata.embedded import binary

__all__ = ["BACKENDS", "World"]

BACKENDS = ("none", "file", "sim", "mooncake", "tent")
KV_BYTES = 32 << 10
"""Of one token, in the model below."""
_MODEL = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 512, "intermediate_size": 1408,
    "num_hidden_layers": 8, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 8192,
    "max_position_embeddings": 32768, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
    "tie_word_embeddings": False, "bos_token_id": 1, "eos_token_id": 2, "torch_dtype": "float32",
}  # fmt: skip
_SECRET = "of a benchmark"
_REDIS, _MASTER = 6379, 50151
_CLONE_NEWNET = 0x40000000
_READY_S = 60.0
# What gives Mooncake's pool its memory: a client of its store on the other host.
_MOONCAKE_POOL = """
import sys
from mooncake.store import MooncakeDistributedStore
host, master, capacity = sys.argv[1:]
store = MooncakeDistributedStore()
assert store.setup(host, "P2PHANDSHAKE", int(capacity), 16 << 20, "tcp", "", master) == 0
print("ready", flush=True)
sys.stdin.read()
"""


class World:
    """Everything that runs; `close` ends it. From one thread, other than `ask`."""

    def __init__(
        self, rates: Sequence[float], capacity: int, max_tokens: int, folder: Path, mooncake: str | None
    ) -> None:
        """`capacity`: bytes of each pool. `max_tokens`: of the server's device cache; its host cache is twice that.
        `mooncake`: a folder in which pip has put Mooncake; None: without it."""
        self._ends = ExitStack()
        self._folder = folder
        self._mooncake = mooncake
        self.prefetches = folder / "prefetches"
        try:
            self.bed = self._ends.enter_context(Testbed.up(rates, name=f"ttft{os.getpid() % 100_000}"))
            os.environ["TENT_CLUSTER_SECRET"] = _SECRET
            self._start_pools(capacity)
            # From here on children are on host 0, as this process is.
            _enter(self.bed.namespace(0))
            self.server = SglangServer(sys.executable, _model(folder), folder / "server.log")
            self._ends.callback(self.server.stop)
            self._start_server(max_tokens)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._ends.close()

    # ---- what holds the pages, on host 1

    def _start_pools(self, capacity: int) -> None:
        there = self.bed.address(1, 0)
        program = shutil.which("redis-server") or shutil.which("valkey-server") or binary._packaged()
        options = ["--bind", there, "--port", str(_REDIS), "--protected-mode", "no", "--save", ""]
        self._run([program, *options], wait_for="ready to accept connections", folder=self._folder)
        self.directory = f"redis://{there}:{_REDIS}/0"
        node = [
            sys.executable,
            "-m",
            "tent_core.cli",
            "node",
            "--json",
            "--capacity",
            f"{capacity >> 20}MiB",
            "--name",
            "keeper",
        ]
        self._run(node, wait_for="ready", env={**os.environ, "TENT_DIRECTORY_URL": self.directory})
        if self._mooncake is not None:
            env = {**os.environ, "PYTHONPATH": self._mooncake, "MC_LOG_LEVEL": "ERROR"}
            master = Path(self._mooncake, "mooncake", "mooncake_master")
            lease = ["-default_kv_lease_ttl", "30000", "-eviction_high_watermark_ratio", "0.98"]
            self._run(
                [str(master), "-rpc_address", there, "-rpc_port", str(_MASTER), *lease],
                wait_for=None,
                env=env,
            )
            pool = [sys.executable, "-c", _MOONCAKE_POOL, there, f"{there}:{_MASTER}", str(capacity)]
            self._run(pool, wait_for="ready", env=env)

    def _run(
        self,
        command: Sequence[str],
        *,
        wait_for: str | None,
        env: dict[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        """A process on host 1, until the end. Returns when it has said `wait_for` (None: at once)."""
        output = subprocess.PIPE if wait_for is not None else subprocess.DEVNULL
        errors = open(self._folder / f"{Path(command[0]).name}.log", "ab")  # noqa: SIM115
        self._ends.callback(errors.close)
        process = self.bed.run(
            1, command, stdin=subprocess.PIPE, stdout=output, stderr=errors, env=env, cwd=folder, text=True
        )

        def end() -> None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(20)
            process.kill()
            process.wait()

        self._ends.callback(end)
        if wait_for is None:
            time.sleep(2)  # it says nothing; whoever comes too early asks again
            return
        assert process.stdout is not None
        for line in process.stdout:
            if wait_for in line.lower():
                return
        raise RuntimeError(f"{command[0]} ended before it was ready; see {errors.name}")

    # ---- the server, on host 0

    def _start_server(self, max_tokens: int) -> None:
        paths = [
            str(Path(__file__).with_name("probe")),
            os.environ.get("PYTHONPATH", ""),
            self._mooncake or "",
        ]
        environment = {
            **self.bed.environment(0),
            # The pool is "the node of this host", though its host is another: puts go there, over the rails.
            "TENT_NODE_HOST_IDENTITY": self.bed.namespace(1),
            "SGLANG_TTFT_PREFETCHES": str(self.prefetches),
            "SGLANG_HICACHE_FILE_BACKEND_STORAGE_DIR": str(self._folder / "pages"),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "MC_LOG_LEVEL": "ERROR",
        }
        arguments = ["--load-format", "dummy", "--skip-tokenizer-init", "--hicache-mem-layout", "page_first"]
        self.server.start(backend=None, environment=environment, arguments=arguments, max_tokens=max_tokens)
        self.server.wait_ready()

    def attachment(self, backend: str) -> dict[str, Any]:
        here, there = self.bed.address(0, 0), self.bed.address(1, 0)
        if backend == "tent":
            return {"directory": {"url": self.directory}, "store": {"capacity": "0", "place": "node"}}
        if backend == "mooncake":
            return {
                "master_server_address": f"{there}:{_MASTER}", "metadata_server": "P2PHANDSHAKE", "protocol": "tcp",
                "local_hostname": here, "global_segment_size": 0, "device_name": "",
            }  # fmt: skip
        if backend == "sim":
            bytes_per_s = sum(row.mbit for row in self.bed.show() if row.host == 0) / 8 * 1e6
            return {"sim_read_gbps": bytes_per_s / 1e9, "sim_write_gbps": 0, "sim_op_latency_us": 500}
        return {}

    def attach(self, backend: str) -> None:
        """Puts this backend under the server, whose own caches are empty then."""
        self.server.flush()
        if backend == "none":
            return
        status, text = self.server.attach(backend, self.attachment(backend))
        if status != 200:
            raise RuntimeError(f"SGLang does not attach {backend}: {status} {text}")

    def detach(self, backend: str) -> None:
        self.server.flush()
        if backend != "none":
            status, text = self.server.detach()
            if status != 200:
                raise RuntimeError(f"SGLang does not detach {backend}: {status} {text}")

    @contextmanager
    def slower(self, rails: Sequence[int], part: float) -> Iterator[None]:
        """These rails have this part of their rate only."""
        rates = {row.rail: row.mbit for row in self.bed.show() if row.host == 0}
        for rail in rails:
            self.bed.shape(rail, rates[rail] * part)
        try:
            yield
        finally:
            for rail in rails:
                self.bed.shape(rail, rates[rail])

    def ask(self, prompt: list[int]) -> tuple[int, int, float]:
        answer = self.server.generate(prompt, new_tokens=1)
        return answer.storage_tokens, answer.cached_tokens, answer.first_token_s

    def take_prefetches(self) -> list[dict[str, float]]:
        """Of those that found pages, since the last call."""
        lines = self.prefetches.read_text().splitlines() if self.prefetches.exists() else []
        self.prefetches.unlink(missing_ok=True)
        return [record for line in lines if (record := json.loads(line))["asked"]]

    def carried(self) -> list[int]:
        """Bytes that each rail has brought to host 0."""
        return [counters.received for counters in self.bed.counters(0)]


def _model(folder: Path) -> Path:
    """Its weights are drawn by the server: the benchmark is about what is moved, and its size."""
    made = folder / "model"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(_MODEL))
    return made


def _enter(namespace: str) -> None:
    """This thread, and what it starts from now on, is in that network namespace."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/var/run/netns/{namespace}", "rb") as file:
        if libc.setns(file.fileno(), _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter {namespace}")
