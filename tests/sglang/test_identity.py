"""Everything that changes a page's bytes changes its namespace, and nothing else does."""

from __future__ import annotations

import dataclasses
import types
from typing import Any

import pytest

from tent_sglang.identity import model_fields, namespace_fields, rank_of_process, weights_digest


@dataclasses.dataclass
class Config:
    """The fields of SGLang's HiCacheStorageConfig that identity reads."""

    model_name: str | None = "llama"
    tp_rank: int = 0
    tp_size: int = 2
    pp_rank: int = 0
    pp_size: int = 1
    attn_cp_rank: int = 0
    attn_cp_size: int = 1
    dcp_rank: int = 0
    dcp_size: int = 1
    is_mla_model: bool = False
    dp_rank: int = 0


@dataclasses.dataclass
class MHAPool:
    dtype: str = "torch.bfloat16"
    layout: str = "page_first"
    page_size: int = 64
    layer_num: int = 4
    start_layer: int = 0
    end_layer: int = 4
    head_num: int = 8
    head_dim: int = 128
    v_head_dim: int = 128


class MLAPool(MHAPool):
    pass


MODEL = {"revision": "main", "weight_version": "1", "weights": "ab"}


def fields(config=None, pool=None, name="kv", form="parts", lengths=(8, 8), model=MODEL):
    return namespace_fields(config or Config(), pool or MHAPool(), name, form, lengths, model)


def test_the_same_server_elsewhere_has_the_same_fields():
    assert fields() == fields(Config(dp_rank=3)), "data-parallel replicas share"


@pytest.mark.parametrize(
    "change",
    [
        {"config": Config(model_name="other")},
        {"config": Config(tp_rank=1)},
        {"config": Config(tp_size=4)},
        {"config": Config(pp_rank=1)},
        {"config": Config(pp_size=2)},
        {"config": Config(attn_cp_rank=1)},
        {"config": Config(dcp_size=2)},
        {"pool": MHAPool(dtype="torch.float16")},
        {"pool": MHAPool(layout="layer_first")},
        {"pool": MHAPool(page_size=32)},
        {"pool": MHAPool(start_layer=4, end_layer=8)},
        {"pool": MHAPool(head_num=4, head_dim=256)},
        {"pool": MLAPool()},
        {"name": "swa"},
        {"form": "flat"},
        {"lengths": (16,)},
        {"model": {**MODEL, "weights": "cd"}},
        {"model": {**MODEL, "weight_version": "2"}},
    ],
)
def test_what_changes_the_bytes_changes_the_fields(change: dict[str, Any]):
    assert fields(**change) != fields()


def test_all_values_are_text():
    assert all(isinstance(name, str) and isinstance(value, str) for name, value in fields().items())


def test_mla_pages_are_shared_by_the_ranks_and_written_by_one():
    mla = [fields(Config(is_mla_model=True, tp_rank=rank), MLAPool())["tp"] for rank in (0, 1)]
    assert mla == ["shared", "shared"]


def test_sidecars_cut_by_heads_stay_per_rank_in_an_mla_model():
    for name, pool in (("mamba", MLAPool()), ("draft", MHAPool())):
        ranks = {fields(Config(is_mla_model=True, tp_rank=rank), pool, name)["tp"] for rank in (0, 1)}
        assert len(ranks) == 2


def test_parts_are_told_apart_by_their_order():
    assert fields(lengths=[8, 8, 2])["parts"] == "2x8,1x2"
    assert fields(lengths=[8, 2, 8])["parts"] == "1x8,1x2,1x8"


def write_model(folder, weights: bytes, config: bytes = b"{}"):
    folder.mkdir()
    (folder / "config.json").write_bytes(config)
    (folder / "model.safetensors").write_bytes(weights)
    (folder / "README.md").write_text(str(folder))
    return str(folder)


def test_weights_of_one_name_and_size_are_told_apart(tmp_path):
    body = bytes(range(256)) * 4096
    original = weights_digest(write_model(tmp_path / "a", body))
    assert original == weights_digest(write_model(tmp_path / "copy", body))
    assert original != weights_digest(write_model(tmp_path / "tuned", body[::-1]))
    assert original != weights_digest(write_model(tmp_path / "longer", body + b"x"))
    assert original != weights_digest(write_model(tmp_path / "rope", body, b'{"rope": 2}'))
    assert original != weights_digest(write_model(tmp_path / "tail", body[:-1] + b"!"))


def test_a_model_named_by_its_hub_id_has_no_digest():
    assert weights_digest("meta-llama/Llama-3.1-8B") == ""


def test_model_fields_of_a_server_and_of_none(tmp_path):
    path = write_model(tmp_path / "m", b"weights")
    server = types.SimpleNamespace(
        model_path=path, revision=None, weight_version="7", dtype="auto", load_format="auto"
    )
    assert model_fields(server)["weights"] == weights_digest(path)
    assert model_fields(server)["weight_version"] == "7"
    drawn = types.SimpleNamespace(model_path=path, load_format="dummy", random_seed=5)
    assert model_fields(drawn)["weights"] == "dummy:5"
    assert set(model_fields(None)) == set(model_fields(server))


def test_processes_of_one_server_have_numbers_of_their_own():
    def number(**ranks: int) -> int:
        return rank_of_process(types.SimpleNamespace(tp_size=4, pp_size=2, **ranks))

    numbers = [
        number(dp_rank=dp, pp_rank=pp, tp_rank=tp) for dp in range(2) for pp in range(2) for tp in range(4)
    ]
    assert numbers == list(range(16))
