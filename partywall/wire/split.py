"""A serialised `inference.ModelInferRequest` apart from its raw contents, which may be megabytes and are not copied."""

from __future__ import annotations

_RAW_INPUT_TAG = 0x3A
"""Field 7 of the request, length-delimited: the raw tensor contents."""


def split_raw(data: memoryview) -> tuple[bytes, list[memoryview]]:
    """(all other fields, serialised as they came; views of the raw contents in order).

    Follows protobuf's encoding, so that parsing the first part gives what parsing the whole would have given, without
    `raw_input_contents`: fields may come in any order and unknown ones are kept.

    Raises:
        ValueError, IndexError: The bytes are no message, or hold a group (which no proto3 message does).
    """
    head, raw = bytearray(), []
    position, end = 0, len(data)
    while position < end:
        start = position
        tag, position = read_varint(data, position)
        kind = tag & 7
        length = 0
        if kind == 0:
            _, position = read_varint(data, position)
        elif kind == 2:
            length, position = read_varint(data, position)
            position += length
        elif kind in (1, 5):
            position += 8 if kind == 1 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position > end:
            raise ValueError("truncated message")
        if tag == _RAW_INPUT_TAG:
            raw.append(data[position - length : position])
        else:
            head += data[start:position]
    return bytes(head), raw


def read_varint(data: memoryview, position: int) -> tuple[int, int]:
    """(value, position after it) of a base-128 number.

    Raises:
        ValueError, IndexError: It does not end.
    """
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise ValueError("a varint of more than ten bytes")
