"""Contents of the Open Inference Protocol's tensors to numpy.

Encodings follow the protocol's "Tensor Data Types" and raw contents: little-endian, row-major; BYTES elements carry
four bytes of length. FP16 and BF16 exist only as raw contents.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from isolation.engine import Array
from partywall.errors import InvalidInput, Reason

DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype(np.bool_),
    "UINT8": np.dtype("<u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("<i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "BF16": np.dtype("V2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BYTES": np.dtype(object),
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
_CONTENTS = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_LENGTH = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Layout:
    """An input that has passed all checks but that of its bytes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size_bytes: int


def from_raw(layout: Layout, raw: bytes | memoryview) -> Array:
    if layout.dtype == object:
        return bytes_array(layout.name, raw, math.prod(layout.shape)).reshape(layout.shape)
    if len(raw) != layout.size_bytes:
        raise bad_tensor(
            layout.name,
            f"input {layout.name!r}: {DATATYPES[layout.dtype]} of shape {list(layout.shape)} needs {layout.size_bytes} "
            f"bytes of raw contents, given {len(raw)}",
            expected=str(layout.size_bytes),
            given=str(len(raw)),
        )
    array: Array = np.ndarray(layout.shape, layout.dtype, raw)
    return array


def typed(layout: Layout, datatype: str, contents: Any) -> Array:
    name, shape, count = layout.name, layout.shape, math.prod(layout.shape)
    field = _CONTENTS.get(datatype)
    if field is None:
        raise bad_tensor(name, f"input {name!r}: {datatype} travels only in raw_input_contents; send it there")
    values = getattr(contents, field)
    if len(values) != count:
        raise bad_tensor(
            name,
            f"input {name!r}: shape {list(shape)} needs {count} elements in {field}, given {len(values)}",
            expected=str(count),
            given=str(len(values)),
        )
    if datatype == "BYTES":
        return _object_array(list(values)).reshape(shape)
    wide: Array = np.array(values)
    if layout.dtype.kind in "iu" and count and not np.array_equal(wide.astype(layout.dtype), wide):
        raise bad_tensor(name, f"input {name!r}: a value does not fit {datatype}; choose a wider datatype")
    return wide.astype(layout.dtype).reshape(shape)


def bytes_array(name: str, raw: bytes | memoryview, count: int) -> Array:
    elements: list[bytes] = []
    position, end = 0, len(raw)
    while position < end:
        if end - position < _LENGTH.size:
            raise bad_tensor(name, f"input {name!r}: BYTES contents end inside the length of element {len(elements)}")
        (length,) = _LENGTH.unpack_from(raw, position)
        position += _LENGTH.size
        if length > end - position:
            raise bad_tensor(
                name, f"input {name!r}: BYTES element {len(elements)} claims {length} bytes, {end - position} left"
            )
        elements.append(bytes(raw[position : position + length]))
        position += length
    if len(elements) != count:
        raise bad_tensor(
            name,
            f"input {name!r}: the shape needs {count} BYTES elements, the contents hold {len(elements)}",
            expected=str(count),
            given=str(len(elements)),
        )
    return _object_array(elements)


def _object_array(elements: Sequence[object]) -> Array:
    array = np.empty(len(elements), dtype=object)
    array[:] = elements
    return array


def bad_tensor(tensor: str, text: str, **fields: str) -> InvalidInput:
    """The error for a tensor that does not fit; `fields` are `expected` and `given`."""
    return InvalidInput(text, reason=Reason.INVALID_TENSOR, fields={"tensor": tensor, **fields})
