"""Serialised requests from files and random tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from loadgen import payloads
from loadgen.arrivals import rng_for
from loadgen.payloads import Addressee
from partywall.client.tensors import from_raw
from partywall.domain.models import TensorSpec
from partywall.errors import InvalidInput
from partywall.wire.inference import ModelInferRequest

TO = Addressee("m", "x", "2")
RNG = rng_for(1, "payloads")


def decoded(raw: bytes) -> tuple[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    request = ModelInferRequest.FromString(raw)
    assert (request.model_name, request.model_version) == ("m", "2")
    (tensor,) = request.inputs
    assert tensor.name == "x"
    return tensor.datatype, from_raw("x", tensor.datatype, tensor.shape, request.raw_input_contents[0])


def test_text_lines_go_out_once_each_in_batches(tmp_path: Path) -> None:
    path = tmp_path / "lines.txt"
    path.write_text("eins\n\nzwei\n  drei ä \nvier\nfünf\n", encoding="utf-8")
    made = payloads.text_file(TO, path, 2, RNG)
    values = [item for raw in made for item in decoded(raw)[1].tolist()]
    assert len(made) == 2
    assert len(set(values)) == 4
    assert set(values) <= {s.encode() for s in ("eins", "zwei", "drei ä", "vier", "fünf")}


def test_npy_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.npy"
    np.save(path, np.arange(12, dtype=">f4").reshape(4, 3))
    made = payloads.npy_file(TO, path, 2, RNG)
    rows = np.concatenate([decoded(raw)[1] for raw in made])
    assert sorted(rows[:, 0].tolist()) == [0, 3, 6, 9]
    assert decoded(made[0])[0] == "FP32"


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "INT64", "UINT8", "BOOL"])
def test_random_tensors(datatype: str) -> None:
    made = payloads.random_tensor(TO, datatype, (2, 3), RNG, distinct=3)
    assert len(made) == 3
    assert {decoded(raw)[0] for raw in made} == {datatype}
    assert decoded(made[0])[1].shape == (2, 3)


def test_free_dimensions_become_concrete() -> None:
    assert payloads.concrete_shape(TensorSpec("x", "FP32", (-1, 3, -1)), 4) == (4, 3, 16)


@pytest.mark.parametrize(
    ("content", "make", "said"),
    [
        (b"one line\n", payloads.text_file, "has 1 lines, one request takes 2"),
        (b"\xff\xfe", payloads.text_file, "not UTF-8"),
        (None, payloads.text_file, "cannot be read"),
        (b"not numpy", payloads.npy_file, "is not a .npy file"),
        (None, payloads.npy_file, "cannot be read"),
    ],
)
def test_bad_files_are_named(tmp_path: Path, content: bytes | None, make: object, said: str) -> None:
    path = tmp_path / "payload"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InvalidInput, match=said) as caught:
        make(TO, path, 2, RNG)  # type: ignore[operator]
    assert str(path) in caught.value.message


def test_objects_and_scalars_in_npy_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    np.save(tmp_path / "scalar.npy", np.float32(1))
    for name in ("objects.npy", "scalar.npy"):
        with pytest.raises(InvalidInput, match="npy:"):
            payloads.npy_file(TO, tmp_path / name, 1, RNG)


@pytest.mark.parametrize(("datatype", "shape"), [("FP31", (1,)), ("FP32", ()), ("FP32", (0, 2))])
def test_bad_random_tensors_are_refused(datatype: str, shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidInput, match="random:"):
        payloads.random_tensor(TO, datatype, shape, RNG)
