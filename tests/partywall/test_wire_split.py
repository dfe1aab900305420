"""A request cut apart reads as the whole one does, whatever its order of fields."""

from __future__ import annotations

import random

import pytest

from partywall.wire.inference import ModelInferRequest
from partywall.wire.split import split_raw


def length_delimited(tag: int, data: bytes) -> bytes:
    size, out = len(data), bytearray([tag])
    while size > 0x7F:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes(out) + bytes([size]) + data


def pieces(seed: int) -> list[bytes]:
    """Fields of a request in any order; unknown ones and ones that look like raw contents among them."""
    source = random.Random(seed)
    tensor = ModelInferRequest.InferInputTensor(name="x", datatype="INT8", shape=[source.randrange(300)])
    fields = [
        length_delimited(0x0A, b"model"),
        length_delimited(0x1A, b"id"),
        length_delimited(0x2A, tensor.SerializeToString()),
        *(length_delimited(0x3A, source.randbytes(source.choice((0, 1, 127, 128, 70_000)))) for _ in range(3)),
        # An unknown field whose own bytes are a raw field: it is not one.
        length_delimited(0x7A, length_delimited(0x3A, b"not raw contents")),
        # Field 7 as a number is an unknown field too.
        bytes([0x38, 0x05]),
        bytes([0x81, 0x01]) + source.randbytes(8),
        bytes([0x85, 0x01]) + source.randbytes(4),
    ]
    source.shuffle(fields)
    return fields


@pytest.mark.parametrize("seed", range(20))
def test_the_parts_are_the_whole(seed: int) -> None:
    data = b"".join(pieces(seed))
    whole = ModelInferRequest.FromString(data)
    head, raw = split_raw(memoryview(data))
    assert [bytes(one) for one in raw] == list(whole.raw_input_contents)
    rest = ModelInferRequest.FromString(head)
    assert not rest.raw_input_contents
    whole.ClearField("raw_input_contents")
    assert rest.SerializeToString(deterministic=True) == whole.SerializeToString(deterministic=True)


@pytest.mark.parametrize("data", [b"\x3a\x05abc", b"\x3a", b"\x0b\x0c", b"\x80" * 11, b"\x3a\xff\xff\xff\xff\x0f"])
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        split_raw(memoryview(data))
