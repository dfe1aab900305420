"""Frames of the agent link with large payloads beside the message, so that they are copied once on each side.

Serialising a message copies its bytes fields, parsing copies them again, and reading them a third time. A tail is the
frame's own field 21, written by hand before the rest: on the wire the frame is one plain protobuf message.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from partywall.wire.split import read_varint

M = TypeVar("M", bound=Message)

TAIL_ABOVE_BYTES = 32 << 10
"""Below, a copy costs less than the book-keeping."""
_TAG = b"\xaa\x01"
"""Field 21, length-delimited."""


class Tailed(NamedTuple, Generic[M]):
    """A parsed frame and its tails, which lie in the bytes that came."""

    frame: M
    tails: Sequence[memoryview]


def encode(frame: Message | bytes) -> bytes:
    """A message, or what `join` made."""
    return frame if isinstance(frame, bytes) else frame.SerializeToString()


def join(frame: Message, tails: Sequence[bytes | memoryview]) -> bytes:
    """The serialised frame with its tails; each is copied once."""
    parts: list[bytes | memoryview] = []
    for tail in tails:
        parts += (_TAG, _varint(len(tail)), tail)
    return b"".join((*parts, frame.SerializeToString()))


def decoder(parse: Callable[[bytes], M]) -> Callable[[bytes | bytearray], Tailed[M]]:
    """How frames of one kind are read, `parse` being the message's `FromString`.

    The result raises ValueError or IndexError for a tail that is cut off, and what `parse` raises.
    """

    def decode(data: bytes | bytearray) -> Tailed[M]:
        if not data.startswith(_TAG):
            return Tailed(parse(bytes(data)), ())
        view, position, tails = memoryview(data), 0, list[memoryview]()
        while data.startswith(_TAG, position):
            length, start = read_varint(view, position + len(_TAG))
            position = start + length
            if position > len(data):
                raise ValueError("truncated frame")
            tails.append(view[start:position])
        return Tailed(parse(bytes(view[position:])), tails)

    return decode


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
