"""Checks a request's tensors against a model's signature before any work is done on it."""

from __future__ import annotations

import math
from collections.abc import Sequence
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


_MOST_KNOWN, _MOST_KNOWN_BYTES = 256, 512


class RequestCheck:
    """`check_request` for one signature, which knows again what it has let pass.

    Clients send the same name, type and shape over and over. `check_request` is a function of the inputs, the
    outputs and the sizes of the raw contents: a request of one input, without named outputs, is known by that input's
    serialised form and that one size.
    """

    __slots__ = ("_known", "_signature")

    def __init__(self, signature: Signature) -> None:
        self._signature = signature
        self._known: dict[bytes, tuple[int, int]] = {}

    def rows(self, request: Any, raw_sizes: Sequence[int]) -> int:
        """Rows of a request; `raw_sizes` are bytes of each of its raw contents. Raises as `check_request` does."""
        inputs = request.inputs
        if len(inputs) != 1 or len(raw_sizes) != 1 or len(request.outputs):
            return check_request(request, raw_sizes, self._signature)
        key = inputs[0].SerializeToString()
        known = self._known.get(key)
        if known is not None and known[0] == raw_sizes[0]:
            return known[1]
        rows = check_request(request, raw_sizes, self._signature)
        if len(key) <= _MOST_KNOWN_BYTES:
            if len(self._known) >= _MOST_KNOWN:
                self._known.clear()
            self._known[key] = (raw_sizes[0], rows)
        return rows


def check_request(request: Any, raw_sizes: Sequence[int], signature: Signature, max_rows: int = 1 << 20) -> int:
    """Checks an `inference.ModelInferRequest`; answers its rows along the batch dimension.

    Args:
        raw_sizes: Bytes of each entry of `raw_input_contents`; the request itself may come without them.

    Raises:
        InvalidInput: INVALID_TENSOR, naming the tensor, what was expected and what came.
    """
    inputs = request.inputs
    if raw_sizes and len(raw_sizes) != len(inputs):
        raise _bad(
            f"raw_input_contents has {len(raw_sizes)} entries for {len(inputs)} inputs; "
            "give raw bytes for every input or for none",
            "raw_input_contents",
        )
    if not signature.open:
        _check_names(request, signature)
    rows = 0
    specs = {} if signature.open else {spec.name: spec for spec in signature.inputs}
    if any(tensor.parameters for tensor in inputs) or any(output.parameters for output in request.outputs):
        _check_parameters(request)
    for index, tensor in enumerate(inputs):
        shape = tuple(tensor.shape)
        if shape and min(shape) < 0:
            raise _bad(f"input {tensor.name!r} has a negative dimension in shape {list(shape)}", tensor.name)
        if not signature.open:
            _check_tensor(tensor, shape, specs[tensor.name])
        if raw_sizes:
            _check_size(tensor, shape, raw_sizes[index])
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


def _check_parameters(request: Any) -> None:
    """What would change the meaning of a tensor is refused, not passed over."""
    for what, tensors in (("input", request.inputs), ("output", request.outputs)):
        for tensor in tensors:
            if "shared_memory_region" in tensor.parameters:
                raise _bad(
                    f"{what} {tensor.name!r} names a shared memory region: tenants share no memory with the server; "
                    "send tensors in the request",
                    tensor.name,
                )
            if "classification" in tensor.parameters:
                raise _bad(
                    f"{what} {tensor.name!r} asks for classification (class_count): the server gives tensors; "
                    "take the classes from the scores",
                    tensor.name,
                )


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
