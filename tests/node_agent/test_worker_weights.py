"""Headers that lie: each is refused, naming the tensor."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
import torch
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save

from isolation.engine import MemoryArtifact
from node_agent.worker.weights import load_weights, parse_header
from partywall.errors import ArtifactRefused, Reason

NAMES = ("bool", "uint8", "int8", "int16", "float16", "bfloat16", "int32", "float32", "int64", "float64")


def file(header: Any, data: bytes = bytes(16)) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(start: int = 0, end: int = 16, shape: Any = (4,), dtype: Any = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape) if isinstance(shape, tuple) else shape, "data_offsets": [start, end]}


def test_agrees_with_the_library() -> None:
    made = {name: (torch.rand(3, 2) * 100).to(getattr(torch, name)) for name in NAMES}
    found = load_weights(MemoryArtifact({"a.safetensors": save(made, {"format": "pt"})}))
    assert found.keys() == made.keys()
    for name, value in made.items():
        assert found[name].dtype == value.dtype
        assert torch.equal(found[name], value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", "0 bytes, too few"),
        (b"\x00" * 7, "too few"),
        ((1 << 40).to_bytes(8, "little") + b"{}", "claims a header"),
        ((100_000_001).to_bytes(8, "little") + b"{}", "claims a header"),
        (file({"w": tensor()})[:20], "cut off"),
        (file(b"{"), "not valid JSON"),
        (file(b"[" * 100_000), "not valid JSON"),
        (file(b"[]"), "not a JSON object"),
        (file(b'{"w": 1, "w": 2}'), "occurs twice"),
        (file({"w": 5}), "tensor 'w': is not described"),
        (file({"w": tensor(dtype="Q8")}), "tensor 'w': has dtype 'Q8'"),
        (file({"w": tensor(dtype=None)}), "tensor 'w': has dtype None"),
        (file({"w": tensor(shape=(-4,))}), r"tensor 'w': has shape \[-4\]"),
        (file({"w": tensor(shape=4)}), "has shape 4"),
        (file({"w": tensor(shape=(True,))}), "has shape"),
        (file({"w": tensor(shape=(1 << 62, 1 << 62))}), "tensor 'w': F32 of shape"),
        (file({"w": tensor(shape=(5,))}), "needs 20 bytes, the header gives 16"),
        (file({"w": tensor(16, 0)}), "data_offsets"),
        (file({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0]}}), "data_offsets"),
        (file({"w": tensor(4, 20)}), "leaves a gap"),
        (file({"v": tensor(0, 8, (2,)), "w": tensor(4, 12, (2,))}), "tensor 'w': overlaps"),
        (file({"w": tensor()}, bytes(12)), "describes 16 bytes of data, the file has 12"),
        (file({"w": tensor()}, bytes(20)), "describes 16 bytes of data, the file has 20"),
    ],
)
def test_lies_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(ArtifactRefused, match=text) as refused:
        parse_header("m.safetensors", memoryview(data))
    assert refused.value.reason is Reason.BAD_ARTIFACT
    assert refused.value.fields["file"] == "m.safetensors"


def test_one_name_in_two_files_is_refused() -> None:
    data = file({"w": tensor()})
    with pytest.raises(ArtifactRefused, match="'w': is in another file"):
        load_weights(MemoryArtifact({"a.safetensors": data, "b.safetensors": data}))


def test_a_tensor_off_its_alignment_is_read_right() -> None:
    header = {"a": tensor(0, 1, (1,), "U8"), "b": tensor(1, 17)}
    data = file(header, b"\x07" + torch.arange(4, dtype=torch.float32).numpy().tobytes())
    assert load_weights(MemoryArtifact({"a.safetensors": data}))["b"].tolist() == [0, 1, 2, 3]


@examples(200)
@given(st.binary(max_size=200), st.integers(0, 300))
def test_no_bytes_cause_anything_but_a_refusal(noise: bytes, length: int) -> None:
    data = memoryview(length.to_bytes(8, "little") + noise)
    with suppress(ArtifactRefused):
        assert all(entry.end <= len(data) for entry in parse_header("m.safetensors", data))
