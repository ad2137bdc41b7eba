"""Importing, registering and configuring, with and without vLLM."""

from __future__ import annotations

import subprocess
import sys
import types
from typing import Any

import pytest

from tent_core.errors import ConfigError, Unsupported
from tent_vllm import plugin
from tent_vllm.groups import read_groups
from tent_vllm.identity import check_supported
from tent_vllm.settings import Settings, split_extra_config

WITHOUT_VLLM = """
import sys
sys.modules["vllm"] = None
sys.modules["torch"] = None
import tent_vllm, tent_vllm.plugin
tent_vllm.plugin.register()
print("fine")
"""


def test_importing_and_registering_without_vllm() -> None:
    done = subprocess.run([sys.executable, "-c", WITHOUT_VLLM], capture_output=True, text=True, timeout=60)
    assert done.stdout == "fine\n", done.stderr


def test_registering_twice_is_once(monkeypatch: pytest.MonkeyPatch) -> None:
    class Factory:
        _registry: dict[str, tuple[str, str]] = {}  # noqa: RUF012

        @classmethod
        def register_connector(cls, name: str, module: str, class_name: str) -> None:
            if name in cls._registry:
                raise ValueError("already registered")
            cls._registry[name] = (module, class_name)

    path = "vllm.distributed.kv_transfer.kv_connector.factory"
    for depth in range(1, 6):
        name = ".".join(path.split(".")[:depth])
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules[path], "KVConnectorFactory", Factory, raising=False)
    plugin.register()
    plugin.register()
    assert Factory._registry == {"TentConnector": ("tent_vllm.connector", "TentConnector")}


def test_extra_config_is_split() -> None:
    config, own = split_extra_config({"store": {"capacity": "1GiB"}, "vllm": {"pin_ms": 7, "model_id": "m"}})
    assert config == {"store": {"capacity": "1GiB"}}
    assert own == Settings(pin_ms=7, model_id="m")
    assert split_extra_config(None) == ({}, Settings())


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ({"pin": 1}, ["vllm.pin", "vllm.pin_ms"]),
        ({"lookup_wait_ms": 0}, ["vllm.lookup_wait_ms", "positive"]),
        ({"lookup_wait_ms": True}, ["vllm.lookup_wait_ms", "True"]),
        ({"model_id": 3}, ["vllm.model_id", "string"]),
        ({"keep_failure_policy": "yes"}, ["vllm.keep_failure_policy", "true or false"]),
        (["pin_ms"], ["vllm", "JSON object"]),
    ],
)
def test_mistakes_are_named_with_their_fix(section: Any, words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        split_extra_config({"vllm": section})
    assert all(word in str(caught.value) for word in words)


class FullAttentionSpec:
    block_size = 16


class SlidingWindowSpec:
    block_size = 16
    sliding_window = 40


class MambaSpec:
    block_size = 16


def kv_config(*specs: object) -> Any:
    groups = [types.SimpleNamespace(kv_cache_spec=spec, layer_names=["l"]) for spec in specs]
    return types.SimpleNamespace(kv_cache_groups=groups)


def vllm_config(**parallel: int) -> Any:
    return types.SimpleNamespace(parallel_config=types.SimpleNamespace(**parallel))


def test_what_is_supported() -> None:
    check_supported(vllm_config(decode_context_parallel_size=1))
    assert read_groups(kv_config(FullAttentionSpec()), 16).plain
    hybrid = read_groups(kv_config(FullAttentionSpec(), SlidingWindowSpec()), 16)
    assert [(group.full, group.window) for group in hybrid.all] == [(True, 0), (False, 40)]
    assert not hybrid.plain
    assert not read_groups(kv_config(SlidingWindowSpec()), 16).plain


@pytest.mark.parametrize("specs", [[FullAttentionSpec(), MambaSpec()], [MambaSpec()], []])
def test_what_is_not_supported_is_refused_by_name(specs: list[object]) -> None:
    with pytest.raises(Unsupported, match="TentConnector does not"):
        read_groups(kv_config(*specs), 16)


def test_context_parallelism_is_refused() -> None:
    with pytest.raises(Unsupported, match="decode_context_parallel_size"):
        check_supported(vllm_config(decode_context_parallel_size=2))


def test_blocks_that_are_no_multiple_of_a_hash_are_refused() -> None:
    with pytest.raises(Unsupported, match="no multiple of a hash of 12"):
        read_groups(kv_config(FullAttentionSpec()), 12)
