"""What every worker's life on this node needs, given once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from node_agent.artifacts import Artifacts
from node_agent.runner import Reply
from node_agent.settings import QueueDiscipline
from node_agent.workers import WorkerHandle
from partywall.clock import Clock
from partywall.domain.fleet import Partition, ReplicaStatus
from partywall.v1 import agent_link_pb2 as link

log = structlog.get_logger(__name__)

Spawn = Callable[[str, Partition], Awaitable[WorkerHandle]]
"""Starts a worker in a partition and answers once its wall is attested."""


class Rooms(Protocol):
    """Who keeps the account of what partitions hold; `node_agent.walls.Walls` satisfies it."""

    async def rest(self, worker_id: str) -> None:
        """A worker has parked all it had."""
        ...

    async def rouse(self, worker_id: str) -> None:
        """A worker is about to bring weights back onto its device. NotReady: others have the room by now."""
        ...


class NoRooms:
    """Nobody keeps an account."""

    async def rest(self, worker_id: str) -> None:
        return

    async def rouse(self, worker_id: str) -> None:
        return


@dataclass(slots=True)
class PageableNotice:
    """Says once on a node that weights cannot be parked in page-locked memory."""

    told: bool = False

    def tell(self, worker_id: str) -> None:
        if not self.told:
            self.told = True
            log.warning(
                "parked weights lie in pageable memory and come back slower; raise the agent's RLIMIT_MEMLOCK "
                "(LimitMEMLOCK=infinity), or look for free host memory",
                worker=worker_id,
            )


@dataclass(frozen=True, slots=True)
class Means:
    """What every worker's life needs. `report` takes each status that changed."""

    spawn: Spawn
    artifacts: Artifacts
    discipline: QueueDiscipline
    clock: Clock
    reply: Reply
    report: Callable[[ReplicaStatus], None]
    drain_s: float
    watchdog_floor_s: float = 30.0
    on_event: Callable[[link.AgentEvent], None] = lambda event: None
    rooms: Rooms = field(default_factory=NoRooms)
    pageable: PageableNotice = field(default_factory=PageableNotice)
