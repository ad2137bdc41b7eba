"""vLLM's real scheduler and KV-cache manager with the connector in both its roles, and no model.

The "forward pass" writes into every KV slot a number that follows from all tokens up to it, and before that it checks
the slots that attention would read: a page of other tokens, of another place or of another group is seen at once.
"""

from __future__ import annotations

import json
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from vllm.config import (
    CacheConfig,
    DeviceConfig,
    KVEventsConfig,
    KVTransferConfig,
    ModelConfig,
    SchedulerConfig,
    VllmConfig,
)
from vllm.distributed.kv_transfer import kv_transfer_state
from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorRole
from vllm.forward_context import set_forward_context
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import (
    get_request_block_hasher,
    init_none_hash,
    resolve_kv_cache_block_sizes,
)
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec,
    KVCacheConfig,
    KVCacheGroupSpec,
    SlidingWindowSpec,
)
from vllm.v1.outputs import ModelRunnerOutput
from vllm.v1.request import Request, RequestStatus
from vllm.v1.structured_output import StructuredOutputManager
from vllm.v1.worker.kv_connector_model_runner_mixin import KVConnectorModelRunnerMixin

import tent_vllm.connector as connector_module
from support.page_memory import MemoryStore
from tent_vllm import handle as handles
from tent_vllm.lookups import LookupService, PrefixLookup
from tent_vllm.messages import TentHandshake
from tent_vllm.weights import TentWeights, with_version

_MASK = (1 << 62) - 1
_BAD = -7
_LAYERS = 2


class InlineLookups(LookupService):
    """Answers at once, on the caller's thread, by a clock that steps move: a schedule runs the same each time."""

    now = 0.0

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options, clock=lambda: InlineLookups.now)

    def submit(self, keys: Any) -> PrefixLookup:
        lookup = PrefixLookup(list(keys), self._clock())
        self._serve(lookup)
        return lookup


def plugin(name: str = "TentConnector") -> None:
    if name not in KVConnectorFactory._registry:
        KVConnectorFactory.register_connector(name, "tent_vllm.connector", "TentConnector")


def write_model(folder: Path) -> Path:
    """A model's configuration without weights: the scheduler wants to see one."""
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 64,
        "num_attention_heads": 1,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
        "vocab_size": 1000,
        "max_position_embeddings": 4096,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@dataclass(frozen=True)
class Shape:
    """What is varied from bench to bench. `groups`: (tokens of a block, window or 0) each."""

    groups: tuple[tuple[int, int], ...] = ((16, 0),)
    blocks: int = 40
    budget: int = 64
    running: int = 4
    settings: dict[str, Any] = field(default_factory=dict)
    prefix_caching: bool = True
    policy: str = "recompute"
    connector: dict[str, Any] | None = None
    """Another connector's configuration in TENT's place, such as MultiConnector with TENT in it."""


