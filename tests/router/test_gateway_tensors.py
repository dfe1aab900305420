"""Tensors against signatures: every refusal names the tensor, what was expected and what came."""

from __future__ import annotations

from typing import Any

import pytest

from partywall.domain.models import Signature, TensorSpec
from partywall.errors import InvalidInput, Reason
from partywall.wire.inference import ModelInferRequest
from router.gateway.tensors import check_request

SIGNATURE = Signature(
    (TensorSpec("image", "FP32", (-1, 1, 8, 8)),), (TensorSpec("scores", "FP32", (-1, 10)),), max_batch=4
)
PAIR = Signature((TensorSpec("a", "INT64", (-1, 2)), TensorSpec("b", "BYTES", (-1,))), (), max_batch=8)


def request(*inputs: tuple[str, str, list[int]], raw: list[bytes] | None = None, outputs: tuple[str, ...] = ()) -> Any:
    message = ModelInferRequest(model_name="m")
    for name, datatype, shape in inputs:
        message.inputs.add(name=name, datatype=datatype, shape=shape)
    for output in outputs:
        message.outputs.add(name=output)
    if raw is not None:
        message.raw_input_contents.extend(raw)
    return message


IMAGES = ("image", "FP32", [2, 1, 8, 8])


def test_a_good_request_answers_its_rows() -> None:
    assert check_request(request(IMAGES, raw=[bytes(512)]), SIGNATURE) == 2


BAD = {
    "missing": (request(), SIGNATURE, "input 'image' is missing: expected image FP32[-1, 1, 8, 8], given none"),
    "unknown": (request(IMAGES, ("extra", "FP32", [1]), raw=[bytes(512), bytes(4)]), SIGNATURE, "'extra' is unknown"),
    "twice": (request(IMAGES, IMAGES), SIGNATURE, "given twice"),
    "dtype": (request(("image", "INT8", [2, 1, 8, 8])), SIGNATURE, "datatype INT8, expected FP32"),
    "rank": (request(("image", "FP32", [2, 8, 8])), SIGNATURE, "shape [2, 8, 8], expected [-1, 1, 8, 8]"),
    "shape": (request(("image", "FP32", [2, 3, 8, 8])), SIGNATURE, "shape [2, 3, 8, 8], expected [-1, 1, 8, 8]"),
    "negative": (request(("image", "FP32", [-2, 1, 8, 8])), SIGNATURE, "negative dimension"),
    "bytes": (request(IMAGES, raw=[bytes(100)]), SIGNATURE, "takes 512 bytes, given 100"),
    "raw count": (request(IMAGES, raw=[b"", b""]), SIGNATURE, "2 entries for 1 inputs"),
    "rows": (request(("image", "FP32", [5, 1, 8, 8]), raw=[bytes(1280)]), SIGNATURE, "5 rows and the model takes 4"),
    "output": (request(IMAGES, raw=[bytes(512)], outputs=("nope",)), SIGNATURE, "output 'nope' is unknown"),
    "uneven": (request(("a", "INT64", [2, 2]), ("b", "BYTES", [3])), PAIR, "'b' has 3 rows and 'a' has 2"),
    "open dtype": (request(("x", "FLOAT", [1]), raw=[b"1234"]), Signature(open=True), "unknown datatype 'FLOAT'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str) -> None:
    message, signature, text = BAD[name]
    with pytest.raises(InvalidInput) as refused:
        check_request(message, signature)
    assert text in refused.value.message
    assert refused.value.reason is Reason.INVALID_TENSOR
    assert refused.value.fields["field"]


def test_an_open_signature_takes_any_tensors() -> None:
    message = request(("x", "FP32", [3, 2]), ("y", "BYTES", []), raw=[bytes(24), b""])
    assert check_request(message, Signature(open=True)) == 3
