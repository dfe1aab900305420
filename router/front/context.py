"""One call as its handler sees it: the part of `grpc.aio.ServicerContext` that handlers of the public port use."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NoReturn

import grpc

from router.front import core

_NEVER_S = 1e12
"""Deadlines beyond this, in Unix seconds, are gRPC's word for none."""

Serialize = Callable[[Any], bytes]
Deserialize = Callable[[bytes], Any]
Metadata = core.Pairs


class CallerGone(grpc.aio.InternalError):
    """Something could not be sent, because nobody is left to read it: no failure of the handler's."""


class CallContext(grpc.aio.ServicerContext[Any, Any]):
    """Belongs to the loop. `task` is what serves the call; it is cancelled when the caller is gone or out of time."""

    def __init__(self, event: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.core: core.CoreCall = event.call
        self.task: asyncio.Task[None] | None = None
        self.deserialize: Deserialize | None = None
        self.serialize: Serialize | None = None
        self._loop = loop
        self._metadata: Metadata = event.invocation_metadata
        self._deadline_s: float = event.call_details.deadline
        self._gone = False
        self._began = False
        self._ended = False
        self._code: grpc.StatusCode | None = None
        self._details = ""
        self._trailing: Metadata = ()
        self._callbacks: list[Callable[[Any], None]] = []

    # -- what handlers ask ---------------------------------------------------------------------------------------

    def invocation_metadata(self) -> Any:
        return self._metadata

    def time_remaining(self) -> float | None:  # type: ignore[override,unused-ignore]
        """Seconds to the caller's deadline, None without one."""
        if self._deadline_s > _NEVER_S or math.isinf(self._deadline_s):
            return None
        return max(0.0, self._deadline_s - time.time())

    def peer(self) -> str:
        return self.core.peer().decode()

    def peer_identities(self) -> Iterable[bytes] | None:
        return None

    def peer_identity_key(self) -> str | None:
        return None

    def auth_context(self) -> Mapping[str, Iterable[bytes]]:
        """Empty: callers of the public port are known by their keys, never by a certificate."""
        return {}

    def code(self) -> Any:
        return self._code

    def details(self) -> str:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._trailing

    def set_code(self, code: grpc.StatusCode) -> None:
        self._code = code

    def set_details(self, details: str) -> None:
        self._details = details

    def set_trailing_metadata(self, trailing_metadata: Any) -> None:
        self._trailing = tuple(trailing_metadata)

    def cancelled(self) -> bool:
        return self._gone and not self._ended

    def done(self) -> bool:
        return self._gone or self._ended

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        self._callbacks.append(callback)

    def set_compression(self, compression: grpc.Compression) -> None:
        raise grpc.aio.UsageError("the public port does not compress")

    def disable_next_message_compression(self) -> None:
        """Nothing is compressed."""

    # -- what goes out -------------------------------------------------------------------------------------------

    async def send_initial_metadata(self, initial_metadata: Any) -> None:
        if self._began:
            raise grpc.aio.UsageError("initial metadata was sent before")
        self._began = True
        await self._done((core.SendInitialMetadata(tuple(initial_metadata), core.NO_FLAGS),))

    async def write(self, message: Any) -> None:
        """Sends one message of a stream; waits until the caller's flow control has taken it.

        Raises:
            CallerGone: There is no caller any more.
        """
        if self._ended:
            raise grpc.aio.UsageError("the call has ended")
        raw = message if self.serialize is None else self.serialize(message)
        await self._done((*self._opening(), core.SendMessage(raw, core.NO_FLAGS)))

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        self.end(code, details, tuple(trailing_metadata))
        raise grpc.aio.AbortError("aborted by its handler")

    async def abort_with_status(self, status: grpc.Status) -> NoReturn:
        await self.abort(status.code, status.details, status.trailing_metadata or ())

    def answer(self, raw: bytes) -> None:
        """A unary call's reply, with its status; the core keeps the bytes until the caller has taken them."""
        if self._ended or self._gone:
            return
        code = self._code or grpc.StatusCode.OK
        if code is not grpc.StatusCode.OK:
            self.end(code, self._details, self._trailing)
            return
        self._ended = True
        status = core.SendStatus(self._trailing or None, 0, self._details.encode(), core.NO_FLAGS)
        self.core.start_server_batch((*self._opening(), core.SendMessage(raw, core.NO_FLAGS), status), self._ignore)

    def end(self, code: grpc.StatusCode, details: str = "", trailing: Metadata = ()) -> None:
        """The call's status; nothing where it has one, or where nobody is left to read it."""
        if self._ended or self._gone:
            return
        self._ended = True
        self._code, self._details, self._trailing = code, details, trailing
        status = core.SendStatus(trailing or None, code.value[0], details.encode(), core.NO_FLAGS)
        self.core.start_server_batch((*self._opening(), status), self._ignore)

    def end_as_set(self) -> None:
        """The end of a stream, with the status that its handler has set; OK if none."""
        self.end(self._code or grpc.StatusCode.OK, self._details, self._trailing)

    # -- what comes in -------------------------------------------------------------------------------------------

    async def read(self) -> Any:
        """The next message of the caller's stream, `grpc.aio.EOF` after the last."""
        receive = core.ReceiveMessage(core.NO_FLAGS)
        arrived = await self._done((receive,), must=False)
        raw = receive.message() if arrived else None
        if raw is None:
            return grpc.aio.EOF
        return raw if self.deserialize is None else self.deserialize(raw)

    def __aiter__(self) -> CallContext:
        return self

    async def __anext__(self) -> Any:
        message = await self.read()
        if message is grpc.aio.EOF:
            raise StopAsyncIteration
        return message

    def on_close(self, event: Any) -> None:
        """The core's word that the call is over: answered, cancelled by its caller, or out of time."""
        self._gone = True
        if event.batch_operations[0].cancelled() and self.task is not None:
            self.task.cancel()
        for callback in self._callbacks:
            callback(self)

    # ------------------------------------------------------------------------------------------------------------

    def _opening(self) -> tuple[Any, ...]:
        if self._began:
            return ()
        self._began = True
        return (core.SendInitialMetadata(None, core.NO_FLAGS),)

    async def _done(self, operations: tuple[Any, ...], must: bool = True) -> bool:
        """Waits for a batch; answers whether the core could do it; CallerGone where it `must` and could not."""
        waiting: asyncio.Future[bool] = self._loop.create_future()

        def completed(event: Any) -> None:
            if not waiting.done():
                waiting.set_result(bool(event.success))

        self.core.start_server_batch(operations, completed)
        done = await waiting
        if must and not done:
            raise CallerGone("the caller is gone")
        return done

    @staticmethod
    def _ignore(event: Any) -> None:
        """A status that could not be sent has no reader: `on_close` has said so."""
