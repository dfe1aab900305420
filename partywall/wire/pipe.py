"""Messages over one connection of the loop's own (TLS or not): four bytes of length, little-endian, then the body.

A message on a gRPC stream costs hundreds of microseconds of CPU on each side, whatever it holds; here it costs tens. A
large body is received where it stays: nothing of it is copied again.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

from partywall.errors import Unavailable

_LENGTH = struct.Struct("<I")
_BUFFER_BYTES = 256 << 10
_AT_ONCE_BYTES = 64 << 10
"""Up to here length and body are joined: one copy is cheaper than a second write."""
_UNREAD_BYTES = 8 << 20
"""Received and not yet read; above, the other side has to wait."""
_UNSENT_BYTES = 1 << 20
MAX_BODY_BYTES = 1 << 30

Body = bytes | bytearray


class FramePipe(asyncio.BufferedProtocol):
    """Both directions of one connection; a protocol for `loop.create_connection` and `loop.create_server`.

    One task may read and one may write at a time.
    """

    def __init__(
        self, on_open: Callable[[FramePipe], None] = lambda pipe: None, *, first_body_bytes: int = MAX_BODY_BYTES
    ) -> None:
        """`first_body_bytes`: the most that the first body may have, while nobody knows who is there."""
        self._on_open = on_open
        self._max_body_bytes = first_body_bytes
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._end = 0
        self._large: bytearray | None = None
        self._filled = 0
        self._bodies: deque[Body] = deque()
        self._unread = 0
        self._reader: asyncio.Future[None] | None = None
        self._writer: asyncio.Future[None] | None = None
        self._reading, self._writable, self._closed = True, True, False

    @property
    def transport(self) -> asyncio.Transport:
        """The connection; RuntimeError before there is one."""
        if self._transport is None:
            raise RuntimeError("not connected yet")
        return self._transport

    async def read(self) -> Body | None:
        """The next body, in order; None once the other side is gone."""
        while not self._bodies:
            if self._closed:
                return None
            self._reader = asyncio.get_running_loop().create_future()
            try:
                await self._reader
            finally:
                self._reader = None
        body = self._bodies.popleft()
        self._unread -= len(body)
        if not self._reading and self._unread <= _UNREAD_BYTES and not self._closed:
            self._reading = True
            self.transport.resume_reading()
        return body

    async def write(self, body: bytes) -> None:
        """Sends one body; waits while the other side takes nothing.

        Raises:
            Unavailable: The connection is broken, or breaks while this waits.
        """
        if self._closed:
            raise _broken()
        if len(body) <= _AT_ONCE_BYTES:
            self.transport.write(_LENGTH.pack(len(body)) + body)
        else:
            self.transport.write(_LENGTH.pack(len(body)))
            # TLS encrypts into a buffer of its own before anything is sent: small pieces keep it small.
            view = memoryview(body)
            for start in range(0, len(body), _AT_ONCE_BYTES):
                self.transport.write(view[start : start + _AT_ONCE_BYTES])
        while not self._writable:
            self._writer = asyncio.get_running_loop().create_future()
            try:
                await self._writer
            finally:
                self._writer = None
            if self._closed:
                raise _broken()

    def close(self) -> None:
        """Ends the connection; what was written and not sent yet is lost. Idempotent."""
        if self._transport is not None:
            self._transport.abort()

    # What the loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # uvloop's transports are asyncio's by shape, not by class.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=_UNSENT_BYTES)
        self._on_open(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._large is not None:
            return memoryview(self._large)[self._filled :]
        return self._view[self._end :]

    def buffer_updated(self, nbytes: int) -> None:
        if self._large is not None:
            self._filled += nbytes
            if self._filled == len(self._large):
                large, self._large = self._large, None
                self._deliver(large)
            return
        self._end += nbytes
        self._cut()

    def pause_writing(self) -> None:
        self._writable = False

    def resume_writing(self) -> None:
        self._writable = True
        _wake(self._writer)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed = True
        # asyncio takes a TLS transport that the other side ended for one that was forgotten.
        self.close()
        _wake(self._reader)
        _wake(self._writer)

    def _cut(self) -> None:
        """Takes whole bodies out of the buffer; the beginning of another moves to its front."""
        position, end, view = 0, self._end, self._view
        while end - position >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(view, position)
            start = position + _LENGTH.size
            if length > self._max_body_bytes:
                # Out of step, or not one of ours.
                self.close()
                return
            if end - start >= length:
                self._deliver(bytes(view[start : start + length]))
                position = start + length
                continue
            if _LENGTH.size + length > _BUFFER_BYTES:
                self._large = bytearray(length)
                self._filled = end - start
                self._large[: self._filled] = view[start:end]
                self._end = 0
                return
            break
        rest = end - position
        if position and rest:
            view[:rest] = bytes(view[position:end])
        self._end = rest

    def _deliver(self, body: Body) -> None:
        self._max_body_bytes = MAX_BODY_BYTES
        self._bodies.append(body)
        self._unread += len(body)
        if self._reading and self._unread > _UNREAD_BYTES:
            self._reading = False
            self.transport.pause_reading()
        _wake(self._reader)


def _wake(waiter: asyncio.Future[None] | None) -> None:
    if waiter is not None and not waiter.done():
        waiter.set_result(None)


def _broken() -> Unavailable:
    return Unavailable("the connection of the link broke")
