"""The request that is sent: a `ModelInferRequest` with one FP32 tensor, and its gRPC framing."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from partywall.wire.inference import SERVICE_NAME, ModelInferRequest, ModelInferResponse

METHOD = f"/{SERVICE_NAME}/ModelInfer"
MODEL = "echo"
VALUES_1_KB = 256


def request_bytes(values: int = VALUES_1_KB, seed: int = 1) -> bytes:
    """A serialised request of `4 * values` bytes of tensor; the same seed, the same bytes."""
    message = ModelInferRequest(model_name=MODEL)
    message.inputs.add(name="x", datatype="FP32", shape=[1, values])
    message.raw_input_contents.append(_values(values, seed))
    data: bytes = message.SerializeToString()
    return data


def framed(message: bytes) -> bytes:
    """As it stands in an HTTP/2 body of a gRPC call: not compressed, four bytes of length."""
    return b"\0" + struct.pack(">I", len(message)) + message


def check_reply(reply: bytes, request: bytes) -> None:
    """Whether the model gave the request's tensor back.

    Raises:
        AssertionError: Another tensor, or none.
    """
    sent, got = ModelInferRequest.FromString(request), ModelInferResponse.FromString(reply)
    assert list(got.raw_output_contents) == list(sent.raw_input_contents), "the reply holds another tensor"
    assert _spelled(got.outputs) == _spelled(sent.inputs), "the reply has another shape"


def _values(count: int, seed: int) -> bytes:
    return np.random.default_rng(seed).standard_normal(count).astype("<f4").tobytes()


def _spelled(tensors: Any) -> list[tuple[str, tuple[int, ...]]]:
    return [(t.datatype, tuple(t.shape)) for t in tensors]
