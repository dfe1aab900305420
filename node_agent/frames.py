"""Messages on a byte stream: four bytes of length, little-endian, then the body."""

from __future__ import annotations

import struct

from partywall.errors import InternalError

_LENGTH = struct.Struct("<I")
PREFIX_BYTES = _LENGTH.size
# A stream that claims more is out of step, not generous.
MAX_FRAME_BYTES = 1 << 30


def encode(body: bytes) -> bytes:
    """One frame. A body over `MAX_FRAME_BYTES` is an InternalError."""
    if len(body) > MAX_FRAME_BYTES:
        raise InternalError(f"a frame of {len(body)} bytes is over the limit of {MAX_FRAME_BYTES}")
    return _LENGTH.pack(len(body)) + body


class FrameReader:
    """Cuts a stream of chunks into bodies. Keeps at most one incomplete frame."""

    def __init__(self) -> None:
        self._partial = bytearray()
        self._wanted = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The bodies that are complete now, in order.

        Raises:
            InternalError: The stream is out of step (a length over the limit).
        """
        if self._partial:
            self._partial += chunk
            if len(self._partial) < self._wanted:
                return []
            chunk = bytes(self._partial)
            self._partial.clear()
        bodies: list[bytes] = []
        position, end = 0, len(chunk)
        while end - position >= PREFIX_BYTES:
            (length,) = _LENGTH.unpack_from(chunk, position)
            if length > MAX_FRAME_BYTES:
                raise InternalError(f"a frame claims {length} bytes: the stream is out of step")
            start = position + PREFIX_BYTES
            if end - start < length:
                self._wanted = PREFIX_BYTES + length
                self._partial += memoryview(chunk)[position:]
                return bodies
            bodies.append(chunk[start : start + length])
            position = start + length
        if position < end:
            self._wanted = PREFIX_BYTES
            self._partial += memoryview(chunk)[position:]
        return bodies
