"""An agent with several router processes: calls from all, commands from the leading one, loads to all."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc
import pytest
from link_sides import BOUND_S, Blobs, Epoch, Grants, Names, Scripted, echo, placement

from node_agent.connection import reply
from node_agent.link import RouterLink
from node_agent.links import RouterLinks, reachable
from partywall.clock import SystemClock
from partywall.domain.fleet import ReplicaState, ReplicaStatus
from partywall.domain.models import Manifest, Model, Signature, Version
from partywall.domain.tenants import Tenant
from partywall.errors import PartywallError
from partywall.v1 import agent_link_pb2 as link
from router.control.catalog import Catalog
from router.control.follow import Follower
from router.control.membership import Membership
from router.control.memory import MemoryStore
from router.control.records import DataKeyRecord
from router.gateway import link_service
from router.gateway.link import AgentSession
from router.gateway.link_service import AgentLinkService
from router.gateway.replicas import Replica
from router.servers import link_options


@dataclass
class Process:
    """One router process: its membership, and its link port."""

    membership: Membership
    server: grpc.aio.Server
    address: str


@dataclass
class World:
    processes: list[Process]
    links: RouterLinks
    replicas: Scripted
    listed: list[str] = field(default_factory=list)

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(BOUND_S):
            while not condition():
                await asyncio.sleep(0.005)

    def here(self, index: int) -> bool:
        return self.processes[index].membership.session("n1") is not None

    async def call(self, index: int, payload: bytes) -> bytes:
        membership = self.processes[index].membership
        session = membership.session("n1")
        assert session is not None
        replica = next(iter(membership.replica_runtimes()))
        return (await session.call(replica, payload, 1, 5.0, "r")).response


async def process(listed: list[str]) -> Process:
    clock = SystemClock()
    membership = Membership(clock, Names(), 3.0, shared=True)
    service = AgentLinkService(
        membership,
        lambda context: "n1",
        Blobs(),
        Grants(),
        clock,
        heartbeat_s=0.05,
        max_message_bytes=1 << 20,
        # Known only when all ports are.
        links=listed,
    )
    server = grpc.aio.server(options=link_options())
    link_service.add_to_server(service, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    return Process(membership, server, f"127.0.0.1:{port}")


@asynccontextmanager
async def world(count: int) -> AsyncIterator[World]:
    listed: list[str] = []
    processes = [await process(listed) for _ in range(count)]
    listed += [one.address for one in processes]
    replicas, epoch = Scripted(echo), Epoch()
    replicas.reply = reply

    def make(
        address: str,
        request_ids: Iterator[int],
        on_welcome: Callable[[Sequence[str]], None],
        shared: Callable[[], bool],
    ) -> RouterLink:
        return RouterLink(
            lambda: grpc.aio.insecure_channel(address),
            lambda: link.Hello(node="n1", incarnation="i"),
            replicas,
            epoch,
            SystemClock(),
            request_ids=request_ids,
            on_welcome=on_welcome,
            shared=shared,
        )

    here = World(processes, RouterLinks(processes[0].address, make), replicas, listed)
    running = asyncio.create_task(here.links.run())
    try:
        await here.until(lambda: all(here.here(index) for index in range(count)))
        yield here
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        for one in processes:
            await one.server.stop(0)


async def catalog() -> Catalog:
    """One tenant with one placed model."""
    made, at = Catalog(MemoryStore()), datetime(2026, 1, 1, tzinfo=UTC)
    await made.open()
    async with made.transaction() as tx:
        await tx.insert(Tenant("t", "acme", at))
        await tx.insert(DataKeyRecord("d", "t", "a", b"w", at))
        await tx.insert(Model("m", "t", "bert", live=1))
        await tx.insert(Version("m", 1, "a", Manifest("identity"), (), "d", at))
        await tx.insert(placement())
    return made


async def test_all_processes_call_and_only_the_leading_one_commands() -> None:
    async with world(3) as here:
        leader = here.processes[0].membership
        leader.set_placements([placement()])
        handle = next(iter(leader.replica_runtimes())).handle
        session = leader.session("n1")
        assert session is not None
        session.send_desired(link.Desired(epoch=1, placements=[link.PlacementSpec(placement_id="p1", handle=handle)]))
        await here.until(lambda: here.replicas.wanted == ["p1"])
        # The agent speaks before the others have read of the placement.
        here.links.report(ReplicaStatus("p1", ReplicaState.READY, signature=Signature(max_batch=8)))
        await here.until(lambda: all("p1" in _session(here, index).observed for index in (0, 1, 2)))
        state = await catalog()
        for index in (1, 2):
            membership = here.processes[index].membership
            # Handles differ from process to process: each speaks for itself alone.
            for gone in range(index):
                membership.set_placements([placement(f"gone-{gone}")])
            follower = Follower(state, membership)
            follower.follow()
            follower.follow()
            replica = next(iter(membership.replica_runtimes()))
            assert replica.ready
            assert replica.max_batch == 8
        answers = await asyncio.gather(*(here.call(index, bytes([index, n])) for index in (0, 1, 2) for n in range(20)))
        assert answers == [bytes([index, n]) for index in (0, 1, 2) for n in range(20)]
        assert here.replicas.wanted == ["p1"]


async def test_each_process_knows_what_the_others_have_waiting() -> None:
    async with world(2) as here:
        here.replicas.wanted = ["p1"]
        for one in here.processes:
            one.membership.set_placements([placement()])
            session = one.membership.session("n1")
            assert session is not None
            session.send_handles(
                link.Handles(
                    entries=[link.Handle(placement_id=r.placement.id, handle=r.handle) for r in _replicas(one)]
                )
            )
        # The scripted replicas say three rows wait and one runs.
        await here.until(lambda: all(_replicas(one)[0].foreign_rows == 4 for one in here.processes))
        replica = _replicas(here.processes[1])[0]
        replica.service.observe(1, 0.5, 0.0)
        assert replica.shared_backlog_s == pytest.approx(4 * replica.service.mean_s(1))


async def test_processes_that_are_gone_are_given_up_and_new_ones_dialled() -> None:
    async with world(2) as here:
        fresh = await process(here.listed)
        try:
            here.listed[:] = [here.listed[0], fresh.address]
            _session(here, 0).ended.set()
            await here.until(lambda: fresh.membership.session("n1") is not None)
            await here.until(lambda: not here.here(1))
            assert here.here(0)
        finally:
            await fresh.server.stop(0)


async def test_a_leader_that_is_away_takes_nobody_with_it() -> None:
    async with world(2) as here:
        await here.processes[0].server.stop(0)
        await here.until(lambda: not here.here(0))
        assert here.here(1)
        async with asyncio.timeout(BOUND_S):
            while (data := await fetched(here)) == b"":
                await asyncio.sleep(0.005)
        assert data == bytes(range(200, 256))


async def fetched(here: World) -> bytes:
    """A file's end; nothing while the agent has not noticed that the first process is away."""
    try:
        return b"".join([chunk async for chunk in here.links.fetch("art", "f", 200)])
    except PartywallError:
        return b""


@pytest.mark.parametrize(
    ("listens", "dialled", "expected"),
    [
        ("127.0.0.1:8005", "127.0.0.1:8004", "127.0.0.1:8005"),
        ("0.0.0.0:8005", "10.0.0.7:8004", "10.0.0.7:8005"),
        ("[::]:8005", "router.example:8004", "router.example:8005"),
        ("[fd00::1]:8005", "[fd00::1]:8004", "[fd00::1]:8005"),
    ],
)
def test_where_the_others_are(listens: str, dialled: str, expected: str) -> None:
    assert reachable(listens, dialled) == expected


def _session(here: World, index: int) -> AgentSession:
    session = here.processes[index].membership.session("n1")
    assert session is not None
    return session


def _replicas(one: Process) -> list[Replica]:
    return list(one.membership.replica_runtimes())
