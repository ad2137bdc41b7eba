"""Addresses of pages without asking SGLang about each of them.

A pool's `get_page_buffer_meta` walks over pages and their parts in Python: with layers apart and 128 pages, ten
thousand numbers. In the pools that SGLang has, the address of a part is a straight line over the slot of its page.
The line is found by asking about two pages, and held to what SGLang says of the first and the last page of every
batch: a pool that moves its pages, or computes them otherwise, is asked about each of them as before.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint64]
Meta = Callable[[Any], Any]  # host indices -> (addresses, lengths), flat


class Lines:
    """Per part of a page: base + slot × slope. Immutable."""

    def __init__(self, base: Words, slope: Words) -> None:
        self._base, self._slope = base, slope

    @classmethod
    def find(
        cls, meta: Meta, entries: int, parts: int, index_vector: Callable[[int, int], Any]
    ) -> Lines | None:
        """From the first two pages of a pool whose pages take `entries` slots; None when it has no second one.

        `index_vector(first, count)`: host indices of consecutive slots, of the type that pools expect.
        """
        try:
            pointers, _ = meta(index_vector(0, 2 * entries))
        except Exception:
            return None  # a pool of one page, or one that wants it otherwise: asked page by page
        if len(pointers) != 2 * parts:
            return None
        first, second = np.array(pointers, dtype=np.uint64).reshape(2, parts)
        step = second - first
        if (step % np.uint64(entries)).any():
            return None
        return cls(first, step // np.uint64(entries))

    def addresses(self, indices: Any, entries: int, meta: Meta) -> Words | None:
        """[pages, parts], or None when SGLang says otherwise of the first or the last of these pages."""
        slots = np.asarray(indices)[::entries].astype(np.uint64)
        found: Words = self._base + slots[:, None] * self._slope
        for row, page in ((0, indices[:entries]), (-1, indices[-entries:])):
            pointers, _ = meta(page)
            if not np.array_equal(found[row], np.array(pointers, dtype=np.uint64)):
                return None
        return found
