"""Both ends of the agent link over a real stream on loopback; the replicas behind it are scripted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import grpc
import pytest
from link_sides import BOUND_S, Blobs, Epoch, Grants, Names, Scripted, echo, placement

from node_agent.connection import reply
from node_agent.link import RouterLink
from node_agent.queueing import Queued
from node_agent.runner import Outcome
from partywall.clock import SystemClock
from partywall.domain.fleet import ReplicaState, ReplicaStatus
from partywall.domain.models import Signature
from partywall.errors import InvalidInput, Unavailable
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2
from partywall.wire.pipe import FramePipe
from router.control.membership import Membership
from router.gateway import link_service
from router.gateway.frames_port import FramesPort
from router.gateway.link_service import AgentLinkService
from router.gateway.replicas import Replica
from router.servers import link_options

pytestmark = pytest.mark.parametrize("way", ["stream", "connection", "blocked", "refused"])
"""The suite holds for all ways frames can travel. Blocked is a connection that is offered and cannot be opened, refused
one where nobody knows the agent."""


@dataclass
class World:
    membership: Membership
    agent: RouterLink
    replicas: Scripted
    server: grpc.aio.Server
    address: str
    epoch: Epoch

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not condition():
                await asyncio.sleep(0.005)

    @property
    def replica(self) -> Replica:
        return next(iter(self.membership.replica_runtimes()))


async def dial(address: str) -> FramePipe:
    host, _, port = address.rpartition(":")
    _, pipe = await asyncio.get_running_loop().create_connection(FramePipe, host, int(port))
    return pipe


async def blocked(address: str) -> FramePipe:
    raise ConnectionRefusedError(111, "Connection refused")


@asynccontextmanager
async def world(
    way: str, answer: Callable[[Queued], Outcome | None], dead_after_s: float = 3.0
) -> AsyncIterator[World]:
    clock = SystemClock()
    membership = Membership(clock, Names(), dead_after_s)
    frames = FramesPort(lambda certificate: "n1" if way == "connection" else "n2")
    if way != "stream":
        await frames.start("127.0.0.1", 0, None)
    service = AgentLinkService(
        membership,
        lambda context: "n1",
        Blobs(),
        Grants(),
        clock,
        heartbeat_s=0.05,
        max_message_bytes=1 << 20,
        frames=frames if way != "stream" else None,
    )
    server = grpc.aio.server(options=link_options())
    link_service.add_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    replicas, epoch = Scripted(answer), Epoch()
    address = f"127.0.0.1:{port}"
    device = fleet_pb2.Device(id="cpu0", kind=fleet_pb2.DEVICE_KIND_CPU, compute_units=2)
    agent = RouterLink(
        lambda: grpc.aio.insecure_channel(address, [("grpc.max_receive_message_length", -1)]),
        lambda: link.Hello(node="n1", incarnation="i", devices=[device]),
        replicas,
        epoch,
        clock,
        dial=blocked if way == "blocked" else dial,
    )
    replicas.reply = reply
    here = World(membership, agent, replicas, server, address, epoch)
    tasks = [asyncio.create_task(agent.run()), asyncio.create_task(membership.watch(0.02))]
    try:
        await here.until(lambda: membership.session("n1") is not None)
        membership.set_placements([placement()])
        session = membership.session("n1")
        assert session is not None
        session.send_desired(
            link.Desired(epoch=1, placements=[link.PlacementSpec(placement_id="p1", handle=here.replica.handle)])
        )
        await here.until(lambda: replicas.wanted == ["p1"])
        agent.report(ReplicaStatus("p1", ReplicaState.READY, signature=Signature(max_batch=8)))
        await here.until(lambda: here.replica.ready)
        yield here
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        frames.close()
        await server.stop(0)


async def call(here: World, payload: bytes, timeout_s: float = 5.0) -> bytes:
    session = here.membership.session("n1")
    assert session is not None
    reply = await session.call(here.replica, payload, 1, timeout_s, "r")
    return reply.response


async def test_many_calls_come_back_to_their_callers(way: str) -> None:
    async with world(way, echo) as here:
        payloads = [str(n).encode() * (n % 50) for n in range(500)]
        assert await asyncio.gather(*(call(here, p) for p in payloads)) == payloads
        assert here.replica.outstanding_requests == 0
        assert here.replica.service.known
        assert here.replica.max_batch == 8


async def test_requests_larger_than_a_frame_pass(way: str) -> None:
    async with world(way, echo) as here:
        big = bytes(9 << 20)
        assert await asyncio.gather(call(here, big), call(here, b"small")) == [big, b"small"]


async def test_large_and_small_ones_come_back_to_their_callers(way: str) -> None:
    async with world(way, echo) as here:
        sizes = [0, 1, 1000, 32 << 10, (32 << 10) + 1, 150_000, 2 << 20, 5 << 20] * 5
        payloads = [bytes([number]) * size for number, size in enumerate(sizes)]
        assert await asyncio.gather(*(call(here, p) for p in payloads)) == payloads
        assert here.replica.outstanding_requests == 0


async def test_an_error_comes_back_typed(way: str) -> None:
    error = InvalidInput("input 'x' is missing", fields={"field": "x"})
    async with world(way, lambda item: Outcome(error=error)) as here:
        with pytest.raises(InvalidInput, match="'x' is missing") as refused:
            await call(here, b"")
        assert refused.value.fields == {"field": "x"}


async def test_a_caller_that_leaves_cancels_and_harms_nobody(way: str) -> None:
    async with world(way, lambda item: None if item.request == b"hold" else echo(item)) as here:
        leaving = [asyncio.create_task(call(here, b"hold")) for _ in range(20)]
        await here.until(lambda: len(here.replicas.held) == 20)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        await here.until(lambda: len(here.replicas.cancelled) == 20)
        for item in here.replicas.held:
            reply(item, echo(item))
        assert await call(here, b"still there") == b"still there"
        assert here.replica.outstanding_requests == 0


async def test_a_broken_link_fails_what_waits_and_comes_back(way: str) -> None:
    async with world(way, lambda item: None if item.request == b"hold" else echo(item)) as here:
        waiting = asyncio.create_task(call(here, b"hold"))
        await here.until(lambda: len(here.replicas.held) == 1)
        session = here.membership.session("n1")
        assert session is not None
        session.ended.set()
        with pytest.raises(Unavailable):
            await waiting
        await here.until(lambda: here.membership.session("n1") not in (None, session))
        await here.until(lambda: here.replica.ready)
        # The router sends the desired state anew on a new session; here the test does.
        fresh = here.membership.session("n1")
        assert fresh is not None
        fresh.send_desired(
            link.Desired(epoch=1, placements=[link.PlacementSpec(placement_id="p1", handle=here.replica.handle)])
        )
        assert await call(here, b"again") == b"again"
        assert here.replicas.cancelled


async def test_a_stale_leader_is_not_obeyed(way: str) -> None:
    async with world(way, echo) as here:
        session = here.membership.session("n1")
        assert session is not None
        here.epoch.seen = 7
        session.send_desired(link.Desired(epoch=6))
        assert await call(here, b"x") == b"x"
        assert here.replicas.wanted == ["p1"]


async def test_an_answer_that_never_comes_ends_by_itself(way: str) -> None:
    async with world(way, lambda item: None) as here:
        with pytest.raises(Exception, match="no answer within the deadline"):
            await call(here, b"x", timeout_s=0.01)


async def test_heartbeats_carry_loads(way: str) -> None:
    async with world(way, echo) as here:
        await here.until(lambda: here.replica.agent_queued_rows == 3)


async def test_ciphertext_is_fetched_only_where_it_is_placed(way: str) -> None:
    async with world(way, echo) as here:
        assert b"".join([c async for c in here.agent.fetch("art", "f", 200)]) == bytes(range(200, 256))
        with pytest.raises(Exception, match="no artifact"):
            _ = [c async for c in here.agent.fetch("other", "f", 0)]
