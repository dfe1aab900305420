"""What the control plane does by itself, and writers that are cut off at any moment."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from control_world import ADMIN, World, admin_port, push, refused

from partywall.domain.placements import Decision
from partywall.errors import Conflict, InternalError
from partywall.v1 import agent_link_pb2, agent_link_pb2_grpc, tenants_pb2
from router.control.catalog import Catalog
from router.control.housekeeping import DECISIONS_PER_SUBJECT, Housekeeper, KeyUse
from router.control.records import MetaEntry
from router.control.rpc import ErrorInterceptor
from router.control.store import SqlStore


def keeper(world: World) -> Housekeeper:
    return Housekeeper(world.control, world.store, world.remover, world.uploads, KeyUse(world.control))


async def test_old_decisions_are_dropped(world: World) -> None:
    async with admin_port(world) as ports:
        await ports.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name="acme"), metadata=ADMIN)
        await push(ports, "acme", "bert")
    model_id = world.catalog.models()[0].model.id
    async with world.catalog.transaction() as tx:
        for number in range(DECISIONS_PER_SUBJECT + 5):
            at = world.clock.now() + timedelta(seconds=number)
            await tx.insert(Decision(f"e{number:03}", "placement", model_id, "here", at))
        await tx.insert(Decision("gone", "placement", "a-deleted-model", "there", world.clock.now()))
    await keeper(world).round()
    left = world.catalog.decisions()
    assert len(left) == DECISIONS_PER_SUBJECT
    assert {one.id for one in left}.isdisjoint({"gone", "e000", "e004"})


async def test_bytes_that_belong_to_nothing_are_swept(world: World) -> None:
    await world.blobs.append("u-orphan", "w", 0, b"left by a crash before the row was written")
    await keeper(world).round()
    assert await world.blobs.received("u-orphan", "w") > 0
    world.clock.advance(timedelta(hours=25).total_seconds())
    await keeper(world).round()
    assert await world.blobs.received("u-orphan", "w") == 0


async def test_the_first_round_comes_at_once(world: World) -> None:
    done = asyncio.Event()
    helper = keeper(world)
    helper.round = lambda: asyncio.sleep(0, done.set())  # type: ignore[method-assign]
    task = asyncio.create_task(helper.run())
    await asyncio.wait_for(done.wait(), 5)
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def test_a_writer_cut_off_at_any_moment_leaves_catalog_and_store_equal(tmp_path: Path) -> None:
    store = SqlStore.at(tmp_path / "state.db")
    await store.open()
    catalog = Catalog(store)
    await catalog.open()
    outcomes = set()

    async def write(name: str) -> None:
        async with catalog.transaction() as tx:
            await tx.insert(MetaEntry(name, "x"))

    for steps in range(0, 600, 12):
        task = asyncio.create_task(write(f"m{steps}"))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        outcomes.add(task.cancelled())
        stored = {key for held in (await store.load()).objects.values() for key in held}
        shown = {key for held in catalog._index.objects.values() for key in held}
        assert shown == stored, f"after {steps} steps"
    assert True in outcomes
    await write("last")
    await store.close()


class BrokenStream(agent_link_pb2_grpc.AgentLinkServicer):
    """Streams that end in an error of ours, a defect, or a status of their own."""

    async def FetchFile(self, request: Any, context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield agent_link_pb2.FetchFileChunk(data=b"first")
        if request.file == "conflict":
            raise Conflict("somebody else was faster", fields={"a": "b"})
        if request.file == "abort":
            await context.abort(grpc.StatusCode.CANCELLED, "its own status")
        raise ZeroDivisionError

    async def Connect(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        raise Conflict("not now")


async def test_streams_end_in_status_too() -> None:
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    agent_link_pb2_grpc.add_AgentLinkServicer_to_server(BrokenStream(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stub = agent_link_pb2_grpc.AgentLinkStub(channel)

        async def drain(call: Any) -> None:
            async for _ in call:
                pass

        fetch = agent_link_pb2.FetchFileRequest
        error = await refused(drain(stub.FetchFile(fetch(file="conflict"))))
        assert (type(error), error.fields) == (Conflict, {"a": "b"})
        assert isinstance(await refused(drain(stub.FetchFile(fetch(file="defect")))), InternalError)
        with pytest.raises(grpc.RpcError, match="its own status"):
            await drain(stub.FetchFile(fetch(file="abort")))
        assert isinstance(await refused(drain(stub.Connect(iter(())))), Conflict)
        unknown = channel.unary_unary("/partywall.v1.Nothing/Here")
        with pytest.raises(grpc.RpcError):
            await unknown(b"")
    await server.stop(None)
