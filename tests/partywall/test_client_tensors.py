"""numpy to raw contents and back, over the table of datatypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from partywall.client.tensors import DTYPES, as_array, datatype_of, from_contents, from_raw, to_raw
from partywall.errors import InvalidInput, Reason
from partywall.wire import inference


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_round_trip_of_every_datatype(datatype: str) -> None:
    array = (np.arange(6) % 2).astype(DTYPES[datatype]).reshape(2, 3)
    assert datatype_of("x", array) == datatype
    back = from_raw("x", datatype, array.shape, to_raw("x", array))
    assert back.dtype == array.dtype
    np.testing.assert_array_equal(back, array)


def test_decoding_makes_no_copy() -> None:
    raw = np.arange(4, dtype=np.float32).tobytes()
    back = from_raw("x", "FP32", (4,), raw)
    assert np.shares_memory(back, np.frombuffer(raw, np.uint8))


@pytest.mark.parametrize(
    "array",
    [np.arange(6, dtype=">i4").reshape(2, 3), np.arange(6, dtype="<i4").reshape(3, 2).T],
    ids=["big", "strided"],
)
def test_other_layouts_arrive_the_same(array: np.ndarray[Any, Any]) -> None:
    back = from_raw("x", datatype_of("x", array), array.shape, to_raw("x", array))
    np.testing.assert_array_equal(back, array)


def test_text_becomes_bytes() -> None:
    array = as_array("text", ["grüße", "b", ""])
    assert datatype_of("text", array) == "BYTES"
    back = from_raw("text", "BYTES", (3,), to_raw("text", array))
    assert list(back) == ["grüße".encode(), b"b", b""]


def test_arrays_of_text_keep_their_shape() -> None:
    array = np.array([["a", "bb"], ["c", "d"]])
    back = from_raw("t", "BYTES", (2, 2), to_raw("t", array))
    assert back.tolist() == [[b"a", b"bb"], [b"c", b"d"]]


def test_an_empty_tensor_is_fine() -> None:
    assert from_raw("x", "FP32", (0, 3), to_raw("x", np.zeros((0, 3), np.float32))).shape == (0, 3)


def test_bfloat16_needs_and_uses_ml_dtypes() -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    array = np.array([1.5, -2.0], dtype=ml_dtypes.bfloat16)
    assert datatype_of("x", array) == "BF16"
    assert from_raw("x", "BF16", (2,), to_raw("x", array)).astype(np.float32).tolist() == [1.5, -2.0]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, 2], "wrap numbers"),
        ([], "list of nothing"),
        (["a", 1], "list of str"),
        ("abc", "got str"),
        (np.array([1j]), "complex128"),
        (np.array(["2026-01-01"], dtype="datetime64[D]"), "datetime64"),
        (np.array([object()], dtype=object), "only str and bytes"),
    ],
)
def test_what_cannot_be_sent_is_refused_by_name(value: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as caught:
        to_raw("x", as_array("x", value))
    assert caught.value.reason is Reason.INVALID_TENSOR
    assert caught.value.fields == {"tensor": "x"}


@pytest.mark.parametrize(
    ("datatype", "shape", "raw", "text"),
    [
        ("FP32", (2,), b"1234", "needs 8 bytes, got 4"),
        ("FP32", (-1,), b"", "needs -4"),
        ("NOPE", (1,), b"1", "unknown datatype"),
        ("BYTES", (1,), b"\x05\x00\x00\x00abc", "breaks off in element 0"),
        ("BYTES", (1,), b"\x05\x00", "breaks off"),
        ("BYTES", (2,), b"\x01\x00\x00\x00a", "came with 1 elements"),
    ],
)
def test_malformed_answers_are_named(datatype: str, shape: tuple[int, ...], raw: bytes, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        from_raw("y", datatype, shape, raw)


def test_typed_contents_of_other_servers() -> None:
    contents = inference.message("InferTensorContents")(fp32_contents=[1, 2, 3, 4])
    assert from_contents("y", "FP32", (2, 2), contents).tolist() == [[1, 2], [3, 4]]
    with pytest.raises(InvalidInput, match="3"):
        from_contents("y", "FP32", (3,), contents)
    with pytest.raises(InvalidInput, match="without raw"):
        from_contents("y", "FP16", (4,), contents)
