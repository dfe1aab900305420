"""The Open Inference Protocol's requests to numpy; `response` goes the other way.

Names and encodings follow the protocol's "Tensor Data Types" and raw contents: little-endian, row-major; BYTES elements
carry four bytes of length. FP16 and BF16 exist only as raw contents.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from isolation.engine import Array
from partywall.domain.models import Signature, TensorSpec
from partywall.errors import InvalidInput, Reason
from partywall.wire.inference import ModelInferRequest
from partywall.wire.split import split_raw

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
# Longer than any honest name, type and shape: not worth remembering.
_MOST_KEY_BYTES = 1024


@dataclass(slots=True)
class Request:
    """One decoded request. `outputs` empty: all of them. `rows` is the first dimension, 0 without a batch."""

    id: str
    inputs: dict[str, Array]
    outputs: tuple[str, ...]
    rows: int


def parse(data: bytes | memoryview) -> tuple[Any, Sequence[bytes | memoryview]]:
    """The request message and its raw contents. Of a view the raw contents stay where they are (no copy).

    Raises:
        InvalidInput: Not a `ModelInferRequest`.
    """
    try:
        if isinstance(data, bytes):
            message = ModelInferRequest.FromString(data)
            return message, message.raw_input_contents
        head, raw = split_raw(data)
        return ModelInferRequest.FromString(head), raw
    except (DecodeError, ValueError, IndexError) as failure:
        raise InvalidInput(f"the request is not a ModelInferRequest: {failure}") from failure


@dataclass(frozen=True, slots=True)
class _Layout:
    """An input that has passed all checks but that of its bytes."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size_bytes: int


class Decoder:
    """Reads and checks requests against what one model takes.

    Clients send the same names, types and shapes over and over: what was checked once is known by its serialised form.
    """

    _MOST_KNOWN = 1024

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._known: dict[bytes, _Layout] = {}

    def decode(self, data: bytes | memoryview) -> Request:
        """One request. Arrays are read-only views where that is possible.

        Raises:
            InvalidInput: Names the tensor, what was expected and what was given.
        """
        message, raw = parse(data)
        tensors = message.inputs
        if len(raw):
            inputs = self._raw_inputs(tensors, raw)
        else:
            inputs = {}
            for tensor in tensors:
                _refuse_twice(inputs, tensor.name)
                inputs[tensor.name] = self._contents(tensor)
        if len(inputs) < len(self._specs):
            name = min(self._specs.keys() - inputs.keys())
            raise bad_tensor(
                name, f"input {name!r} is missing: expected {_describe(self._specs[name])}; add it to the request"
            )
        outputs = tuple([o.name for o in message.outputs]) if len(message.outputs) else ()
        if outputs and not self._signature.open:
            _check_outputs(outputs, self._signature)
        return Request(message.id, inputs, outputs, _rows(inputs, self._signature))

    def _raw_inputs(self, tensors: Any, raw: Sequence[bytes | memoryview]) -> dict[str, Array]:
        if len(raw) != len(tensors):
            raise bad_tensor(
                "inputs", f"{len(tensors)} inputs with {len(raw)} raw contents; give one for each input, in order"
            )
        inputs: dict[str, Array] = {}
        # By index: iterating over a message's container costs several times as much.
        for index in range(len(raw)):
            tensor = tensors[index]
            key = tensor.SerializeToString()
            layout = self._known.get(key)
            if layout is None:
                layout = self._layout(tensor)
                if len(self._known) >= self._MOST_KNOWN:
                    self._known.clear()
                if len(key) < _MOST_KEY_BYTES:
                    self._known[key] = layout
            name = layout.name
            if name in inputs:
                _refuse_twice(inputs, name)
            inputs[name] = _from_raw(layout, raw[index])
        return inputs

    def _contents(self, tensor: Any) -> Array:
        return _typed(self._layout(tensor), tensor.datatype, tensor.contents)

    def _layout(self, tensor: Any) -> _Layout:
        name, datatype, shape = tensor.name, tensor.datatype, tuple(tensor.shape)
        if not self._signature.open:
            _check_spec(self._specs.get(name), name, datatype, shape, self._specs)
        dtype = DTYPES.get(datatype)
        if dtype is None:
            raise bad_tensor(name, f"input {name!r}: datatype {datatype!r} is unknown; use one of {', '.join(DTYPES)}")
        if shape and min(shape) < 0:
            raise bad_tensor(
                name, f"input {name!r}: shape {list(shape)} has a negative dimension", given=str(list(shape))
            )
        return _Layout(name, dtype, shape, math.prod(shape) * dtype.itemsize)


def _refuse_twice(inputs: Mapping[str, Array], name: str) -> None:
    if name in inputs:
        raise bad_tensor(name, f"input {name!r} is given twice; give it once")


def _check_spec(
    spec: TensorSpec | None, name: str, datatype: str, shape: tuple[int, ...], specs: Mapping[str, TensorSpec]
) -> None:
    if spec is None:
        raise bad_tensor(name, f"input {name!r} is not one of this model's: it takes {', '.join(specs) or 'none'}")
    if datatype != spec.datatype:
        raise bad_tensor(
            name,
            f"input {name!r}: expected datatype {spec.datatype}, given {datatype or 'none'}; convert it first",
            expected=spec.datatype,
            given=datatype,
        )
    wanted = spec.shape
    if len(shape) != len(wanted) or any(w not in (-1, s) for w, s in zip(wanted, shape, strict=True)):
        raise bad_tensor(
            name,
            f"input {name!r}: expected shape {list(wanted)} (-1 is free), given {list(shape)}",
            expected=str(list(wanted)),
            given=str(list(shape)),
        )


def _check_outputs(outputs: Sequence[str], signature: Signature) -> None:
    known = {spec.name for spec in signature.outputs}
    for name in outputs:
        if name not in known:
            raise bad_tensor(name, f"output {name!r} is not one of this model's: it gives {', '.join(sorted(known))}")
    if len(set(outputs)) != len(outputs):
        raise bad_tensor(outputs[0], "an output is requested twice; name each once")


def _rows(inputs: Mapping[str, Array], signature: Signature) -> int:
    if signature.open:
        first = next(iter(inputs.values()), None)
        return int(first.shape[0]) if first is not None and first.ndim else 1
    if not signature.max_batch:
        return 0
    counts = {name: array.shape[0] for name, array in inputs.items()}
    rows = next(iter(counts.values()))
    for name, count in counts.items():
        if count != rows:
            raise bad_tensor(
                name, f"input {name!r} has {count} rows, the first input has {rows}; give all the same number"
            )
    if not 1 <= rows <= signature.max_batch:
        raise bad_tensor(
            next(iter(counts)),
            f"the request has {rows} rows, this model takes 1 to {signature.max_batch}; split or fill it",
            expected=f"1..{signature.max_batch}",
            given=str(rows),
        )
    return int(rows)


def _from_raw(layout: _Layout, raw: bytes | memoryview) -> Array:
    if layout.dtype == object:
        return _bytes_array(layout.name, raw, math.prod(layout.shape)).reshape(layout.shape)
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


def _typed(layout: _Layout, datatype: str, contents: Any) -> Array:
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


def _bytes_array(name: str, raw: bytes | memoryview, count: int) -> Array:
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


def _describe(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"


def bad_tensor(tensor: str, text: str, **fields: str) -> InvalidInput:
    """The error for a tensor that does not fit; `fields` are `expected` and `given`."""
    return InvalidInput(text, reason=Reason.INVALID_TENSOR, fields={"tensor": tensor, **fields})
