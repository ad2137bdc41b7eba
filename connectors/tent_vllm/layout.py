"""Where the bytes of a vLLM block lie: read off the KV-cache tensors' shapes and strides, never assumed.

A page is one block of all layers. Each layer's tensor gives the pieces of memory that hold block 0; block b lies one
block stride further each. Pieces that touch are merged, so a page has as few parts as the layout allows. The order of
a page's bytes depends on the layers' names and shapes alone, so pages of two servers with one signature agree.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tent_core.errors import Unsupported


class TensorLike(Protocol):
    """What is asked of a KV-cache tensor (torch.Tensor has it)."""

    @property
    def shape(self) -> Any: ...
    @property
    def dtype(self) -> Any: ...
    def stride(self) -> Any: ...
    def data_ptr(self) -> int: ...
    def element_size(self) -> int: ...


@dataclass(frozen=True)
class PageLayout:
    """Immutable. `base` and `stride` are absolute addresses and bytes, one entry a part; blocks count from 0."""

    base: NDArray[np.uint64]
    stride: NDArray[np.uint64]
    lengths: NDArray[np.uint64]
    blocks: int
    signature: str
    regions: tuple[tuple[int, int], ...]
    """(address, bytes) of the memory to register: the layers' memory, merged where it touches."""

    @property
    def page_bytes(self) -> int:
        return int(self.lengths.sum())

    def addresses(self, blocks: NDArray[np.int64]) -> NDArray[np.uint64]:
        """[N, parts] addresses of the parts of N blocks."""
        return self.base[None, :] + blocks.astype(np.uint64)[:, None] * self.stride[None, :]


def page_layout(caches: Mapping[str, TensorLike], block_dim: int = 0) -> PageLayout:
    """The layout of vLLM's ``kv_caches`` (layer name -> tensor whose dimension `block_dim` counts blocks).

    Raises Unsupported for tensors whose blocks overlap or that disagree on the number of blocks.
    """
    layers = _distinct(caches)
    if not layers:
        raise Unsupported("vLLM has no KV-cache tensors: there is nothing to store")
    counts = {int(tensor.shape[block_dim]) for _, tensor in layers}
    if len(counts) != 1:
        raise Unsupported(f"KV-cache tensors with different numbers of blocks: {sorted(counts)}")
    parts: list[tuple[int, int, int]] = []
    signature, regions = [], []
    for name, tensor in layers:
        pieces, stride = _pieces(name, tensor, block_dim)
        parts += [(int(tensor.data_ptr()) + offset, stride, length) for offset, length in pieces]
        signature.append(_describe(name, tensor, block_dim))
        end = max(offset + length for offset, length in pieces) + stride * (int(tensor.shape[block_dim]) - 1)
        regions.append((int(tensor.data_ptr()), end))
    merged = _merge_parts(parts)
    base, stride_of, lengths = (np.array(column, dtype=np.uint64) for column in zip(*merged, strict=True))
    return PageLayout(base, stride_of, lengths, counts.pop(), ";".join(signature), merge_regions(regions))


def _distinct(caches: Mapping[str, TensorLike]) -> list[tuple[str, TensorLike]]:
    """Layers in the model's order, those that share another layer's cache left out."""
    seen: set[int] = set()
    layers = []
    for name in sorted(caches, key=_natural):
        pointer = int(caches[name].data_ptr())
        if pointer not in seen:
            seen.add(pointer)
            layers.append((name, caches[name]))
    return layers


def _natural(name: str) -> list[tuple[int, int | str]]:
    """Sort key that puts layer 9 before layer 10."""
    return [(0, int(bit)) if bit.isdigit() else (1, bit) for bit in re.split(r"(\d+)", name) if bit]


def _pieces(name: str, tensor: TensorLike, block_dim: int) -> tuple[list[tuple[int, int]], int]:
    """((offset, length) of the pieces of block 0 in bytes, stride between blocks in bytes)."""
    item = int(tensor.element_size())
    strides = [int(s) * item for s in tensor.stride()]
    dims = [(strides[d], int(tensor.shape[d])) for d in range(len(strides)) if d != block_dim]
    run = item
    outer: list[tuple[int, int]] = []
    for stride, size in sorted(dim for dim in dims if dim[1] > 1):
        if stride < run:
            raise Unsupported(
                f"KV cache of {name}: elements overlap (stride {stride} inside a run of {run} bytes)"
            )
        if stride == run and not outer:
            run *= size
        else:
            outer.append((stride, size))
    offsets = sorted(sum(steps) for steps in product(*([s * i for i in range(n)] for s, n in outer)))
    for before, after in pairwise(offsets):
        if after - before < run:
            raise Unsupported(f"KV cache of {name}: pieces of a block overlap")
    block_stride = strides[block_dim]
    if int(tensor.shape[block_dim]) > 1 and block_stride < run:
        raise Unsupported(f"KV cache of {name}: blocks overlap (stride {block_stride}, run {run} bytes)")
    return [(offset, run) for offset in offsets], block_stride


def _describe(name: str, tensor: TensorLike, block_dim: int) -> str:
    """What of a layer decides a page's bytes: its name, type, shape and inner order; not where it lies."""
    inner = [d for d in range(len(tensor.shape)) if d != block_dim]
    strides = [int(s) for s in tensor.stride()]
    # The stride of a dimension of one means nothing.
    order = sorted((d for d in inner if int(tensor.shape[d]) > 1), key=lambda d: (-strides[d], d))
    shape = "x".join(str(int(tensor.shape[d])) for d in inner)
    return f"{name}:{tensor.dtype}:{shape}:{''.join(str(d) for d in order)}"


def _merge_parts(parts: list[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Joins neighbours in a page's order that touch in memory and step alike; the order of the bytes stays."""
    merged: list[tuple[int, int, int]] = []
    for address, stride, length in parts:
        if merged and merged[-1][0] + merged[-1][2] == address and merged[-1][1] == stride:
            merged[-1] = (merged[-1][0], stride, merged[-1][2] + length)
        else:
            merged.append((address, stride, length))
    return merged


def merge_regions(regions: list[tuple[int, int]]) -> tuple[tuple[int, int], ...]:
    merged: list[list[int]] = []
    for address, length in sorted(regions):
        if merged and address <= merged[-1][0] + merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], address + length - merged[-1][0])
        else:
            merged.append([address, length])
    return tuple((address, length) for address, length in merged)
