"""Checks a request's tensors against a model's signature before any work is done on it."""

from __future__ import annotations

import math
from typing import Any

from partywall.domain.models import Signature, TensorSpec
from partywall.errors import InvalidInput, Reason

ITEM_BYTES = {
    "BOOL": 1,
    "INT8": 1,
    "UINT8": 1,
    "INT16": 2,
    "UINT16": 2,
    "FP16": 2,
    "BF16": 2,
    "INT32": 4,
    "UINT32": 4,
    "FP32": 4,
    "INT64": 8,
    "UINT64": 8,
    "FP64": 8,
}
"""Bytes of one element by datatype; BYTES elements carry their own length."""


def check_request(request: Any, signature: Signature, max_rows: int = 1 << 20) -> int:
    """Checks an `inference.ModelInferRequest`; answers its rows along the batch dimension.

    Raises:
        InvalidInput: INVALID_TENSOR, naming the tensor, what was expected and what came.
    """
    inputs = request.inputs
    raw = request.raw_input_contents
    if raw and len(raw) != len(inputs):
        raise _bad(
            f"raw_input_contents has {len(raw)} entries for {len(inputs)} inputs; "
            "give raw bytes for every input or for none",
            "raw_input_contents",
        )
    if not signature.open:
        _check_names(request, signature)
    rows = 0
    specs = {spec.name: spec for spec in signature.inputs}
    for index, tensor in enumerate(inputs):
        shape = tuple(tensor.shape)
        if any(d < 0 for d in shape):
            raise _bad(f"input {tensor.name!r} has a negative dimension in shape {list(shape)}", tensor.name)
        if not signature.open:
            _check_tensor(tensor, shape, specs[tensor.name])
        if raw:
            _check_size(tensor, shape, len(raw[index]))
        if signature.open or signature.max_batch:
            first = shape[0] if shape else 1
            if index and not signature.open and first != rows:
                raise _bad(f"input {tensor.name!r} has {first} rows and {inputs[0].name!r} has {rows}", tensor.name)
            rows = first if not index else rows
    if signature.max_batch and rows > signature.max_batch and not signature.open:
        raise _bad(
            f"the request has {rows} rows and the model takes {signature.max_batch} at once; split it",
            inputs[0].name if inputs else "inputs",
        )
    return max(1, min(rows, max_rows))


def _check_names(request: Any, signature: Signature) -> None:
    given = [t.name for t in request.inputs]
    wanted = [s.name for s in signature.inputs]
    for name in wanted:
        if name not in given:
            raise _bad(f"input {name!r} is missing: expected {_spell(signature)}, given {given or 'none'}", name)
    for name in given:
        if name not in wanted:
            raise _bad(f"input {name!r} is unknown: expected {_spell(signature)}", name)
    if len(set(given)) != len(given):
        raise _bad(f"an input is given twice: {given}", "inputs")
    outputs = [s.name for s in signature.outputs]
    for output in request.outputs:
        if output.name not in outputs:
            raise _bad(f"output {output.name!r} is unknown: the model gives {outputs}", output.name)


def _check_tensor(tensor: Any, shape: tuple[int, ...], spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype:
        raise _bad(f"input {spec.name!r} has datatype {tensor.datatype or 'none'}, expected {spec.datatype}", spec.name)
    fits = len(shape) == len(spec.shape) and all(w in (-1, g) for g, w in zip(shape, spec.shape, strict=True))
    if not fits:
        raise _bad(f"input {spec.name!r} has shape {list(shape)}, expected {list(spec.shape)} (-1 is free)", spec.name)


def _check_size(tensor: Any, shape: tuple[int, ...], given: int) -> None:
    item = ITEM_BYTES.get(tensor.datatype)
    if item is None:
        if tensor.datatype != "BYTES":
            raise _bad(f"input {tensor.name!r} has unknown datatype {tensor.datatype!r}", tensor.name)
        return
    wanted = item * math.prod(shape)
    if wanted != given:
        raise _bad(
            f"input {tensor.name!r} of shape {list(shape)} and datatype {tensor.datatype} takes {wanted} bytes, "
            f"given {given}",
            tensor.name,
        )


def _spell(signature: Signature) -> str:
    return ", ".join(f"{s.name} {s.datatype}{list(s.shape)}" for s in signature.inputs) or "no inputs"


def _bad(message: str, field: str) -> InvalidInput:
    return InvalidInput(message, reason=Reason.INVALID_TENSOR, fields={"field": field})
