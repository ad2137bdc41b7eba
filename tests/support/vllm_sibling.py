"""Another connector beside TENT in vLLM's MultiConnector, with a hand-shake of its own; it finds and holds nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorBase_V1,
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    SupportsHMA,
)


@dataclass
class Greeting(KVConnectorHandshakeMetadata):  # type: ignore[misc]
    pass


class Sibling(KVConnectorBase_V1, SupportsHMA):  # type: ignore[misc]
    def get_handshake_metadata(self) -> KVConnectorHandshakeMetadata:
        return Greeting()

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int, bool]:
        return 0, False

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        assert num_external_tokens == 0

    def build_connector_meta(self, scheduler_output: Any) -> KVConnectorMetadata:
        return KVConnectorMetadata()

    def request_finished_all_groups(self, request: Any, block_ids: Any) -> tuple[bool, None]:
        return False, None

    def start_load_kv(self, forward_context: Any, **kwargs: Any) -> None: ...
    def wait_for_layer_load(self, layer_name: str) -> None: ...
    def save_kv_layer(self, *args: Any, **kwargs: Any) -> None: ...
    def wait_for_save(self) -> None: ...


if "Sibling" not in KVConnectorFactory._registry:
    KVConnectorFactory.register_connector("Sibling", __name__, "Sibling")
