from __future__ import annotations

import io
import pickle
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from worker_support import seal

from isolation.engine import MemoryArtifact
from node_agent.worker.loader import anonymous_memory, open_artifact, refuse_code
from node_agent.worker.weights import load_weights
from partywall.errors import ArtifactRefused, DataLoss, NotFound, Reason

GOOD = save({"w": torch.arange(6, dtype=torch.float32).reshape(2, 3), "b": torch.zeros(0)})


def zip_bytes() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("data.pkl", b"x")
    return out.getvalue()


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("model.safetensors", zip_bytes()),
        ("weights", pickle.dumps({"w": 1}, protocol=4)),
        ("weights", pickle.dumps([1], protocol=2)),
        ("pytorch_model.bin", b"anything"),
        ("model.pt2", b"anything"),
        ("model.PT", GOOD),
        ("modeling.py", b"print()"),
        ("lib", b"\x7fELF\x02"),
    ],
)
def test_code_is_refused_with_what_to_do(tmp_path: Path, name: str, data: bytes) -> None:
    request = seal(tmp_path, {name: data})
    with pytest.raises(ArtifactRefused, match=r"can execute code.*save_file") as refused:
        open_artifact(request, bytearray(request.data_key))
    assert refused.value.reason is Reason.UNSAFE_FORMAT
    assert refused.value.fields["file"] == name


def test_torch_save_is_refused(tmp_path: Path) -> None:
    out = io.BytesIO()
    torch.save({"w": torch.zeros(1)}, out)
    with pytest.raises(ArtifactRefused, match="zip archive"):
        refuse_code("model.safetensors", out.getvalue()[:16])


@pytest.mark.parametrize("first", [2, 3, 4, 5])
def test_a_header_length_that_reads_like_a_pickle_is_no_pickle(first: int) -> None:
    length = first << 8 | 0x80
    refuse_code("model.safetensors", length.to_bytes(8, "little") + b'{"w":')


def test_sealed_files_open_and_the_key_is_wiped(tmp_path: Path) -> None:
    request = seal(tmp_path, {"model.safetensors": GOOD, "empty.txt": b""})
    key = bytearray(request.data_key)
    with open_artifact(request, key) as artifact:
        assert key == bytes(32)
        assert artifact.names == ("empty.txt", "model.safetensors")
        assert bytes(artifact.read("model.safetensors")) == GOOD
        assert bytes(artifact.read("empty.txt")) == b""
        weights = load_weights(artifact)
        with pytest.raises(ArtifactRefused, match=r"'nothing.txt' is missing"):
            artifact.read("nothing.txt")
    assert weights["w"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert weights["b"].numel() == 0


def test_damage_is_found(tmp_path: Path) -> None:
    request = seal(tmp_path, {"model.safetensors": GOOD})
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataLoss):
        open_artifact(request, bytearray(request.data_key))


def test_a_file_that_is_gone(tmp_path: Path) -> None:
    request = seal(tmp_path, {"model.safetensors": GOOD})
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(NotFound):
        open_artifact(request, bytearray(request.data_key))


def test_memory_without_end_is_a_memory_error() -> None:
    with pytest.raises(MemoryError):
        anonymous_memory(1 << 60)


def test_no_weights_says_what_is_there() -> None:
    with pytest.raises(ArtifactRefused, match=r"no .safetensors file \(it holds: config.json\)"):
        load_weights(MemoryArtifact({"config.json": b"{}"}))
