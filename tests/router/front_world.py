"""One service with handlers of all four kinds, on either server of the public port, and a channel to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import grpc

from router.front.server import front_server
from router.servers import options
from router.settings import Front

LIMIT = 64 << 10
WAIT_S = 10.0
SERVICE = "test.Front"


@dataclass
class Seen:
    """What handlers noticed."""

    started: asyncio.Event = field(default_factory=asyncio.Event)
    cancelled: asyncio.Event = field(default_factory=asyncio.Event)
    release: asyncio.Event = field(default_factory=asyncio.Event)
    remaining: list[float | None] = field(default_factory=list)
    written: int = 0
    ended: int = 0


class Handlers:
    """Bytes in, bytes out."""

    def __init__(self, seen: Seen) -> None:
        self.seen = seen

    async def echo(self, request: bytes, context: Any) -> bytes:
        return request

    async def terms(self, request: bytes, context: Any) -> bytes:
        self.seen.remaining.append(context.time_remaining())
        context.set_trailing_metadata((("x-trailing", "there"),))
        who = dict(context.invocation_metadata())
        return f"{who['x-who']} {who['x-data-bin'].hex()} {context.peer().partition(':')[0]}".encode()

    async def refuse(self, request: bytes, context: Any) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "no such thing", (("x-why", "gone"),))
        raise AssertionError("abort returned")

    async def set_only(self, request: bytes, context: Any) -> bytes:
        context.set_code(grpc.StatusCode.FAILED_PRECONDITION)
        context.set_details("not today")
        return b""

    async def fail(self, request: bytes, context: Any) -> bytes:
        raise ValueError("a defect")

    async def wait(self, request: bytes, context: Any) -> bytes:
        self.seen.started.set()
        try:
            await self.seen.release.wait()
        except asyncio.CancelledError:
            self.seen.cancelled.set()
            raise
        return b"waited"

    async def count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        try:
            for number in range(int(request)):
                self.seen.written = number
                yield b"%d" % number
        finally:
            self.seen.ended += 1

    async def flood(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        for number in range(int(request)):
            self.seen.written = number
            yield bytes(32 << 10)

    async def total(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        return b"%d" % sum([int(raw) async for raw in requests])

    async def talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        async for raw in requests:
            if raw == b"bad":
                await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "bad word")
            yield b"re: " + raw

    async def write(self, request: bytes, context: Any) -> None:
        await context.send_initial_metadata((("x-first", "yes"),))
        await context.write(b"one")
        await context.write(b"two")

    async def double(self, request: int, context: Any) -> int:
        return 2 * request


def service(seen: Seen) -> grpc.GenericRpcHandler:
    """All of them, by their names."""
    of = Handlers(seen)
    unary, streamed = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
    methods: dict[str, Any] = {
        **{call.__name__: unary(call) for call in (of.echo, of.terms, of.refuse, of.set_only, of.fail, of.wait)},
        **{call.__name__: streamed(call) for call in (of.count, of.flood, of.write)},
        "double": unary(of.double, request_deserializer=int, response_serializer=lambda value: b"%d" % value),
        "total": grpc.stream_unary_rpc_method_handler(of.total),
        "talk": grpc.stream_stream_rpc_method_handler(of.talk),
    }
    return grpc.method_handlers_generic_handler(SERVICE, methods)


@dataclass
class World:
    """A running server, what its handlers saw, and a channel."""

    server: Any
    seen: Seen
    channel: grpc.aio.Channel
    address: str

    async def unary(self, method: str, request: bytes = b"", **how: Any) -> bytes:
        call: Any = self.channel.unary_unary(f"/{SERVICE}/{method}")
        answer: bytes = await call(request, **{"timeout": WAIT_S, **how})
        return answer

    def call(self, path: str, request: bytes = b"", **how: Any) -> Any:
        """A unary call in its own right; `path` with its service."""
        call: Any = self.channel.unary_unary(path)
        return call(request, **{"timeout": WAIT_S, **how})

    async def total(self, *numbers: bytes) -> bytes:
        call: Any = self.channel.stream_unary(f"/{SERVICE}/total")
        answer: bytes = await call(iter(numbers), timeout=WAIT_S)
        return answer

    def streamed(self, method: str, request: bytes, **how: Any) -> Any:
        call: Any = self.channel.unary_stream(f"/{SERVICE}/{method}")
        return call(request, **{"timeout": WAIT_S, **how})

    def stream_stream(self, method: str, **how: Any) -> Any:
        return self.channel.stream_stream(f"/{SERVICE}/{method}")(**{"timeout": WAIT_S, **how})


@asynccontextmanager
async def front_world(front: Front, **how: Any) -> AsyncIterator[World]:
    """Ends the server by itself."""
    seen = Seen()
    server = front_server(front, options(LIMIT, **how))
    server.add_generic_rpc_handlers([service(seen)])
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    async with grpc.aio.insecure_channel(address) as channel:
        try:
            yield World(server, seen, channel, address)
        finally:
            seen.release.set()
            await server.stop(0)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    """How a call ended that must not succeed."""
    try:
        await asyncio.wait_for(call, WAIT_S)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the call succeeded")
