"""However many large requests come, the router holds a bounded number of bytes and says so early."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from partywall.clock import VirtualClock
from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.models import Manifest, Model, Signature, Version
from partywall.domain.placements import Placement
from partywall.domain.tenants import Tenant
from partywall.errors import Overloaded, Reason
from partywall.wire.inference import ModelInferRequest
from router.gateway.attempts import Attempts
from router.gateway.dispatch import Deadlines, Dispatcher
from router.gateway.journal import Journal
from router.gateway.replicas import LargeReply, ModelRoute, Replica, Route
from router.gateway.requests import parse_request
from router.gateway.statistics import Statistics
from router.gateway.tensors import RequestCheck
from router.policy.hedging import HedgeLimits
from router.policy.routing import RoutingLimits

AT = datetime(2026, 1, 1, tzinfo=UTC)
TENANT = Tenant("t", "acme", AT)
MIB = 1 << 20


class Held:
    """A session whose answers wait until they are let go."""

    node = "n1"

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.calls = 0

    async def call(self, replica: Replica, request: bytes, rows: int, timeout_s: float, request_id: str) -> LargeReply:
        self.calls += 1
        await self.gate.wait()
        return LargeReply(b"answer", 1, 2, 1, 1)


def dispatcher(session: Any, max_bytes: int) -> Dispatcher:
    clock, registry = VirtualClock(), CollectorRegistry()
    place = Placement("p", "t", "m", 1, "n1", Partition("x", PartitionKind.WHOLE, "cpu0"), "w", 0, 1)
    version = Version("m", 1, "a", Manifest("identity"), (), "d", AT)
    route = Route(version, RequestCheck(Signature(open=True)), (Replica(place, 1, session),))
    table = {("t", "bert"): ModelRoute(Model("m", "t", "bert", live=1), route, {1: route})}
    limits = RoutingLimits()
    return Dispatcher(
        lambda: table,
        None,
        Statistics(registry),
        limits,
        Deadlines(30.0, 60.0),
        clock,
        Attempts(HedgeLimits(), limits, clock, registry, lambda seconds, then: asyncio.TimerHandle(0, then, (), None)),  # type: ignore[arg-type]
        Journal(clock),
        max_bytes=max_bytes,
    )


def request(size: int) -> bytes:
    message = ModelInferRequest(model_name="bert")
    message.inputs.add(name="x", datatype="INT8", shape=[1, size])
    message.raw_input_contents.append(bytes(size))
    data: bytes = message.SerializeToString()
    return data


async def infer(dispatcher: Dispatcher, size: int) -> bytes:
    raw = request(size)
    return await dispatcher.infer(TENANT, raw, parse_request(ModelInferRequest, raw), None, "r")


async def test_a_flood_of_large_requests_is_refused_before_anything_is_done_with_them() -> None:
    session = Held()
    here = dispatcher(session, 40 * MIB)
    waiting = [asyncio.create_task(infer(here, 16 * MIB)) for _ in range(6)]
    for _ in range(10):
        await asyncio.sleep(0)
    refused = [task.exception() for task in waiting if task.done()]
    assert len(refused) == 4
    assert session.calls == 2
    for error in refused:
        assert isinstance(error, Overloaded)
        assert error.reason is Reason.QUEUE_FULL
        assert error.retry_after_s
    # Small ones still pass beside the large ones.
    small = asyncio.create_task(infer(here, 1000))
    await asyncio.sleep(0)
    session.gate.set()
    assert await small == b"answer"
    assert [await task for task in waiting if task not in refused and task.exception() is None] == [b"answer"] * 2
    # All is given back.
    assert await asyncio.gather(*(infer(here, 16 * MIB) for _ in range(2))) == [b"answer"] * 2


async def test_one_request_above_the_bound_passes_alone() -> None:
    session = Held()
    session.gate.set()
    assert await infer(dispatcher(session, MIB), 2 * MIB) == b"answer"


@pytest.mark.parametrize("size", [0, 100, 40_000, MIB])
def test_raw_contents_are_measured_whether_or_not_they_are_copied(size: int) -> None:
    message, sizes = parse_request(ModelInferRequest, request(size))
    assert list(sizes) == [size]
    assert message.inputs[0].shape[1] == size
    assert bool(message.raw_input_contents) == (size <= 32 << 10)
