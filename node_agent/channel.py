"""The agent's end of one worker: frames over a non-blocking stream socket, large payloads through two arenas."""

from __future__ import annotations

import asyncio
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from google.protobuf.message import DecodeError

from node_agent import frames
from node_agent.arena import DEFAULT_BYTES, INLINE_BYTES, Arena, Ring
from partywall.errors import PartywallError
from partywall.v1 import worker_pb2

_READ_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class WorkerEnds:
    """What goes to the worker: its socket and both arenas, as descriptors that the agent closes once they are sent."""

    socket: socket.socket
    to_worker: Arena
    from_worker: Arena

    def descriptors(self) -> list[int]:
        return [self.socket.fileno(), self.to_worker.fd, self.from_worker.fd]


class Channel:
    """Sends and receives whole messages; never blocks. Use from the loop's own thread only.

    Call `attach` once: from then on `on_message` gets every message in order and `on_close` exactly one call when the
    other side is gone or out of step.
    """

    def __init__(self, sock: socket.socket, to_worker: Arena, from_worker: Arena) -> None:
        self._socket = sock
        self._arena = from_worker
        self._to_worker = to_worker
        self._ring = Ring(to_worker)
        self._reader = frames.FrameReader()
        self._waiting: deque[memoryview] = deque()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._closed = False
        self._received = 0

    @classmethod
    def create(cls, arena_bytes: int = DEFAULT_BYTES) -> tuple[Channel, WorkerEnds]:
        """A channel and the ends that the worker gets."""
        ours, theirs = socket.socketpair()
        ours.setblocking(False)
        to_worker = Arena.create(arena_bytes, "partywall-to-worker")
        from_worker = Arena.create(arena_bytes, "partywall-from-worker")
        return cls(ours, to_worker, from_worker), WorkerEnds(theirs, to_worker, from_worker)

    @property
    def arena_mark(self) -> int:
        """Position after all payloads packed so far; goes to `release` when the worker is through with them."""
        return self._ring.mark

    def attach(
        self,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[worker_pb2.FromWorker], None],
        on_close: Callable[[str], None],
    ) -> None:
        self._loop = loop
        self._on_message = on_message
        self._on_close = on_close
        loop.add_reader(self._socket.fileno(), self._readable)

    def pack(self, payload: worker_pb2.Payload, data: bytes | memoryview) -> None:
        """Puts a payload into the message or, when it is large, into the arena; a full arena falls back to the
        message, so that nothing waits for space."""
        if len(data) > INLINE_BYTES:
            offset = self._ring.write([data], len(data))
            if offset is not None:
                payload.offset, payload.length = offset, len(data)
                return
        payload.inline = bytes(data)

    def release(self, mark: int) -> None:
        """The worker has read every payload packed before `mark`."""
        self._ring.release(mark)

    def unpack(self, payload: worker_pb2.Payload) -> bytes:
        """A payload of the worker's, copied out of shared memory. Raises InternalError for a place outside it."""
        if payload.length:
            return bytes(self._arena.read(payload.offset, payload.length))
        return payload.inline

    def consumed(self, mark: int) -> None:
        """Tells the worker that everything before `mark` has been copied."""
        self._arena.consumed = mark

    def send(self, message: worker_pb2.ToWorker) -> None:
        """Queues one message; on a closed channel it is dropped, `on_close` has said so."""
        if self._closed:
            return
        data = frames.encode(message.SerializeToString())
        if not self._waiting:
            try:
                sent = self._socket.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as failure:
                self._fail(f"writing to the worker failed: {failure}")
                return
            if sent == len(data):
                return
            self._waiting.append(memoryview(data)[sent:])
            self._running_loop().add_writer(self._socket.fileno(), self._writable)
            return
        self._waiting.append(memoryview(data))

    def drain(self) -> None:
        """Handles what the worker sent and nobody has read yet, up to the end of its stream."""
        before = -1
        while not self._closed and before != self._received:
            before = self._received
            self._readable()

    def close(self) -> None:
        """Closes the socket and unmaps; no callback follows. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._loop is not None and not self._loop.is_closed():
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
        self._waiting.clear()
        self._socket.close()
        self._to_worker.close()
        self._arena.close()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        if self._loop is None:
            raise RuntimeError("attach() comes before send()")
        return self._loop

    def _readable(self) -> None:
        try:
            chunk = self._socket.recv(_READ_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except ConnectionResetError:
            # It ended with unread batches in its socket.
            chunk = b""
        except OSError as failure:
            self._fail(f"reading from the worker failed: {failure}")
            return
        if not chunk:
            self._fail("the worker closed its socket")
            return
        self._received += len(chunk)
        try:
            for body in self._reader.feed(chunk):
                self._on_message(worker_pb2.FromWorker.FromString(body))
        except (PartywallError, DecodeError) as failure:
            # A worker that talks nonsense is as good as dead: its supervisor starts another.
            self._fail(f"the worker sent something unreadable: {failure}")

    def _writable(self) -> None:
        try:
            while self._waiting:
                sent = self._socket.send(self._waiting[0])
                if sent < len(self._waiting[0]):
                    self._waiting[0] = self._waiting[0][sent:]
                    return
                self._waiting.popleft()
        except (BlockingIOError, InterruptedError):
            return
        except OSError as failure:
            self._fail(f"writing to the worker failed: {failure}")
            return
        self._running_loop().remove_writer(self._socket.fileno())

    def _fail(self, why: str) -> None:
        if not self._closed:
            self.close()
            self._on_close(why)
