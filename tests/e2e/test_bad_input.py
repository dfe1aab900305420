"""What a new user, or a hostile one, gets for bad input: a clear error, and nothing half-done."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import grpc
import numpy as np
import pytest
from e2e_instance import Instance, eventually
from mlp_model import MLP_OPTIONS, mlp_files
from raw_models import RawModels
from safetensors.numpy import save, save_file

import partywall
from partywall.errors import ArtifactRefused, InvalidInput, NotReady, Reason
from partywall.v1 import models_pb2

pytestmark = pytest.mark.e2e

MLP = models_pb2.Manifest(engine="module", options={"architecture": "mlp", "inputs": "16", "outputs": "4"}, slo_ms=50)


@pytest.fixture(scope="module")
def key(instance: Instance, mlp_folder: Path) -> str:
    made = instance.tenant("clumsy")
    instance.push(made, "good", mlp_folder, *MLP_OPTIONS)
    return made


@pytest.fixture
def raw(instance: Instance, key: str) -> RawModels:
    return instance.models_stub(key)


BAD_TENSORS = {
    "missing": ({"z": np.zeros(1, np.float32)}, "input 'x' is missing: expected x FP32[-1, 16], given ['z']"),
    "dtype": ({"x": np.zeros((1, 16), np.int32)}, "datatype INT32, expected FP32"),
    "shape": ({"x": np.zeros((1, 15), np.float32)}, "shape [1, 15], expected [-1, 16]"),
    "unknown": ({"x": np.zeros((1, 16), np.float32), "z": np.zeros(1, np.float32)}, "'z' is unknown"),
}


@pytest.mark.parametrize("name", BAD_TENSORS)
def test_bad_tensors(instance: Instance, key: str, name: str) -> None:
    inputs, text = BAD_TENSORS[name]
    with partywall.Client(instance.address, api_key=key) as c, pytest.raises(InvalidInput) as refused:
        c.infer("good", inputs)
    assert text in refused.value.message
    assert refused.value.reason is Reason.INVALID_TENSOR


def test_a_request_over_the_size_limit(instance: Instance, key: str) -> None:
    with partywall.Client(instance.address, api_key=key) as c, pytest.raises(InvalidInput) as refused:
        c.infer("good", {"x": np.zeros((600_000, 16), np.float32)}, deadline_s=30.0)
    assert refused.value.reason is Reason.MESSAGE_TOO_LARGE


def test_a_past_deadline_executes_nothing(instance: Instance, key: str) -> None:
    with (
        partywall.Client(instance.address, api_key=key) as c,
        pytest.raises(partywall.errors.PartywallError) as refused,
    ):
        c.infer("good", {"x": np.zeros((1, 16), np.float32)}, deadline_s=0.00001)
    assert refused.value.reason in (Reason.DEADLINE_EXCEEDED, Reason.DEADLINE_UNREACHABLE)


def unsafe_files() -> dict[str, bytes]:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as z:
        z.writestr("model/data.pkl", pickle.dumps({"w": 1}))
    return {
        "weights.pkl": pickle.dumps({"w": [1, 2, 3]}),
        "scripted.pt": archive.getvalue(),
        "exported.pt2": archive.getvalue(),
        "renamed.safetensors": pickle.dumps({"w": [1, 2, 3]}),
    }


@pytest.mark.parametrize("name", list(unsafe_files()))
def test_files_that_run_code_are_refused_before_they_leave(
    instance: Instance, key: str, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(unsafe_files()[name])
    done = instance.run("models", "push", "evil", str(tmp_path), "--slo-ms", "9", *MLP_OPTIONS, check=1, key=key)
    assert "safetensors" in done.stderr
    assert "evil" not in instance.run("models", "list", key=key).stdout


@pytest.mark.parametrize("name", ["renamed.safetensors"])
def test_a_hostile_client_gets_no_pickle_loaded(instance: Instance, raw: RawModels, tmp_path: Path, name: str) -> None:
    """The router cannot see plaintext: the worker refuses what the client's checks would have."""
    raw.push("hostile", MLP, {name: unsafe_files()[name]}, tmp_path)
    state, reason = eventually(lambda: (s := raw.state("hostile"))[0] == "FAILED" and s)
    assert state == "FAILED"
    assert "pickle" in reason or "safetensors" in reason


def test_a_hostile_upload_of_a_code_suffix_is_refused(raw: RawModels) -> None:
    with pytest.raises(grpc.RpcError) as refused:
        raw.begin("hostile2", MLP, {"model.pt": b"1234"})
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert ".pt" in refused.value.details()


def lying_headers() -> dict[str, bytes]:
    def file(header: dict[str, object], data: bytes = bytes(64)) -> bytes:
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    good = {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 64]}
    return {
        "length beyond the file": file({"w": {**good, "data_offsets": [0, 640]}}),
        "shape and length differ": file({"w": {**good, "shape": [4, 5]}}),
        "header longer than the file": struct.pack("<Q", 1 << 40) + b"{}",
        "not JSON": struct.pack("<Q", 8) + b"notjson!" + bytes(64),
    }


