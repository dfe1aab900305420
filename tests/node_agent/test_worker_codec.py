from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from worker_support import infer_request, response_arrays, text_array

from node_agent.worker import codec, contents
from node_agent.worker.response import ResponseWriter
from partywall.domain.models import Signature, TensorSpec
from partywall.errors import InvalidInput, Reason
from partywall.wire.inference import ModelInferRequest, ModelInferResponse

OPEN = Signature(open=True)
IMAGES = Signature((TensorSpec("image", "FP32", (-1, 2, 2)),), (TensorSpec("scores", "FP32", (-1, 10)),), max_batch=4)
PAIR = Signature((TensorSpec("a", "INT32", (-1,)), TensorSpec("b", "BYTES", (-1,))), (), max_batch=8)

ARRAYS: list[np.ndarray[Any, Any]] = [
    np.array([[True, False]]),
    *(np.array([[0, 1, 100]], dtype=f"<{kind}") for kind in ("u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8")),
    *(np.array([[0.5, -2.0]], dtype=f"<{kind}") for kind in ("f2", "f4", "f8")),
    np.array([[0x3F80, 0xC000]], dtype="<u2").view("V2"),
    text_array("", "ä", "x" * 300).reshape(1, 3),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: contents.DATATYPES[a.dtype])
@pytest.mark.parametrize("make", [bytes, memoryview], ids=["message", "arena"])
def test_every_datatype_survives_both_ways(array: np.ndarray[Any, Any], make: Any) -> None:
    request = codec.Decoder(OPEN).decode(make(infer_request({"x": array}, "id-1")))
    assert request.id == "id-1"
    data = b"".join(ResponseWriter("m", "3").write(request.id, request.inputs))
    response = ModelInferResponse.FromString(data)
    assert (response.model_name, response.model_version, response.id) == ("m", "3", "id-1")
    assert response_arrays(data)["x"].tolist() == array.tolist()


@pytest.mark.parametrize(
    ("datatype", "field", "values"),
    [
        ("BOOL", "bool_contents", [True, False]),
        ("INT8", "int_contents", [-128, 127]),
        ("INT64", "int64_contents", [-(1 << 62), 5]),
        ("UINT16", "uint_contents", [0, 65535]),
        ("UINT64", "uint64_contents", [0, 1 << 63]),
        ("FP32", "fp32_contents", [0.5, 2.0]),
        ("FP64", "fp64_contents", [0.1, 2.0]),
        ("BYTES", "bytes_contents", [b"a", b""]),
    ],
)
def test_typed_contents(datatype: str, field: str, values: list[Any]) -> None:
    message = ModelInferRequest()
    getattr(message.inputs.add(name="x", datatype=datatype, shape=[2, 1]).contents, field).extend(values)
    array = codec.Decoder(OPEN).decode(message.SerializeToString()).inputs["x"]
    assert array.dtype == contents.DTYPES[datatype]
    assert array.reshape(-1).tolist() == values


def request_for(datatype: str = "FP32", shape: tuple[int, ...] = (1, 2, 2), raw: bytes = bytes(16)) -> Any:
    message = ModelInferRequest()
    message.inputs.add(name="image", datatype=datatype, shape=shape)
    message.raw_input_contents.append(raw)
    return message


def two_raws() -> Any:
    message = request_for()
    message.raw_input_contents.append(b"")
    return message


def twice() -> Any:
    message = two_raws()
    message.inputs.add(name="image", datatype="FP32", shape=[1, 2, 2])
    message.raw_input_contents[1] = bytes(16)
    return message


def wrong_output() -> Any:
    message = request_for()
    message.outputs.add(name="boxes")
    return message


def output_twice() -> Any:
    message = request_for()
    message.outputs.add(name="scores")
    message.outputs.add(name="scores")
    return message


