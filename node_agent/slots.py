"""What shall stand on this node: one slot per worker, one per replica in it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace

from node_agent.runner import Runner
from node_agent.workers import WorkerHandle
from partywall.domain.fleet import Partition, ReplicaState, ReplicaStatus
from partywall.v1 import agent_link_pb2 as link


@dataclass(slots=True)
class ReplicaSlot:
    """One wanted replica. `handle` is this agent's own number for it in its worker."""

    spec: link.PlacementSpec
    handle: int
    status: ReplicaStatus
    loaded: bool = False
    parked: bool = False
    """The worker keeps its weights, and it serves nobody."""
    wanted: bool = True

    def advance(self, state: ReplicaState, **changes: object) -> ReplicaStatus:
        """Moves on to a state; an earlier reason stays only where a new one is given."""
        base = replace(self.status, reason="") if "reason" not in changes else self.status
        self.status = replace(base, state=state, **changes)  # type: ignore[arg-type]
        return self.status


@dataclass(slots=True)
class WorkerSlot:
    """One wanted worker with its replicas; `runner` and `process` are there while it lives."""

    worker_id: str
    partition: Partition
    replicas: dict[str, ReplicaSlot] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    runner: Runner | None = None
    process: WorkerHandle | None = None
    restarts: int = 0
    task: asyncio.Task[None] | None = None

    def live(self) -> bool:
        """Whether anybody wants it."""
        return any(slot.wanted for slot in self.replicas.values())

    def released(self) -> bool:
        """Whether all who are wanted are to be parked."""
        return all(slot.spec.parked for slot in self.replicas.values() if slot.wanted)
