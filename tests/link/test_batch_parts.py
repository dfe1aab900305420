"""A batch whose requests came through several routers counts in each by its part."""

from __future__ import annotations

import asyncio

import pytest

from partywall.clock import VirtualClock
from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.v1 import agent_link_pb2 as link
from router.gateway.link import AgentSession
from router.gateway.replicas import Replica


async def test_of_a_shared_batch_only_our_requests_count() -> None:
    partition = Partition("p", PartitionKind.CPUSET, "cpu", (0,), 0)
    replica = Replica(Placement("place", "t", "m", 1, "n1", partition, "w", 0, 1), 1)
    session = AgentSession(link.Hello(node="n1"), VirtualClock())
    calls = [asyncio.create_task(session.call(replica, b"", 1, 5.0, f"r{i}")) for i in range(3)]
    while session.pending < len(calls):
        await asyncio.sleep(0)
    shared = {"service_us": 8_000, "batch_requests": 4, "batch_rows": 4}
    session.on_replies(
        [
            link.InferReply(id=1, **shared),
            link.InferReply(id=2, **shared),
            link.InferReply(id=3, service_us=2_000, batch_requests=1, batch_rows=1),
        ]
    )
    await asyncio.gather(*calls)
    assert replica.window.take() == {4: (0.5, pytest.approx(0.004)), 1: (1.0, pytest.approx(0.002))}
    # A batch is one sample of its own length all the same.
    assert replica.service.mean_s(4) == pytest.approx(0.008)
    assert replica.rows_per_request == 1.0
    session.close()


def test_how_many_rows_a_request_has_is_learned_from_its_batches() -> None:
    partition = Partition("p", PartitionKind.CPUSET, "cpu", (0,), 0)
    replica = Replica(Placement("place", "t", "m", 1, "n1", partition, "w", 0, 1), 1)
    assert replica.rows_per_request == 0.0
    replica.saw_batch(rows=64, requests=2)
    assert replica.rows_per_request == 32.0
    for _ in range(60):
        replica.saw_batch(rows=8, requests=1)
    assert replica.rows_per_request == pytest.approx(8.0, abs=0.1)
