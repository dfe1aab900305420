"""Replicas as the request's road sees them, and the table that leads from a model's name to them."""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from partywall.domain.fleet import ReplicaState, ReplicaStatus
from partywall.domain.models import Model, Signature, Version
from partywall.domain.placements import Placement
from partywall.domain.service_time import ServiceTime
from router.gateway.service_window import ServiceWindow
from router.gateway.tensors import RequestCheck
from router.policy.shifting import Shift
from router.policy.worker_load import Turn, shared_backlog_s


class Reply(Protocol):
    """What an agent answered: `InferReply` of the link, or `LargeReply`. Times in microseconds, of the whole batch."""

    @property
    def response(self) -> bytes: ...
    @property
    def queue_us(self) -> int: ...
    @property
    def service_us(self) -> int: ...
    @property
    def batch_requests(self) -> int: ...
    @property
    def batch_rows(self) -> int: ...


@dataclass(frozen=True, slots=True)
class LargeReply:
    """A reply whose response came beside the message."""

    response: bytes
    queue_us: int
    service_us: int
    batch_requests: int
    batch_rows: int


class Session(Protocol):
    """A live link to an agent."""

    @property
    def node(self) -> str: ...

    async def call(self, replica: Replica, request: bytes, rows: int, timeout_s: float, request_id: str) -> Reply:
        """One request to a replica.

        Raises:
            PartywallError: What the agent answered, or Unavailable when the link broke.
        """
        ...


_SMOOTHING = 0.1


@dataclass(slots=True)
class Replica:
    """One placement with what is known of it now. Mutable: it is updated on every request and reply."""

    placement: Placement
    handle: int
    session: Session | None = None
    status: ReplicaStatus | None = None
    outstanding_rows: int = 0
    outstanding_requests: int = 0
    due_s: dict[Hashable, float] = field(default_factory=dict)
    """When each outstanding call is due, on this process's clock."""
    max_batch: int = 1
    service: ServiceTime = field(default_factory=ServiceTime)
    peers: tuple[Replica, ...] = ()
    """Other replicas of the same worker: of their tenant's work before ours, of others' what the fair queue lets by."""
    turn: Turn = field(default_factory=Turn)
    """The worker's, shared with `peers`."""
    weight: float = 1.0
    """Of the tenant in the agent's fair queue."""
    agent_queued_rows: int = 0
    foreign_rows: int = 0
    """Rows that other processes of this router have waiting there, as of the agent's last report."""
    agent_quiet_s: float = 0.0
    """How long nobody had a request there, through any process of this router, as of the agent's last report."""
    agent_said_s: float = -math.inf
    """When that report came, on this process's clock."""
    window: ServiceWindow = field(default_factory=ServiceWindow)
    """Service times since live correction last looked."""
    rows_per_request: float = 0.0
    """As its requests of late had them; 0.0 before the first batch."""
    slowdown_factor: float = 1.0
    """By how much a batch may take longer than batches lately took, by the bound on what neighbours cost; 1.0 without
    a profile."""

    def saw_batch(self, rows: int, requests: int) -> None:
        """A batch came back: `rows_per_request` follows, smoothed over the last ten or so."""
        each = rows / max(1, requests)
        held = self.rows_per_request
        self.rows_per_request = held + _SMOOTHING * (each - held) if held else each

    @property
    def ready(self) -> bool:
        status = self.status
        up = self.session is not None and status is not None and status.state is ReplicaState.READY
        return up and not self.placement.parked

    @property
    def in_flight(self) -> int:
        """Requests of this process, and rows that others have there."""
        return self.outstanding_requests + self.foreign_rows

    def served_lately(self, now_s: float, within_s: float) -> bool:
        """Whether a request is or was there, through any process of this router, in the last `within_s`."""
        if self.in_flight or now_s - self.service.last_sample_s <= within_s:
            return True
        return self.agent_quiet_s + now_s - self.agent_said_s <= within_s

    def left_alone(self, since_s: float, quiet_s: float) -> bool:
        """Whether nothing came or ran there for `quiet_s`, where all routers send nothing from `since_s` on.

        This process's own count is not enough: others' requests are known to the agent alone, and its word must be
        younger than the moment by which all of them have stopped.
        """
        late_enough = self.agent_said_s >= since_s + quiet_s
        return not self.outstanding_requests and late_enough and self.agent_quiet_s >= quiet_s

    @property
    def owner(self) -> str:
        """The tenant."""
        return self.placement.tenant_id

    @property
    def shared_backlog_s(self) -> float:
        """Seconds of the worker's other work that comes before ours, the running batch in full
        (`worker_load.shared_backlog_s`)."""
        return shared_backlog_s(self, self.peers) if self.peers or self.foreign_rows else 0.0

    @property
    def earliest_due_s(self) -> float:
        """When the first outstanding call is due; infinity where there is none."""
        return min(self.due_s.values(), default=math.inf)

    def begin(self, call: Hashable, rows: int, now_s: float, due_s: float) -> None:
        """A request is sent there."""
        if not self.outstanding_requests:
            self.turn.sent(self, (self, *self.peers), rows, now_s)
        self.outstanding_rows += rows
        self.outstanding_requests += 1
        self.due_s[call] = due_s

    def end(self, call: Hashable, rows: int) -> None:
        """A request that was sent there is answered or given up."""
        self.outstanding_rows -= rows
        self.outstanding_requests -= 1
        del self.due_s[call]

    def answered(self, now_s: float) -> None:
        """Replies came from there, and each was ended."""
        self.turn.answered((self, *self.peers), now_s)


