"""What stands around an agent link in tests: scripted replicas on one side, the router's seams on the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from node_agent.link_seams import Load
from node_agent.queueing import Queued
from node_agent.runner import Outcome
from partywall.domain.fleet import Partition, PartitionKind, ReplicaState, ReplicaStatus
from partywall.domain.models import Signature
from partywall.domain.placements import Placement
from partywall.v1 import agent_link_pb2 as link

BOUND_S = 10.0


class Names:
    def tenant_name(self, tenant_id: str) -> str:
        return tenant_id

    def model_name(self, model_id: str) -> str:
        return model_id


class Blobs:
    async def read(self, artifact_id: str, file: str, offset: int, length: int) -> bytes:
        return bytes(range(256))[offset : offset + 100]


class Grants:
    def may_fetch(self, node: str, artifact_id: str) -> bool:
        return artifact_id == "art"


@dataclass
class Scripted:
    """Replicas that answer through a function; None: they keep the request."""

    answer: Callable[[Queued], Outcome | None]
    reply: Callable[[Queued, Outcome], None] | None = None
    wanted: list[str] = field(default_factory=list)
    held: list[Queued] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    quiet_s: float = 0.0

    def apply(self, placements: Iterable[link.PlacementSpec]) -> None:
        self.wanted = [p.placement_id for p in placements]

    def submit(self, placement_id: str, item: Queued) -> None:
        outcome = self.answer(item)
        if outcome is None:
            self.held.append(item)
        elif self.reply is not None:
            self.reply(item, outcome)

    def cancel(self, placement_id: str, request_id: int) -> None:
        self.cancelled.append(request_id)

    def loads(self) -> list[Load]:
        return [Load(p, 3, 1, 0.5, self.quiet_s) for p in self.wanted]

    def statuses(self) -> list[ReplicaStatus]:
        return [ReplicaStatus(p, ReplicaState.READY, signature=Signature(open=True)) for p in self.wanted]


class Epoch:
    def __init__(self) -> None:
        self.seen = 0

    def accept(self, epoch: int) -> bool:
        if epoch < self.seen:
            return False
        self.seen = epoch
        return True


def placement(name: str = "p1") -> Placement:
    return Placement(name, "t", "m", 1, "n1", Partition("x", PartitionKind.WHOLE, "cpu0"), "w", 0, 1)


def echo(item: Queued) -> Outcome:
    return Outcome(response=item.request, queue_us=1, service_us=10, batch_requests=1, batch_rows=item.rows)
