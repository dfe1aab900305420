"""Calls passed on to the leading process: bytes, metadata, refusals; and what is said while it is away."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from partywall.errors import InvalidInput, NotReady, Reason
from partywall.v1 import models_pb2, models_pb2_grpc
from partywall.wire.status import from_rpc_error
from router.control.follow import NoAudit
from router.processes.forward import Forwarder, leader_address
from router.servers import collect, options

SERVICE = models_pb2.DESCRIPTOR.services_by_name["Models"]


class Leader(models_pb2_grpc.ModelsServicer):
    """Answers what it was asked, and by whom."""

    async def GetModel(self, request: models_pb2.GetModelRequest, context: Any) -> models_pb2.Model:  # type: ignore[override] # noqa: N802
        if request.name == "bad":
            raise InvalidInput("name is bad", fields={"field": "name"})
        return models_pb2.Model(name=f"{request.name} for {dict(context.invocation_metadata())['authorization']}")

    async def UploadFile(self, request_iterator: Any, context: Any) -> models_pb2.UploadResponse:  # type: ignore[override] # noqa: N802
        received = 0
        async for chunk in request_iterator:
            received += len(chunk.data)
        return models_pb2.UploadResponse(received=received)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short: a socket's path has 107 characters at the most."""
    with tempfile.TemporaryDirectory(prefix="partywall-") as name:
        yield Path(name)


@asynccontextmanager
async def leader(folder: Path) -> AsyncIterator[None]:
    server = grpc.aio.server(options=options(1 << 20))
    server.add_generic_rpc_handlers(collect(models_pb2_grpc.add_ModelsServicer_to_server, Leader()))
    server.add_insecure_port(leader_address(folder))
    await server.start()
    try:
        yield
    finally:
        await server.stop(0)


@asynccontextmanager
async def follower(folder: Path) -> AsyncIterator[Any]:
    """A stub on a process that passes the service on."""
    forwarder = Forwarder(folder, 1 << 20)
    server = grpc.aio.server()
    server.add_generic_rpc_handlers([forwarder.handler(SERVICE)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield models_pb2_grpc.ModelsStub(channel)
    await server.stop(0)
    await forwarder.close()


CALLER: dict[str, Any] = {"metadata": (("authorization", "Bearer me"),), "timeout": 10}


async def test_answers_and_refusals_come_back_as_they_are(folder: Path) -> None:
    async with leader(folder), follower(folder) as stub:
        answer = await stub.GetModel(models_pb2.GetModelRequest(name="bert"), **CALLER)
        assert answer.name == "bert for Bearer me"
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetModel(models_pb2.GetModelRequest(name="bad"), **CALLER)
        error = from_rpc_error(refused.value)
        assert isinstance(error, InvalidInput)
        assert error.fields["field"] == "name"


async def test_streams_are_passed_on(folder: Path) -> None:
    async def chunks() -> AsyncIterator[models_pb2.UploadChunk]:
        for size in (1, 1000, 70_000):
            yield models_pb2.UploadChunk(data=bytes(size))

    async with leader(folder), follower(folder) as stub:
        assert (await stub.UploadFile(chunks(), **CALLER)).received == 71_001


async def test_a_leader_that_is_away_is_said_to_be_and_found_when_it_is_back(folder: Path) -> None:
    async with follower(folder) as stub:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await stub.GetModel(models_pb2.GetModelRequest(name="bert"), **CALLER)
        error = from_rpc_error(refused.value)
        assert error.reason is Reason.UNREACHABLE
        assert error.retryable
        async with leader(folder):
            async with asyncio.timeout(10):
                while (said := await name_of(stub, "bert")) == Reason.UNREACHABLE.value:
                    await asyncio.sleep(0.02)
            assert said == "bert for Bearer me"


async def name_of(stub: Any, name: str) -> str:
    """The answer, or the reason why there is none."""
    try:
        return str((await stub.GetModel(models_pb2.GetModelRequest(name=name), **CALLER)).name)
    except grpc.aio.AioRpcError as refused:
        return from_rpc_error(refused).reason.value


def test_only_the_leading_process_records() -> None:
    with pytest.raises(NotReady, match="only the leading"):
        NoAudit().append("tenant.created", {})
