"""numpy arrays to and from the Open Inference Protocol's raw contents.

Raw contents are the little-endian elements in C order. `BYTES` elements are each a 4-byte length and that many bytes.
"""

from __future__ import annotations

import importlib
import math
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from partywall.errors import InvalidInput, Reason

Array = npt.NDArray[Any]
TensorInput = Array | Sequence[str] | Sequence[bytes]

DTYPES: Mapping[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
}
_DATATYPES = {dtype.str: name for name, dtype in DTYPES.items()}
_CONTENTS = {
    "BOOL": "bool_contents",
    **dict.fromkeys(("UINT8", "UINT16", "UINT32"), "uint_contents"),
    "UINT64": "uint64_contents",
    **dict.fromkeys(("INT8", "INT16", "INT32"), "int_contents"),
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
_LENGTH = struct.Struct("<I")


def as_array(name: str, value: TensorInput) -> Array:
    """The array to send: an array as it is, a list of str or bytes as a one-dimensional array of objects.

    Raises:
        InvalidInput: Anything else; a list of numbers has no certain element type.
    """
    if isinstance(value, np.ndarray):
        return value
    if isinstance(value, (list, tuple)) and value and all(isinstance(item, (str, bytes)) for item in value):
        out = np.empty(len(value), dtype=object)
        out[:] = value
        return out
    raise _invalid(
        name, f"must be a numpy array or a list of strings, got {_describe(value)}; wrap numbers in numpy.array(...)"
    )


def datatype_of(name: str, array: Array) -> str:
    """The protocol's name of an array's element type.

    Raises:
        InvalidInput: The protocol has no such type; the message says what to convert to.
    """
    if array.dtype.kind in "OSU":
        return "BYTES"
    if array.dtype.name == "bfloat16":
        return "BF16"
    found = _DATATYPES.get(array.dtype.newbyteorder("<").str)
    if found is None:
        known = ", ".join(dtype.name for dtype in DTYPES.values())
        raise _invalid(name, f"has dtype {array.dtype}, which the protocol cannot carry; convert it to one of {known}")
    return found


def to_raw(name: str, array: Array) -> bytes:
    """Raw contents of an array: one copy, none where the array lies as the wire wants it."""
    if datatype_of(name, array) == "BYTES":
        return _bytes_to_raw(name, array)
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and _BIG_ENDIAN):
        array = array.astype(array.dtype.newbyteorder("<"))
    return array.tobytes()


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: bytes) -> Array:
    """The array behind raw contents: a read-only view of them, except for BYTES (an array of `bytes` objects).

    Raises:
        InvalidInput: The contents do not fit datatype and shape.
    """
    if datatype == "BYTES":
        return _bytes_from_raw(name, shape, raw)
    dtype = _bfloat16(name) if datatype == "BF16" else DTYPES.get(datatype)
    if dtype is None:
        raise _invalid(name, f"has the unknown datatype {datatype!r}")
    expected = math.prod(shape) * dtype.itemsize
    if any(size < 0 for size in shape) or expected != len(raw):
        raise _invalid(name, f"of {datatype} {list(shape)} needs {expected} bytes, got {len(raw)}")
    return np.frombuffer(raw, dtype=dtype).reshape(tuple(shape))


def from_contents(name: str, datatype: str, shape: Sequence[int], contents: Any) -> Array:
    """The array behind typed contents, which some servers send instead of raw ones."""
    field = _CONTENTS.get(datatype)
    if field is None:
        raise _invalid(name, f"of {datatype} came without raw contents")
    values = getattr(contents, field)
    array = np.empty(len(values), dtype=object) if datatype == "BYTES" else np.empty(len(values), DTYPES[datatype])
    array[:] = values
    if math.prod(shape) != array.size:
        raise _invalid(name, f"of shape {list(shape)} came with {array.size} elements")
    return array.reshape(tuple(shape))


def _bytes_to_raw(name: str, array: Array) -> bytes:
    parts: list[bytes] = []
    for item in array.ravel().tolist():
        if isinstance(item, str):
            item = item.encode()
        elif not isinstance(item, bytes):
            raise _invalid(name, f"is an array of objects and may hold only str and bytes, found {_describe(item)}")
        parts.append(_LENGTH.pack(len(item)))
        parts.append(item)
    return b"".join(parts)


def _bytes_from_raw(name: str, shape: Sequence[int], raw: bytes) -> Array:
    items: list[bytes] = []
    at = 0
    while at < len(raw):
        end = at + _LENGTH.size
        if end <= len(raw):
            (length,) = _LENGTH.unpack_from(raw, at)
            at, end = end, end + length
        if end > len(raw):
            raise _invalid(name, f"of BYTES breaks off in element {len(items)}")
        items.append(raw[at:end])
        at = end
    if any(size < 0 for size in shape) or math.prod(shape) != len(items):
        raise _invalid(name, f"of BYTES {list(shape)} came with {len(items)} elements")
    array = np.empty(len(items), dtype=object)
    array[:] = items
    return array.reshape(tuple(shape))


def _bfloat16(name: str) -> np.dtype[Any]:
    try:
        extended = importlib.import_module("ml_dtypes")
    except ModuleNotFoundError:
        raise _invalid(name, "is BF16, which numpy lacks; install ml_dtypes or let the model return FP32") from None
    dtype: np.dtype[Any] = np.dtype(extended.bfloat16)
    return dtype


def _describe(value: object) -> str:
    if isinstance(value, (list, tuple)):
        inner = type(value[0]).__name__ if value else "nothing"
        return f"a {type(value).__name__} of {inner}"
    return type(value).__name__


def _invalid(name: str, rest: str) -> InvalidInput:
    return InvalidInput(f"tensor {name!r} {rest}", reason=Reason.INVALID_TENSOR, fields={"tensor": name})


_BIG_ENDIAN = np.dtype("=i4") == np.dtype(">i4")