class VllmBench:
    def __init__(
        self, model: Path, shape: Shape, monkeypatch: Any, *, events: bool = False, inline: bool = True
    ) -> None:
        """`inline`: look-ups are answered at once, not by their thread. `events`: vLLM publishes KV events."""
        plugin()
        self._with_events = events
        self.events: list[Any] = []
        """KV events of the connector, of the last step."""
        init_none_hash(sha256)
        self.shape = shape
        self.store = MemoryStore()
        monkeypatch.setattr(handles, "_open_page_store", lambda config: self.store)
        monkeypatch.setattr(connector_module, "ranks_of_this_worker", lambda: {"tp": 0, "pp": 0})
        if inline:
            monkeypatch.setattr(connector_module, "LookupService", InlineLookups)
        self.config = self._vllm_config(model)
        self.cache = self._cache_config()
        self.config.cache_config.num_gpu_blocks = shape.blocks
        unit_block, self.unit = resolve_kv_cache_block_sizes(self.cache, self.config)
        self.scheduler = Scheduler(
            vllm_config=self.config,
            kv_cache_config=self.cache,
            structured_output_manager=StructuredOutputManager(self.config),
            block_size=unit_block,
            hash_block_size=self.unit,
            log_stats=True,
        )
        self.worker = KVConnectorFactory.create_connector(self.config, KVConnectorRole.WORKER, self.cache)
        self._make_tensors()
        self._shake_hands()
        self.hasher = get_request_block_hasher(self.unit, sha256)
        self.free_at_start = self._free()
        self.requests: dict[str, Request] = {}
        self.finished: dict[str, list[int]] = {}
        self.failed: set[str] = set()
        """Those of them that ended in an error."""
        self.wrong: list[str] = []
        self.steps = 0
        self.preempted = 0
        self.weights = 0
        """How often they have changed."""

    # ---- making it

    def _vllm_config(self, model: Path) -> VllmConfig:
        shape = self.shape
        transfer = shape.connector or {
            "kv_connector": "TentConnector",
            "kv_connector_extra_config": {"vllm": shape.settings},
        }
        return VllmConfig(
            model_config=ModelConfig(model=str(model), dtype="float32", skip_tokenizer_init=True),
            scheduler_config=SchedulerConfig(
                max_num_seqs=shape.running,
                max_num_batched_tokens=shape.budget,
                max_model_len=1024,
                enable_chunked_prefill=True,
                is_encoder_decoder=False,
                async_scheduling=False,
            ),
            cache_config=CacheConfig(
                block_size=shape.groups[0][0], enable_prefix_caching=shape.prefix_caching
            ),
            kv_transfer_config=KVTransferConfig(
                kv_role="kv_both", kv_load_failure_policy=shape.policy, **transfer
            ),
            kv_events_config=KVEventsConfig(enable_kv_cache_events=True, publisher="null")
            if self._with_events
            else None,
            device_config=DeviceConfig("cpu"),
        )

    def _cache_config(self) -> KVCacheConfig:
        groups = []
        for index, (tokens, window) in enumerate(self.shape.groups):
            shared: dict[str, Any] = dict(block_size=tokens, num_kv_heads=1, head_size=8, dtype=torch.float32)
            spec = (
                SlidingWindowSpec(sliding_window=window, **shared) if window else FullAttentionSpec(**shared)
            )
            groups.append(
                KVCacheGroupSpec([f"layers.{_LAYERS * index + i}.attn" for i in range(_LAYERS)], spec)
            )
        return KVCacheConfig(num_blocks=self.shape.blocks, kv_cache_tensors=[], kv_cache_groups=groups)

    def _make_tensors(self) -> None:
        """Layer i of every group lies in one memory, as vLLM lays them: a block is one group's at a time."""
        largest = max(tokens for tokens, _ in self.shape.groups)
        storage = [torch.full((self.shape.blocks, largest), _BAD, dtype=torch.int64) for _ in range(_LAYERS)]
        self.layers: list[list[torch.Tensor]] = []
        caches = {}
        for group, spec in zip(self.cache.kv_cache_groups, self.shape.groups, strict=True):
            own = [memory[:, : spec[0]] for memory in storage]
            self.layers.append(own)
            caches.update(zip(group.layer_names, own, strict=True))
        self.worker.register_kv_caches(caches)

    def _shake_hands(self) -> None:
        connector = self.scheduler.get_kv_connector()
        metadata = self.worker.get_handshake_metadata()
        self.shaken = isinstance(metadata, TentHandshake)
        """Whether vLLM's hand-shake brought the connector's own words."""
        connector.set_xfer_handshake_metadata_pp_aware({(0, 0): metadata})

    def _free(self) -> int:
        return self.scheduler.kv_cache_manager.block_pool.get_num_free_blocks()

    # ---- what the tests do

    def add(self, name: str, tokens: list[int], new_tokens: int, salt: str | None = None) -> None:
        params = SamplingParams(max_tokens=new_tokens, ignore_eos=True, temperature=0)
        request = Request(name, tokens, params, None, cache_salt=salt, block_hasher=self.hasher)
        self.requests[name] = request
        self.scheduler.add_request(request)

    def abort(self, name: str) -> None:
        self.scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
        self.requests.pop(name, None)

    def preempt_all(self) -> None:
        """vLLM cannot empty its cache beside loads under way, and says so after it has preempted what runs."""
        with suppress(RuntimeError):
            self.scheduler.reset_prefix_cache(reset_running_requests=True)

    def change_weights(self) -> None:
        """As somebody who trains the model on would: between two steps, with requests running."""
        self.weights += 1
        worker = TentWeights()
        worker.vllm_config = self.config
        worker.tent_weights_version(version(self.weights))

    def forget_local(self) -> None:
        self.scheduler.reset_prefix_cache()

    def step(self) -> None:
        """One iteration of vLLM's engine core."""
        self.steps += 1
        output = self.scheduler.schedule()
        InlineLookups.now += 0.001
        self.preempted += len(output.preempted_req_ids or ())
        tables = {
            name: self.scheduler.kv_cache_manager.get_block_ids(name) for name in output.num_scheduled_tokens
        }
        computed = {new.req_id: new.num_computed_tokens for new in output.scheduled_new_reqs}
        cached = output.scheduled_cached_reqs
        computed.update(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        sampled: dict[str, list[int]] = {}
        with self._worker_step(output) as carried:
            spoiled = self._forward(output, tables, computed, sampled)
        explained = set(carried.invalid_block_ids or ())
        for name, blocks in spoiled.items():
            if not blocks & explained:
                self.wrong.append(
                    f"step {self.steps}: {name} read blocks {sorted(blocks)} that hold other tokens"
                )
        names = list(output.num_scheduled_tokens)
        result = ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: i for i, name in enumerate(names)},
            sampled_token_ids=[sampled[name] for name in names],
            kv_connector_output=carried,
        )
        connector = self.scheduler.get_kv_connector()
        self.events = []
        take = type(connector).take_events
        with patch.object(connector, "take_events", lambda: self._note(take(connector))):
            self.scheduler.update_from_output(output, result)
        for name, request in list(self.requests.items()):
            if request.is_finished():
                if request.status == RequestStatus.FINISHED_ERROR:
                    self.failed.add(name)
                self.finished[name] = list(request.output_token_ids)
                self.requests.pop(name)

    def _note(self, events: Any) -> Any:
        self.events += events
        return events

    @contextmanager
    def _worker_step(self, output: Any) -> Any:
        """The calls that vLLM's model runner makes around a forward pass, by its own code."""
        self.worker.handle_preemptions(output.kv_connector_metadata)
        kv_transfer_state._KV_CONNECTOR_AGENT = self.worker
        try:
            with (
                set_forward_context(None, self.config),
                KVConnectorModelRunnerMixin._get_kv_connector_output(output) as carried,
            ):
                yield carried
        finally:
            kv_transfer_state._KV_CONNECTOR_AGENT = None

    def _forward(self, output: Any, tables: Any, computed: Any, sampled: Any) -> dict[str, set[int]]:
        """Reads and writes as attention would. Returns, by request, blocks that held what they should not."""
        spoiled: dict[str, set[int]] = {}
        for name, count in output.num_scheduled_tokens.items():
            request = self.scheduler.requests[name]
            tokens, start = list(request.all_token_ids), computed[name]
            bad = self._check(tables[name], tokens, start)
            if bad:
                spoiled[name] = bad
            self._write(tables[name], tokens, start, start + count, wrong=bool(bad))
            done = start + count >= len(tokens)
            sampled[name] = [next_token(tokens) if not bad else 1] if done else []
        return spoiled

    def _check(self, table: Any, tokens: list[int], computed: int) -> set[int]:
        bad: set[int] = set()
        values = chain(tokens[:computed])
        for group, (size, window) in enumerate(self.shape.groups):
            first = max(0, computed - window + 1) if window else 0
            for position in range(first, computed):
                block = table[group][position // size]
                for layer, memory in enumerate(self.layers[group]):
                    found = int(memory[block, position % size])
                    # What was computed before the weights changed is vLLM's to use on.
                    if found == _BAD or (found != mark(values[position], group, layer) and not self.weights):
                        bad.add(block)
        return bad

    def _write(self, table: Any, tokens: list[int], start: int, end: int, *, wrong: bool) -> None:
        values = self._from_what_is_there(table, tokens, start, end) if self.weights else chain(tokens[:end])
        for group, (size, _) in enumerate(self.shape.groups):
            for position in range(start, end):
                block = table[group][position // size]
                if block:
                    for layer, memory in enumerate(self.layers[group]):
                        memory[block, position % size] = (
                            _BAD if wrong else mark(values[position], group, layer)
                        )

    def _from_what_is_there(self, table: Any, tokens: list[int], start: int, end: int) -> list[int]:
        """What the weights of now make of the cache: what was computed on older blocks shows it."""
        size = self.shape.groups[0][0]
        value = 1
        if start:
            before = self.layers[0][0][table[0][(start - 1) // size], (start - 1) % size]
            value = mark(int(before), 0, 0)
        return [0] * start + chain(tokens[start:end], self.weights, value)

    # ---- accounts

    def drain(self, limit: int = 2000) -> None:
        """Steps until nothing is left to do."""
        for _ in range(limit):
            if not self.scheduler.has_requests() and not self.store.running:
                return
            self.step()
        raise AssertionError(f"still at work after {limit} steps: {sorted(self.scheduler.requests)}")

    def check_pages(self, prompts: list[list[int]]) -> None:
        """Every page in the store holds what its tokens imply. `prompts`: every sequence that ever ran, in full."""
        fields = [named.fields for named in tent(self.worker)._pages.groups]
        for weights in range(self.weights + 1):
            self._check_pages(prompts, weights, [with_version(own, version(weights)) for own in fields])

    def _check_pages(self, prompts: list[list[int]], weights: int, spaces: list[dict[str, str]]) -> None:
        expected: dict[tuple[int, bytes], bytes] = {}
        for tokens in prompts:
            request = Request("x", tokens, SamplingParams(max_tokens=1), None, block_hasher=self.hasher)
            values = chain(tokens, weights)
            for group, (size, _) in enumerate(self.shape.groups):
                for i in range(len(tokens) // size):
                    key = bytes(request.block_hashes[(i + 1) * size // self.unit - 1])
                    part = values[i * size : (i + 1) * size]
                    page = [[mark(v, group, layer) for v in part] for layer in range(_LAYERS)]
                    expected[group, key] = torch.tensor(page, dtype=torch.int64).numpy().tobytes()
        digests = {self.store.namespace(fields).digest: i for i, fields in enumerate(spaces)}
        for (space, key), page in self.store.pages.items():
            group = digests.get(space, -1)
            known = expected.get((group, key))
            assert known is None or known == page, f"a page of group {group} holds something else"

    def check_accounts(self) -> None:
        """Nothing is held any more: blocks, requests, pins, transfers."""
        assert self.wrong == []
        assert self.scheduler.requests == {}
        self.scheduler.reset_prefix_cache()
        assert self._free() == self.free_at_start, "blocks were leaked"
        side = tent(self.scheduler.get_kv_connector())._scheduler
        assert side._requests == {}
        assert self.store.pins == 0, "pins were leaked"
        assert tent(self.worker)._worker._fetches._running == []
        faults = {k: n for k, n in self.counts().items() if k.endswith(".faults")}
        assert faults == {}

    def hashes(self, tokens: list[int]) -> list[Any]:
        """vLLM's names of a prompt's blocks."""
        return Request("x", tokens, SamplingParams(max_tokens=1), None, block_hasher=self.hasher).block_hashes

    def counts(self) -> dict[str, int]:
        return tent(self.worker)._guard.counts()

    def close(self) -> None:
        self.scheduler.get_kv_connector().shutdown()
        self.worker.shutdown()


def tent(connector: Any) -> Any:
    """TENT's connector, which may be one of MultiConnector's."""
    return next(one for one in getattr(connector, "sub_connectors", [connector]) if hasattr(one, "_guard"))


def version(weights: int) -> str:
    return f"after {weights} changes" if weights else ""


def chain(tokens: list[int], weights: int = 0, value: int = 1) -> list[int]:
    """A number for each position that follows from the weights and all tokens up to it. `value`: of the one before."""
    values = []
    for token in tokens:
        value = (value * 6364136223846793005 + token * 2654435761 + 1442695040888963407 + weights) & _MASK
        values.append(value)
    return values


def mark(value: int, group: int, layer: int) -> int:
    return (value ^ ((group * _LAYERS + layer + 1) * 0x9E3779B97F4A7C15)) & _MASK


def next_token(tokens: list[int]) -> int:
    return chain(tokens)[-1] % 900 + 5


def generate(prompt: list[int], count: int) -> list[int]:
    """What the "model" answers."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(next_token(tokens))
    return tokens[len(prompt) :]


__all__ = ["Shape", "VllmBench", "generate", "write_model"]
