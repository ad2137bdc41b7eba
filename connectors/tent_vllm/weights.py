"""The version of the weights that a server computes with: part of what names its pages.

Whoever changes weights under a running server says so when they have changed, on every worker:

    vllm serve MODEL --worker-extension-cls tent_vllm.weights.TentWeights ...
    POST /collective_rpc {"method": "tent_weights_version", "args": ["step-1200"]}     # or LLM.collective_rpc(...)

A step takes the version when it starts. What was found, loaded or computed under another one is not used under this
one and not stored as if it were of this one: a page of one version never serves another.
"""

from __future__ import annotations

from typing import Any

from tent_core.errors import InvalidArgument

from . import handle as handles

# Field of a namespace. Left out while no version was ever named, which is a version of its own.
FIELD = "weights_version"


def with_version(fields: dict[str, str], version: str) -> dict[str, str]:
    """A namespace's fields under a version of the weights."""
    return {**fields, FIELD: version} if version else fields


class TentWeights:
    """vLLM mixes it into its workers (`--worker-extension-cls`)."""

    vllm_config: Any

    def tent_weights_version(self, version: str) -> None:
        """From the next step on this worker computes with these weights. Any text that is never used for others; the
        same on all workers. Forgetting vLLM's own prefix cache (`POST /reset_prefix_cache`) is up to the caller; until
        then requests that begin in it are not stored."""
        transfer = self.vllm_config.kv_transfer_config
        held = handles.find(str(transfer.engine_id)) if transfer is not None else None
        if held is None:
            raise InvalidArgument("this worker has no TentConnector: --kv-transfer-config names it")
        held.weights = str(version)
