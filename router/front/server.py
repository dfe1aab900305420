"""A gRPC server over the core's completion queue, with the handlers and the surface of `grpc.aio.Server`.

Handlers are what `grpc.*_rpc_method_handler` makes of coroutine functions and asynchronous generators; there are no
interceptors and no thread pool. What a call goes through: one request for the next call, one for the caller's end, one
for its message, one for the answer with its status: four completions, none of which wakes the loop if it is awake.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, NamedTuple

import grpc
import structlog

from partywall.errors import InternalError, InvalidInput
from partywall.wire.status import to_status
from router.front import core
from router.front.completions import Completions
from router.front.context import CallContext, CallerGone
from router.settings import Front

log = structlog.get_logger(__name__)

MOST_NAME = 200
"""Of a method's name in logs and replies: a stranger chose it."""
STOP_S = 5.0
"""For the core to end calls that were cancelled."""


_Call = Callable[[Any, Any], Any]
"""A handler's own function: (request or iterator, context)."""


class _Wanted(NamedTuple):
    """What a generic handler is asked with (`grpc.HandlerCallDetails`)."""

    method: str
    invocation_metadata: Any


def front_server(
    front: Front, options: Sequence[tuple[str, Any]], lacking: Sequence[str] | None = None
) -> FrontServer | grpc.aio.Server:
    """The public port's server; `grpc.aio` where it was asked for, or where this gRPC is `lacking` what ours is made
    of (None: look)."""
    lacking = core.missing() if lacking is None else lacking
    if front is Front.CORE and lacking:
        log.warning("this release of grpcio lacks what the router's own server needs: grpc.aio serves", lacking=lacking)
    elif front is Front.CORE:
        return FrontServer(options)
    return grpc.aio.server(options=options)


class FrontServer:
    """Bound to the loop that it is started in."""

    def __init__(self, options: Sequence[tuple[str, Any]] = ()) -> None:
        self._core, self._queue = core.new_server(options)
        self._completions = Completions(self._queue)
        self._handlers: list[grpc.GenericRpcHandler] = []
        self._running: set[asyncio.Task[None]] = set()
        self._started = self._stopping = False
        self._stopped = asyncio.Event()

    def add_generic_rpc_handlers(self, handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        """The first one that knows a method serves it."""
        self._handlers.extend(handlers)

    def add_registered_method_handlers(
        self, service: str, methods: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Part of the generated code's interface, which adds the same methods as generic handlers too."""

    def add_insecure_port(self, address: str) -> int:
        """The port, 0 where it could not be opened."""
        return self._core.add_http2_port(address.encode())

    def add_secure_port(self, address: str, credentials: grpc.ServerCredentials) -> int:
        """The port, 0 where it could not be opened."""
        return self._core.add_http2_port(address.encode(), core.inner(credentials))

    @property
    def running(self) -> int:
        """Handlers that have not ended."""
        return len(self._running)

    async def start(self) -> None:
        """Serves from now on."""
        self._loop = asyncio.get_running_loop()
        self._started = True
        self._core.start()
        self._completions.start()
        self._ask()

    async def stop(self, grace: float | None) -> None:
        """Takes no new calls, lets those that run finish for `grace` seconds, and cancels what is left then."""
        if not self._started or self._stopping:
            return
        self._stopping = True
        self._core.shutdown(self._queue, lambda event: self._stopped.set())
        if grace:
            await self._ended_within(grace)
        self._core.cancel_all_calls()
        for task in list(self._running):
            task.cancel()
        if not await self._ended_within(STOP_S):
            log.error("calls did not end", calls=self.running)
            return
        self._core.destroy()
        if not await self._completions.stop(STOP_S):
            log.error("completions did not end")

    async def _ended_within(self, seconds: float) -> bool:
        try:
            await asyncio.wait_for(self._stopped.wait(), seconds)
        except TimeoutError:
            return False
        return True

    # -- one call ------------------------------------------------------------------------------------------------

    def _ask(self) -> None:
        self._core.request_call(self._queue, self._queue, self._arrived)

    def _arrived(self, event: Any) -> None:
        if not event.success:
            return  # The server is being stopped: no call came with this.
        if not self._stopping:
            self._ask()
        context = CallContext(event, self._loop)
        context.core.start_server_batch((core.ReceiveClose(core.NO_FLAGS),), context.on_close)
        try:
            self._route(context, _Wanted(event.call_details.method.decode(errors="replace"), event.invocation_metadata))
        except Exception:
            log.exception("call not routed", method=repr(event.call_details.method[:MOST_NAME]))
            _refuse(context, InternalError("the router failed on this call; its log has the cause"))

    def _route(self, context: CallContext, wanted: _Wanted) -> None:
        handler: Any = self._handler(wanted)
        if handler is None:
            context.end(grpc.StatusCode.UNIMPLEMENTED, f"no service of this port has {wanted.method[:MOST_NAME]}")
        elif handler.request_streaming:
            context.deserialize, context.serialize = handler.request_deserializer, handler.response_serializer
            call = handler.stream_stream if handler.response_streaming else handler.stream_unary
            self._serve(context, wanted.method, call, context, handler.response_streaming)
        else:
            receive = core.ReceiveMessage(core.NO_FLAGS)
            context.core.start_server_batch(
                (receive,), lambda event: self._received(context, handler, wanted.method, receive.message())
            )

    def _handler(self, wanted: _Wanted) -> grpc.RpcMethodHandler[Any, Any] | None:
        for generic in self._handlers:
            found = generic.service(wanted)  # type: ignore[arg-type]
            if found is not None:
                return found
        return None

    def _received(self, context: CallContext, handler: Any, method: str, raw: bytes | None) -> None:
        """A unary request's message; None: its caller ended the call without one."""
        if context.done():
            return
        if raw is None:
            context.end(grpc.StatusCode.INTERNAL, f"{method} takes exactly one request message")
            return
        context.serialize = handler.response_serializer
        request: Any = raw
        if handler.request_deserializer is not None:
            try:
                request = handler.request_deserializer(raw)
            except Exception as error:  # Whatever a parser says of a stranger's bytes.
                log.info("request not readable", method=method, error=repr(error))
                _refuse(context, InvalidInput(f"the request is not the message that {method} takes"))
                return
        call = handler.unary_stream if handler.response_streaming else handler.unary_unary
        self._serve(context, method, call, request, handler.response_streaming)

    def _serve(self, context: CallContext, method: str, call: _Call, request: Any, streams: bool) -> None:
        context.task = task = self._loop.create_task(_served(context, method, call, request, streams))
        self._running.add(task)
        task.add_done_callback(self._running.discard)


async def _served(context: CallContext, method: str, call: _Call, request: Any, streams: bool) -> None:
    """Runs a handler to its end, and sends what it gives or how it failed."""
    try:
        given = call(request, context)
        if not streams:
            reply = await given
            context.answer(reply if context.serialize is None else context.serialize(reply))
        elif hasattr(given, "__aiter__"):
            async with aclosing(given):
                async for message in given:
                    await context.write(message)
            context.end_as_set()
        else:
            await given
            context.end_as_set()
    except (grpc.aio.AbortError, CallerGone):
        pass  # Its status is under way, or nobody would read one.
    except asyncio.CancelledError:
        context.end(grpc.StatusCode.CANCELLED, "the server ended this call")
        raise
    except Exception:
        if not context.done():
            log.exception("call failed", method=method)
            _refuse(context, InternalError("the router failed on this call; its log has the cause"))


def _refuse(context: CallContext, error: InvalidInput | InternalError) -> None:
    status: Any = to_status(error)
    context.end(status.code, status.details, status.trailing_metadata)
