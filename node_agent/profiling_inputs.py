"""Valid inputs for a version that nobody has sent a request to: made from its signature, the same ones every time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from partywall.client.operations import infer_request
from partywall.domain.models import Signature, TensorSpec
from partywall.errors import Unsupported

FREE_LENGTH = 32
"""Stands for a free dimension that is not the batch: tokens of a text, points of a series."""
_OPEN = TensorSpec("x", "FP32", (-1, 256))
_SENTENCE = b"The committee met on Tuesday and agreed to publish its findings before the end of the year."
_IDS = 1000
_TYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}


@dataclass(frozen=True, slots=True)
class MadeRequest:
    """A serialised `inference.ModelInferRequest` and the bytes of its tensors."""

    data: bytes
    input_bytes: int


def make_request(model: str, version: int, signature: Signature, rows: int) -> MadeRequest:
    """A request of `rows` rows (one where the signature has no batch dimension).

    Floats are uniform in 0..1, integers small and not negative (tokens and labels are), text is one sentence of
    seventeen words. The seed is fixed.

    Raises:
        Unsupported: A datatype that nothing is made of.
    """
    specs = (_OPEN,) if signature.open else signature.inputs
    rng = np.random.default_rng(0)
    inputs: dict[str, Any] = {s.name: _tensor(s, _shape(s, signature, rows), rng) for s in specs}
    request = infer_request(model, inputs, version=str(version))
    return MadeRequest(request.SerializeToString(), sum(map(len, request.raw_input_contents)))


def _shape(spec: TensorSpec, signature: Signature, rows: int) -> tuple[int, ...]:
    batched = signature.max_batch > 0 or signature.open
    first = [rows] if batched and spec.shape else []
    rest = spec.shape[len(first) :]
    return (*first, *(FREE_LENGTH if d < 0 else d for d in rest))


def _tensor(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[Any]:
    if spec.datatype == "BYTES":
        return np.full(shape, _SENTENCE, dtype=object)
    if spec.datatype == "BOOL":
        return np.ones(shape, np.bool_)
    kind = _TYPES.get(spec.datatype)
    if kind is None:
        raise Unsupported(
            f"no input of type {spec.datatype} is made for {spec.name!r}; this version cannot be profiled"
        )
    if np.issubdtype(kind, np.floating):
        return rng.random(shape).astype(kind)
    limit = min(_IDS, int(np.iinfo(kind).max))
    return rng.integers(1, limit, shape).astype(kind)
