"""The Open Inference Protocol's requests to numpy, checked against a model's signature; `response` goes back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from isolation.engine import Array
from node_agent.worker.contents import (
    DTYPES,
    Layout,
    bad_tensor,
    from_raw,
    typed,
)
from partywall.domain.models import Signature, TensorSpec
from partywall.errors import InvalidInput
from partywall.wire.inference import ModelInferRequest
from partywall.wire.split import split_raw

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


class Decoder:
    """Reads and checks requests against what one model takes.

    Clients send the same names, types and shapes over and over: what was checked once is known by its serialised form.
    """

    _MOST_KNOWN = 1024

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._specs = {spec.name: spec for spec in signature.inputs}
        self._known: dict[bytes, Layout] = {}

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
            inputs[name] = from_raw(layout, raw[index])
        return inputs

    def _contents(self, tensor: Any) -> Array:
        return typed(self._layout(tensor), tensor.datatype, tensor.contents)

    def _layout(self, tensor: Any) -> Layout:
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
        return Layout(name, dtype, shape, math.prod(shape) * dtype.itemsize)


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


def _describe(spec: TensorSpec) -> str:
    return f"{spec.datatype} {list(spec.shape)}"
