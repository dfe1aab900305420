"""Tensors against signatures: every refusal names the tensor, what was expected and what came."""

from __future__ import annotations

from typing import Any

import pytest

from partywall.domain.models import Signature, TensorSpec
from partywall.errors import InvalidInput, Reason
from partywall.wire.inference import ModelInferRequest
from router.gateway.tensors import RequestCheck, check_request

SIGNATURE = Signature(
    (TensorSpec("image", "FP32", (-1, 1, 8, 8)),), (TensorSpec("scores", "FP32", (-1, 10)),), max_batch=4
)
PAIR = Signature((TensorSpec("a", "INT64", (-1, 2)), TensorSpec("b", "BYTES", (-1,))), (), max_batch=8)


def sizes(message: Any) -> list[int]:
    return [len(one) for one in message.raw_input_contents]


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
    assert check_request(request(IMAGES, raw=[bytes(512)]), [512], SIGNATURE) == 2


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


def with_parameter(of: str, name: str, value: int | str) -> Any:
    message = request(IMAGES, raw=[bytes(512)], outputs=("scores",))
    parameter = (message.inputs if of == "input" else message.outputs)[0].parameters[name]
    if isinstance(value, int):
        parameter.int64_param = value
    else:
        parameter.string_param = value
    return message


@pytest.mark.parametrize(
    ("of", "name", "value", "text"),
    [
        ("input", "shared_memory_region", "r", "input 'image' names a shared memory region"),
        ("output", "shared_memory_region", "r", "output 'scores' names a shared memory region"),
        ("output", "classification", 3, "output 'scores' asks for classification"),
    ],
)
def test_what_would_change_a_tensors_meaning_is_refused(of: str, name: str, value: int | str, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        check_request(with_parameter(of, name, value), [512], SIGNATURE)


def test_other_parameters_pass() -> None:
    assert check_request(with_parameter("output", "binary_data", 1), [512], SIGNATURE) == 2


@pytest.mark.parametrize("name", BAD)
def test_bad_requests(name: str) -> None:
    message, signature, text = BAD[name]
    with pytest.raises(InvalidInput) as refused:
        check_request(message, sizes(message), signature)
    assert text in refused.value.message
    assert refused.value.reason is Reason.INVALID_TENSOR
    assert refused.value.fields["field"]


def test_an_open_signature_takes_any_tensors() -> None:
    message = request(("x", "FP32", [3, 2]), ("y", "BYTES", []), raw=[bytes(24), b""])
    assert check_request(message, sizes(message), Signature(open=True)) == 3


def rows_twice(check: RequestCheck, message: Any) -> int:
    """The rows, asked twice: what is known must answer as what is new."""
    first = check.rows(message, sizes(message))
    assert check.rows(message, sizes(message)) == first
    return first


def test_what_was_let_pass_is_known_again_with_its_own_rows() -> None:
    check = RequestCheck(SIGNATURE)
    assert rows_twice(check, request(IMAGES, raw=[bytes(512)])) == 2
    assert rows_twice(check, request(("image", "FP32", [3, 1, 8, 8]), raw=[bytes(768)])) == 3
    assert rows_twice(check, request(IMAGES, raw=[bytes(512)])) == 2


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_after_good_ones(name: str) -> None:
    message, signature, text = BAD[name]
    check = RequestCheck(signature)
    if signature is SIGNATURE:
        rows_twice(check, request(IMAGES, raw=[bytes(512)]))
    for _ in range(2):
        with pytest.raises(InvalidInput) as refused:
            check.rows(message, sizes(message))
        assert text in refused.value.message


def test_contents_of_another_size_are_refused_though_the_tensor_is_known() -> None:
    check = RequestCheck(SIGNATURE)
    rows_twice(check, request(IMAGES, raw=[bytes(512)]))
    for size in (0, 511, 513, 70_000):
        message = request(IMAGES, raw=[bytes(size)])
        with pytest.raises(InvalidInput, match="takes 512 bytes"):
            check.rows(message, sizes(message))


def test_strings_of_any_length_pass_and_are_counted() -> None:
    check = RequestCheck(Signature((TensorSpec("text", "BYTES", (-1,)),), (), max_batch=8))
    for raw in (b"\x01\x00\x00\x00a", b"\x05\x00\x00\x00abcde"):
        assert rows_twice(check, request(("text", "BYTES", [1]), raw=[raw])) == 1


def test_the_memory_of_what_passed_is_bounded() -> None:
    check = RequestCheck(Signature(open=True))
    for size in range(1, 600):
        assert rows_twice(check, request((f"x{size}", "INT8", [size]), raw=[bytes(size)])) == size


def test_another_type_or_shape_of_the_same_size_is_looked_at_anew() -> None:
    check = RequestCheck(SIGNATURE)
    rows_twice(check, request(IMAGES, raw=[bytes(512)]))
    for other in (
        ("image", "INT32", [2, 1, 8, 8]),
        ("image", "FP32", [2, 1, 4, 16]),
        ("picture", "FP32", [2, 1, 8, 8]),
    ):
        with pytest.raises(InvalidInput):
            check.rows(request(other, raw=[bytes(512)]), [512])


def test_contents_beside_the_tensor_and_named_outputs_are_never_taken_as_known() -> None:
    check = RequestCheck(SIGNATURE)
    rows_twice(check, request(IMAGES, raw=[bytes(512)]))
    with pytest.raises(InvalidInput, match="output 'nope'"):
        check.rows(request(IMAGES, raw=[bytes(512)], outputs=("nope",)), [512])
    with pytest.raises(InvalidInput, match="2 entries for 1 inputs"):
        check.rows(request(IMAGES, raw=[bytes(512), b""]), [512, 0])
    with pytest.raises(InvalidInput, match="given twice"):
        check.rows(request(IMAGES, IMAGES, raw=[bytes(512), bytes(512)]), [512, 512])
