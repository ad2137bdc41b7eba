"""What vLLM carries between the connector's two sides, as vLLM's own types: each step's plan, the workers' answers,
and the hand-shake at the start."""

from __future__ import annotations

from dataclasses import dataclass

from vllm.distributed.kv_transfer.kv_connector.v1.base import (
    KVConnectorHandshakeMetadata,
    KVConnectorMetadata,
    KVConnectorWorkerMetadata,
)

from .handoff_plan import Endpoint, HandoffPlan
from .plan import RankPages, StepPlan, WorkerTold


@dataclass
class TentMetadata(KVConnectorMetadata):  # type: ignore[misc]
    plan: StepPlan
    handoff: HandoffPlan | None = None


@dataclass
class TentHandshake(KVConnectorHandshakeMetadata):  # type: ignore[misc]
    pages: RankPages
    end: Endpoint | None = None


@dataclass
class TentWorkerMetadata(KVConnectorWorkerMetadata):  # type: ignore[misc]
    told: WorkerTold

    def aggregate(self, other: KVConnectorWorkerMetadata) -> KVConnectorWorkerMetadata:
        return TentWorkerMetadata(self.told.merged(other.told))