@dataclass(frozen=True, slots=True)
class Route:
    """Where requests for one version go. `replicas` holds only those that are ready.

    `shifts` are pairs among them of which one is replacing the other: each request is offered to one of a pair.
    """

    version: Version
    check: RequestCheck | None
    """Checks requests against the version's signature; None until a worker has found one."""
    replicas: tuple[Replica, ...]
    shifts: tuple[Shift[Replica], ...] = ()

    def candidates(self) -> tuple[Replica, ...]:
        """Who is asked for the next request; takes a turn of each shift."""
        if not self.shifts:
            return self.replicas
        out = [shift.pass_over() for shift in self.shifts]
        return tuple(r for r in self.replicas if all(r is not one for one in out))

    @property
    def signature(self) -> Signature | None:
        return self.version.signature


@dataclass(frozen=True, slots=True)
class ModelRoute:
    """A model with its versions; `live` serves calls that name no version."""

    model: Model
    live: Route | None
    versions: Mapping[int, Route]


class Entry(Protocol):
    """A model of the catalog."""

    @property
    def model(self) -> Model: ...

    @property
    def versions(self) -> Mapping[int, Version]: ...


def build_routes(entries: Iterable[Entry], replicas: Iterable[Replica]) -> dict[tuple[str, str], ModelRoute]:
    """The whole table, by (tenant id, model name); rebuilt when the fleet or the catalog changes.

    While a promoted version is not ready, the previous one goes on serving as long as it is resident.
    """
    ready: dict[tuple[str, int], list[Replica]] = {}
    for replica in replicas:
        if replica.ready:
            key = (replica.placement.model_id, replica.placement.version)
            ready.setdefault(key, []).append(replica)
    table: dict[tuple[str, str], ModelRoute] = {}
    for entry in entries:
        model = entry.model
        routes = {
            # A released version takes no more requests from the moment the wish is written, not when it is gone.
            number: _route(version, ready.get((model.id, number), ()) if version.resident else ())
            for number, version in entry.versions.items()
        }
        live = routes.get(model.live)
        previous = routes.get(model.previous)
        if previous is not None and previous.replicas and (live is None or not live.replicas):
            live = previous
        table[model.tenant_id, model.name] = ModelRoute(model, live, routes)
    return table


def _route(version: Version, ready: Sequence[Replica]) -> Route:
    by_id = {replica.placement.id: replica for replica in ready}
    shifts = []
    for new in ready:
        old = by_id.get(new.placement.replaces)
        if old is None:
            continue
        # At either end of the way one of the two takes nothing.
        if new.placement.weight >= 1.0:
            by_id.pop(old.placement.id, None)
        elif new.placement.weight <= 0.0:
            by_id.pop(new.placement.id, None)
        else:
            shifts.append(Shift(old, new, new.placement.weight))
    check = RequestCheck(version.signature) if version.signature is not None else None
    return Route(version, check, tuple(by_id.values()), tuple(shifts))