@pytest.mark.parametrize("name", list(lying_headers()))
def test_a_lying_safetensors_header(instance: Instance, key: str, raw: RawModels, tmp_path: Path, name: str) -> None:
    data = lying_headers()[name]
    (tmp_path / "model.safetensors").write_bytes(data)
    with partywall.Client(instance.address, api_key=key) as c, pytest.raises(ArtifactRefused):
        c.push("liar", tmp_path, engine="module", slo_ms=9, options={"architecture": "mlp"})
    model = "liar-" + name.replace(" ", "-")
    raw.push(model, MLP, {"model.safetensors": data}, tmp_path)
    assert eventually(lambda: (s := raw.state(model))[0] == "FAILED" and s[1])
    with partywall.Client(instance.address, api_key=key) as c, pytest.raises(NotReady) as refused:
        c.infer(model, {"x": np.zeros((1, 16), np.float32)})
    assert "failed to load" in refused.value.message


def test_an_empty_file(instance: Instance, key: str, raw: RawModels, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    done = instance.run("models", "push", "empty", str(tmp_path), "--slo-ms", "9", *MLP_OPTIONS, check=1, key=key)
    assert "empty (0 bytes)" in done.stderr
    with pytest.raises(grpc.RpcError) as refused:
        raw.begin("empty", MLP, {"model.safetensors": b""})
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_a_truncated_upload_is_refused_and_can_go_on(raw: RawModels, tmp_path: Path) -> None:
    data = save(mlp_files())
    begun = raw.begin("halves", MLP, {"model.safetensors": data})
    sealed, described = raw.seal(begun, "halves", "model.safetensors", data, tmp_path)
    half = len(sealed) // 2
    assert raw.upload(begun.upload_id, "model.safetensors", sealed[:half]) == half
    with pytest.raises(grpc.RpcError) as refused:
        raw.commit(begun.upload_id, [described])
    assert refused.value.code() in (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.INVALID_ARGUMENT)
    with pytest.raises(grpc.RpcError) as absent:
        raw.get("halves")
    assert absent.value.code() is grpc.StatusCode.NOT_FOUND
    where = raw.stub.GetUpload(models_pb2.GetUploadRequest(upload_id=begun.upload_id), metadata=raw.metadata)
    assert where.files[0].received == half
    raw.upload(begun.upload_id, "model.safetensors", sealed[half:], offset=half)
    raw.commit(begun.upload_id, [described])
    assert eventually(lambda: raw.state("halves")[0] == "READY")


def test_an_aborted_upload_is_cleanly_absent(instance: Instance, raw: RawModels, tmp_path: Path) -> None:
    data = save(mlp_files())
    begun = raw.begin("gone", MLP, {"model.safetensors": data})
    sealed, _ = raw.seal(begun, "gone", "model.safetensors", data, tmp_path)
    raw.upload(begun.upload_id, "model.safetensors", sealed[:5000])
    raw.stub.AbortVersion(models_pb2.AbortVersionRequest(upload_id=begun.upload_id), metadata=raw.metadata)
    assert not list((instance.data_dir / "uploads").glob(f"*{begun.upload_id}*"))
    with pytest.raises(grpc.RpcError):
        raw.get("gone")


def test_ciphertext_that_was_changed_does_not_load(instance: Instance, raw: RawModels, tmp_path: Path) -> None:
    data = save(mlp_files())
    begun = raw.begin("flipped", MLP, {"model.safetensors": data})
    sealed, described = raw.seal(begun, "flipped", "model.safetensors", data, tmp_path)
    bad = bytearray(sealed)
    bad[-100] ^= 1
    raw.upload(begun.upload_id, "model.safetensors", bytes(bad))
    with pytest.raises(grpc.RpcError) as refused:
        raw.commit(begun.upload_id, [described])
    assert refused.value.code() is not grpc.StatusCode.INTERNAL


def test_a_model_too_large_for_every_device(raw: RawModels, tmp_path: Path) -> None:
    manifest = models_pb2.Manifest(engine="identity", slo_ms=5, memory_bytes=1 << 50)
    raw.push("huge", manifest, {}, tmp_path)
    state, reason = eventually(lambda: (s := raw.state("huge"))[0] == "FAILED" and s)
    assert state == "FAILED"
    assert "too large for every device" in reason


def test_weights_that_do_not_fit_the_architecture(raw: RawModels, tmp_path: Path) -> None:
    raw.push("misfit", MLP, {"model.safetensors": save(mlp_files(inputs=99))}, tmp_path)
    assert "0.weight" in eventually(lambda: (s := raw.state("misfit"))[0] == "FAILED" and s[1])


def test_usage_errors_have_exit_codes(instance: Instance, key: str, tmp_path: Path) -> None:
    assert instance.command("models", "show", "nothing", check=None, key=key).returncode == 3
    assert instance.command("tenants", "create", "clumsy", check=None).returncode == 5
    assert instance.command("models", "list", check=None, key="wrong").returncode == 4
    assert instance.command("tenants", "create", check=None).returncode == 2
    save_file(mlp_files(), tmp_path / "model.safetensors")
    assert (
        instance.command(
            "models", "push", "x", str(tmp_path), "--slo-ms", "9", "--engine", "nope", check=None, key=key
        ).returncode
        == 1
    )


def test_plaintext_on_another_address_is_refused(tmp_path: Path) -> None:
    elsewhere = Instance(tmp_path)
    elsewhere.command("init")
    done = elsewhere.command("router", "--listen", "0.0.0.0:0", "--metrics-listen", "127.0.0.1:0", check=1)
    assert "--tls-cert" in done.stderr