def unknown_input() -> Any:
    message = request_for()
    message.inputs[0].name = "picture"
    return message


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (request_for("FP64"), r"'image'.*expected datatype FP32, given FP64"),
        (request_for(shape=(1, 3, 2)), r"'image'.*expected shape \[-1, 2, 2\].*given \[1, 3, 2\]"),
        (request_for(shape=(1, 4)), r"'image'.*given \[1, 4\]"),
        (request_for(raw=bytes(15)), r"'image'.*needs 16 bytes.*given 15"),
        (request_for(shape=(5, 2, 2), raw=bytes(80)), r"5 rows.*1 to 4"),
        (request_for(shape=(0, 2, 2), raw=b""), r"0 rows"),
        (request_for(shape=(-1, 2, 2)), r"negative"),
        (ModelInferRequest(), r"'image' is missing: expected FP32 \[-1, 2, 2\]"),
        (two_raws(), r"1 inputs with 2 raw contents"),
        (twice(), r"'image' is given twice"),
        (wrong_output(), r"'boxes' is not one of this model's: it gives scores"),
        (output_twice(), r"requested twice"),
        (unknown_input(), r"'picture' is not one of this model's: it takes image"),
    ],
)
def test_what_does_not_fit_is_named(message: Any, text: str) -> None:
    with pytest.raises(InvalidInput, match=text) as refused:
        codec.Decoder(IMAGES).decode(message.SerializeToString())
    assert refused.value.reason is Reason.INVALID_TENSOR


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (b"\x01\x00\x00", "end inside the length of element 0"),
        (b"\x09\x00\x00\x00abc", "element 0 claims 9 bytes, 3 left"),
        (b"\x01\x00\x00\x00a", "needs 2 BYTES elements, the contents hold 1"),
    ],
)
def test_bytes_that_lie_about_their_length(raw: bytes, text: str) -> None:
    with pytest.raises(InvalidInput, match=text):
        codec.Decoder(OPEN).decode(request_for("BYTES", (2,), raw).SerializeToString())


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_travel_raw_only(datatype: str) -> None:
    message = ModelInferRequest()
    message.inputs.add(name="x", datatype=datatype, shape=[1])
    with pytest.raises(InvalidInput, match="raw_input_contents"):
        codec.Decoder(OPEN).decode(message.SerializeToString())


@pytest.mark.parametrize(("values", "text"), [([300], "does not fit UINT8"), ([1, 2], "needs 1 elements")])
def test_typed_values_are_checked(values: list[int], text: str) -> None:
    message = ModelInferRequest()
    message.inputs.add(name="x", datatype="UINT8", shape=[1]).contents.uint_contents.extend(values)
    with pytest.raises(InvalidInput, match=text):
        codec.Decoder(OPEN).decode(message.SerializeToString())


def test_unknown_datatype_lists_the_known_ones() -> None:
    with pytest.raises(InvalidInput, match=r"'FLOAT' is unknown; use one of BOOL"):
        codec.Decoder(OPEN).decode(request_for("FLOAT").SerializeToString())


def test_inputs_with_unequal_rows() -> None:
    data = infer_request({"a": np.zeros(3, np.int32), "b": text_array("x", "y")})
    with pytest.raises(InvalidInput, match="2 rows, the first input has 3"):
        codec.Decoder(PAIR).decode(data)


@pytest.mark.parametrize("make", [bytes, memoryview], ids=["message", "arena"])
@pytest.mark.parametrize("data", [b"\xff\xff\xff", b"\x3a\x7fabc", b"\x0b\x00", b"\x80" * 12, b"\x09\x01"])
def test_noise_is_refused(data: bytes, make: Any) -> None:
    with pytest.raises(InvalidInput, match="not a ModelInferRequest"):
        codec.Decoder(OPEN).decode(make(data))


def test_arena_contents_are_not_copied() -> None:
    data = bytearray(infer_request({"x": np.zeros((1, 1000), np.float32)}))
    array = codec.Decoder(OPEN).decode(memoryview(data)).inputs["x"]
    data[-4:] = np.float32(7).tobytes()
    assert array[0, -1] == 7


def test_knowledge_of_layouts_is_bounded() -> None:
    decoder = codec.Decoder(OPEN)
    for width in range(1, 1100):
        decoder.decode(infer_request({"x": np.zeros((1, width), np.uint8)}))
    assert len(decoder._known) <= decoder._MOST_KNOWN


def test_a_known_layout_still_has_its_bytes_counted() -> None:
    decoder = codec.Decoder(IMAGES)
    decoder.decode(request_for().SerializeToString())
    with pytest.raises(InvalidInput, match="needs 16 bytes"):
        decoder.decode(request_for(raw=bytes(12)).SerializeToString())


def test_long_ids_and_large_outputs_are_encoded() -> None:
    array = np.arange(100_000, dtype=np.float32).reshape(1, -1)
    writer = ResponseWriter("m", "1")
    for request_id in ("", "x" * 1000):
        data = b"".join(writer.write(request_id, {"y": array[:, ::2]}))
        assert ModelInferResponse.FromString(data).id == request_id
        assert np.array_equal(response_arrays(data)["y"], array[:, ::2])


def test_cached_heads_are_bounded() -> None:
    writer = ResponseWriter("m", "1")
    for width in range(300):
        writer.write("", {"y": np.zeros((1, width), np.uint8)})
    assert len(writer._heads) <= writer._MOST_CACHED
