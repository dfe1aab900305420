"""What the agent's end of the link knows of the rest of the agent."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from node_agent.queueing import Queued
from partywall.domain.fleet import ReplicaStatus
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2


@dataclass(frozen=True, slots=True)
class Load:
    """What one replica has to do, for all links together.

    Attributes:
        placement_id: Whose load it is.
        queued_rows: Rows waiting.
        running_rows: Rows in the worker.
        backlog_s: Predicted seconds until a new request would start.
        quiet_s: Seconds since the last request ended here; 0.0 while there is one.
    """

    placement_id: str
    queued_rows: int
    running_rows: int
    backlog_s: float
    quiet_s: float


class Replicas(Protocol):
    """What stands on this node; the supervisor satisfies it."""

    def apply(self, placements: Iterable[link.PlacementSpec]) -> None: ...
    def submit(self, placement_id: str, item: Queued) -> None: ...
    def cancel(self, placement_id: str, request_id: int) -> None: ...
    def loads(self) -> list[Load]: ...
    def statuses(self) -> list[ReplicaStatus]: ...
    async def attest(self) -> list[fleet_pb2.ReplicaAttestation]: ...


class ProfileJobs(Protocol):
    """Who measures profiles on this node; the profiler satisfies it."""

    def start(self, job: link.ProfileJob) -> None: ...
    def cancel(self, job_id: str) -> None: ...


class EpochGuard(Protocol):
    """The highest leader epoch obeyed, kept on disk."""

    @property
    def seen(self) -> int: ...

    def accept(self, epoch: int) -> bool:
        """Whether commands of this epoch may be obeyed; remembers it if so."""
        ...
