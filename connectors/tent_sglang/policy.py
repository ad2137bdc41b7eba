"""Which prefix of a prompt can be restored when a page consists of several pools.

SGLang asks for the longest prefix of the KV pages whose *sidecar* pools (sliding window, Mamba state, indexer …)
are there too, by one rule a pool. Pure functions over arrays of booleans, one element a page of the prefix.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Pages = npt.NDArray[np.bool_]


def leading(present: Pages) -> int:
    """Number of pages present from the front without a gap."""
    return int(np.argmin(present)) if not present.all() else len(present)


def restorable_all(present: Pages) -> Pages:
    """Rule ALL_PAGES: element n - 1 says whether a prefix of n pages has every one of its pages."""
    return np.arange(len(present)) < leading(present)


def restorable_trailing(present: Pages, window: int) -> Pages:
    """Rule TRAILING_PAGES: element n - 1 says whether a prefix of n pages has its last `window` pages.

    A prefix shorter than the window needs all of its own.
    """
    if window < 1:
        raise ValueError(f"a trailing window has at least one page, got {window}")
    missing = np.concatenate(([0], np.cumsum(~present)))
    ends = np.arange(1, len(present) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray(missing[ends] == missing[starts])


def boundary(restorable: Pages) -> int:
    """Longest restorable prefix, in pages; 0 when there is none."""
    found = np.flatnonzero(restorable)
    return int(found[-1]) + 1 if len(found) else 0
