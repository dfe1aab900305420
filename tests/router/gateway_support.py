"""Replicas, routes and agents for tests of the request's road: simulated sessions, a virtual clock, a virtual timer."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from dataclasses import dataclass, field

from partywall.clock import VirtualClock
from partywall.domain.fleet import Partition, PartitionKind, ReplicaState, ReplicaStatus
from partywall.domain.models import Manifest, Model, Signature, Version, VersionState
from partywall.domain.placements import Placement
from partywall.errors import PartywallError
from partywall.v1 import agent_link_pb2
from router.gateway.replicas import ModelRoute, Replica, Route
from router.gateway.tensors import RequestCheck

SIGNATURE = Signature(open=True)


@dataclass(order=True)
class Timed:
    """A call at a virtual time."""

    at_s: float
    order: int
    call: Callable[[], None] = field(compare=False)
    cancelled: bool = field(default=False, compare=False)

    def cancel(self) -> None:
        self.cancelled = True


class VirtualTimers:
    """`asyncio.loop.call_later` on a virtual clock: `advance` moves both."""

    def __init__(self, clock: VirtualClock) -> None:
        self.clock = clock
        self._heap: list[Timed] = []
        self._order = itertools.count()

    def later(self, seconds: float, call: Callable[[], None]) -> Timed:
        timed = Timed(self.clock.monotonic() + seconds, next(self._order), call)
        heapq.heappush(self._heap, timed)
        return timed

    async def advance(self, seconds: float) -> None:
        """Moves the clock, calling what becomes due on the way; tasks run in between."""
        end_s = self.clock.monotonic() + seconds
        await settle()
        while self._heap and self._heap[0].at_s <= end_s + 1e-9:
            timed = heapq.heappop(self._heap)
            self.clock.advance(max(0.0, timed.at_s - self.clock.monotonic()))
            if not timed.cancelled:
                timed.call()
            await settle()
        self.clock.advance(max(0.0, end_s - self.clock.monotonic()))
        await settle()


async def settle() -> None:
    """Lets every task that can run do so."""
    for _ in range(20):
        await asyncio.sleep(0)


@dataclass
class FakeAgent:
    """A session whose answers the test gives; `calls` are the requests it got, `cancelled` how many were taken back."""

    node: str = "n"
    calls: list[tuple[str, asyncio.Future[agent_link_pb2.InferReply]]] = field(default_factory=list)
    cancelled: int = 0

    async def call(
        self, replica: Replica, request: bytes, rows: int, timeout_s: float, request_id: str
    ) -> agent_link_pb2.InferReply:
        future: asyncio.Future[agent_link_pb2.InferReply] = asyncio.get_running_loop().create_future()
        self.calls.append((request_id, future))
        replica.begin(future, rows, 0.0, timeout_s)
        try:
            return await future
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            replica.end(future, rows)

    def answer(self, at: int = -1, response: bytes = b"ok") -> None:
        reply = agent_link_pb2.InferReply(response=response, queue_us=100, service_us=900, batch_requests=1)
        self.calls[at][1].set_result(reply)

    def fail(self, error: PartywallError, at: int = -1) -> None:
        self.calls[at][1].set_exception(error)


def replica(agent: FakeAgent | None, name: str, service_s: float = 0.01) -> Replica:
    """A ready replica whose batches of one take `service_s`."""
    placement = Placement(
        name, "t1", "m1", 1, agent.node if agent else "n", Partition("p", PartitionKind.WHOLE, "cpu"), "w", 1, 1
    )
    made = Replica(placement, 1, agent, ReplicaStatus(name, ReplicaState.READY))
    if service_s:
        made.service.observe(1, service_s, 0.0)
    return made


def version(clock: VirtualClock, **manifest: object) -> Version:
    described = Manifest("identity", slo_ms=100, **manifest)  # type: ignore[arg-type]
    return Version(
        "m1", 1, "a1", described, (), "k1", clock.now(), state=VersionState.READY, resident=True, signature=SIGNATURE
    )


def model_route(one: Version, replicas: tuple[Replica, ...]) -> ModelRoute:
    route = Route(one, RequestCheck(SIGNATURE), replicas)
    return ModelRoute(Model("m1", "t1", "echo", live=1), route, {1: route})
