"""The agent link's frames, whichever way they travel: on the gRPC stream, or on a connection of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import grpc
from google.protobuf.message import Message

from partywall.wire.pipe import FramePipe
from partywall.wire.tails import Tailed, encode

M = TypeVar("M", bound=Message)
M_co = TypeVar("M_co", bound=Message, covariant=True)


class Frames(Protocol[M_co]):
    """Both directions of one link; `M_co` is what comes in."""

    async def read(self) -> Tailed[Any] | None:
        """The next frame; None when the other side has ended the link."""
        ...

    async def write(self, frame: Message | bytes) -> None:
        """Sends one frame, or a serialised one with tails; waits as the flow control wants it."""
        ...


class StreamFrames(Generic[M]):
    """Frames on a gRPC stream, of either side. `first` was read already."""

    def __init__(self, stream: Any, first: Tailed[M] | None = None) -> None:
        self._stream = stream
        self._first = first

    async def read(self) -> Tailed[M] | None:
        if self._first is not None:
            first, self._first = self._first, None
            return first
        opened: Any = await self._stream.read()
        return None if opened is grpc.aio.EOF else opened

    async def write(self, frame: Message | bytes) -> None:
        await self._stream.write(frame)


class PipeFrames(Generic[M]):
    """Frames on a connection of their own."""

    def __init__(self, pipe: FramePipe, decode: Callable[[bytes | bytearray], Tailed[M]]) -> None:
        self._pipe = pipe
        self._decode = decode

    async def read(self) -> Tailed[M] | None:
        body = await self._pipe.read()
        return None if body is None else self._decode(body)

    async def write(self, frame: Message | bytes) -> None:
        await self._pipe.write(encode(frame))
