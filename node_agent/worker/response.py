"""numpy to the Open Inference Protocol's responses."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from isolation.engine import Array
from node_agent.worker.contents import DATATYPES
from partywall.wire.inference import ModelInferResponse

_LENGTH = struct.Struct("<I")
# Fields 6 and 3 of the response, length-delimited.
_RAW_TAG = b"\x32"
_ID_TAG = b"\x1a"
_ONE_BYTE = [bytes([value]) for value in range(0x80)]
# Up to here a copy is cheaper than the views that avoid it.
_COPY_BYTES = 16 << 10


class ResponseWriter:
    """Serialises responses of one version. What repeats between requests is serialised once."""

    _MOST_CACHED = 256

    def __init__(self, model_name: str, model_version: str) -> None:
        self._names = ModelInferResponse(model_name=model_name, model_version=model_version).SerializeToString()
        self._heads: dict[tuple[Any, ...], bytes] = {}

    def write(self, request_id: str, outputs: Mapping[str, Array]) -> list[bytes | memoryview]:
        """The response as parts to be joined; large contents stay views of the arrays."""
        parts: list[bytes | memoryview] = [self._names]
        if request_id:
            encoded = request_id.encode()
            parts.append(_ID_TAG + _varint(len(encoded)) + encoded)
        key = tuple([(name, array.dtype, array.shape) for name, array in outputs.items()])
        head = self._heads.get(key)
        if head is None:
            head = self._head(outputs)
        parts.append(head)
        for array in outputs.values():
            data = encode_raw(array)
            parts.append(_RAW_TAG + _varint(len(data)))
            parts.append(data)
        return parts

    def _head(self, outputs: Mapping[str, Array]) -> bytes:
        message = ModelInferResponse()
        for name, array in outputs.items():
            message.outputs.add(name=name, datatype=DATATYPES[array.dtype], shape=array.shape)
        head: bytes = message.SerializeToString()
        if len(self._heads) >= self._MOST_CACHED:
            self._heads.clear()
        self._heads[tuple([(name, array.dtype, array.shape) for name, array in outputs.items()])] = head
        return head


def encode_raw(array: Array) -> bytes | memoryview:
    """Raw contents of one tensor: little-endian, row-major; a view of the array where it lies so already."""
    if array.dtype == object:
        parts: list[bytes] = []
        for element in array.reshape(-1):
            data = element if isinstance(element, bytes) else str(element).encode()
            parts += (_LENGTH.pack(len(data)), data)
        return b"".join(parts)
    if array.nbytes <= _COPY_BYTES:
        return array.tobytes()
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat.view(np.uint8).data


def _varint(value: int) -> bytes:
    if value < 0x80:
        return _ONE_BYTE[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
