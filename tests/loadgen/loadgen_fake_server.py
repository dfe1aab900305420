"""A small inference server that answers as told, for what loadgen sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc
import grpc.aio

from partywall import errors
from partywall.wire.inference import SERVICE_NAME, ModelInferRequest, ModelInferResponse, ModelMetadataResponse
from partywall.wire.status import to_status

Answer = Callable[[object], Awaitable[None]]


async def _serve_at_once(_: object) -> None:
    return


@dataclass
class FakeServer:
    """Answers ModelInfer through `answer` (raise a PartywallError to refuse) and keeps what it saw."""

    address: str = ""
    answer: Answer = _serve_at_once
    inputs: list[tuple[str, str, tuple[int, ...]]] = field(default_factory=lambda: [("text", "BYTES", (-1,))])
    metadata_error: errors.PartywallError | None = None
    seen: list[object] = field(default_factory=list)
    keys: set[str] = field(default_factory=set)
    peers: set[str] = field(default_factory=set)

    async def infer(self, raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        request = ModelInferRequest.FromString(raw)
        self.seen.append(request)
        self.keys |= {str(v) for k, v in context.invocation_metadata() or () if k == "authorization"}
        self.peers.add(context.peer())
        try:
            await self.answer(request)
        except errors.PartywallError as error:
            await context.abort_with_status(to_status(error))
        return bytes(ModelInferResponse(model_name=request.model_name).SerializeToString())

    async def metadata(self, _: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        if self.metadata_error is not None:
            await context.abort_with_status(to_status(self.metadata_error))
        reply = ModelMetadataResponse(name="m")
        for name, datatype, shape in self.inputs:
            reply.inputs.add(name=name, datatype=datatype, shape=shape)
        return bytes(reply.SerializeToString())


@asynccontextmanager
async def serving(credentials: grpc.ServerCredentials | None = None) -> AsyncIterator[FakeServer]:
    """The server on a free loopback port."""
    fake = FakeServer()
    running = grpc.aio.server()
    running.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(
                SERVICE_NAME,
                {
                    "ModelInfer": grpc.unary_unary_rpc_method_handler(fake.infer),
                    "ModelMetadata": grpc.unary_unary_rpc_method_handler(fake.metadata),
                },
            ),
        )
    )
    any_port = "127.0.0.1:0"
    secure = credentials is not None
    port = running.add_secure_port(any_port, credentials) if secure else running.add_insecure_port(any_port)
    fake.address = f"127.0.0.1:{port}"
    await running.start()
    yield fake
    await running.stop(None)
