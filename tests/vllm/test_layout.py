"""The addresses of a page's parts are those of the bytes that the tensors' own indexing finds."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.tensors import Tensor
from tent_core.errors import Unsupported
from tent_vllm.layout import page_layout


def read(layout: Any, block: int) -> bytes:
    row = layout.addresses(np.array([block]))[0]
    return b"".join(ctypes.string_at(int(a), int(n)) for a, n in zip(row, layout.lengths, strict=True))


def test_contiguous_layers_of_one_storage() -> None:
    storage = np.arange(3 * 5 * 2 * 4 * 6, dtype=np.float32).reshape(3, 5, 2, 4, 6)
    layout = page_layout({f"model.layers.{i}.attn": Tensor(storage[i]) for i in range(3)})
    assert layout.blocks == 5
    assert len(layout.lengths) == 3
    assert layout.regions == ((int(storage.ctypes.data), storage.nbytes),)
    for block in range(5):
        assert read(layout, block) == b"".join(storage[i, block].tobytes() for i in range(3))


def test_layers_side_by_side_in_a_block_are_one_part() -> None:
    storage = np.arange(5 * 3 * 2 * 4, dtype=np.int16).reshape(5, 3, 2, 4)
    layout = page_layout({f"l.{i}": Tensor(storage[:, i]) for i in range(3)})
    assert layout.lengths.tolist() == [3 * 2 * 4 * 2]
    assert read(layout, 4) == storage[4].tobytes()


def test_layers_are_taken_in_the_models_order() -> None:
    storage = np.arange(12 * 2 * 3, dtype=np.int64).reshape(12, 2, 3)
    caches = {f"model.layers.{i}": Tensor(storage[i]) for i in (11, 2, 9, 0, 10, 1, 3, 4, 5, 6, 7, 8)}
    assert read(page_layout(caches), 1) == b"".join(storage[i, 1].tobytes() for i in range(12))


def test_a_shared_layer_is_stored_once() -> None:
    array = np.zeros((4, 8), dtype=np.uint8)
    assert page_layout({"a.0": Tensor(array), "a.1": Tensor(array)}).page_bytes == 8


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=2, max_size=5),
    order=st.randoms(use_true_random=False),
    gap=st.integers(0, 2),
)
def test_any_strides(shape: list[int], order: Any, gap: int) -> None:
    """Whatever the order of dimensions in memory, and with holes between: the bytes of block b are block b's."""
    axes = list(range(len(shape)))
    order.shuffle(axes)
    padded = [shape[axis] + (gap if place == len(axes) - 1 else 0) for place, axis in enumerate(axes)]
    memory = np.arange(int(np.prod(padded)), dtype=np.uint32).reshape(padded)
    view = memory.transpose(np.argsort(axes))[tuple(slice(0, n) for n in shape)]
    layout = page_layout({"x.0": Tensor(view)})
    for block in range(shape[0]):
        assert sorted(np.frombuffer(read(layout, block), np.uint32)) == sorted(view[block].ravel())


def test_equal_layouts_have_equal_signatures_wherever_they_lie() -> None:
    def signature(array: np.ndarray[Any, Any]) -> str:
        return page_layout({"x.0": Tensor(array)}).signature

    assert signature(np.zeros((4, 2, 8))) == signature(np.zeros((9, 2, 8)))
    assert signature(np.zeros((4, 2, 8))) != signature(np.zeros((4, 8, 2)))
    assert signature(np.zeros((4, 2, 8))) != signature(np.zeros((4, 2, 8), np.float32))
    assert signature(np.zeros((4, 2, 8))) != signature(np.zeros((4, 8, 2)).transpose(0, 2, 1))


def test_overlapping_blocks_are_refused() -> None:
    array = np.lib.stride_tricks.as_strided(np.zeros(64, np.uint8), (4, 16), (8, 1))
    with pytest.raises(Unsupported, match="blocks overlap"):
        page_layout({"x.0": Tensor(array)})


def test_layers_that_disagree_on_blocks_are_refused() -> None:
    with pytest.raises(Unsupported, match="different numbers of blocks"):
        page_layout({"x.0": Tensor(np.zeros((4, 8))), "x.1": Tensor(np.zeros((5, 8)))})
