"""Every call that tritonclient makes, against the real front door."""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from e2e_instance import Instance
from mlp_model import MLP_OPTIONS
from tritonclient.utils import InferenceServerException

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def key(instance: Instance, mlp_folder: Path) -> str:
    made = instance.tenant("speaker")
    instance.push(made, "scores", mlp_folder, *MLP_OPTIONS)
    return made


@pytest.fixture
def client(instance: Instance, key: str) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(instance.address) as c:
        yield c


@pytest.fixture
def headers(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


def tensor(rows: int = 1) -> Any:
    x = np.ones((rows, 16), np.float32)
    out = triton.InferInput("x", list(x.shape), "FP32")
    out.set_data_from_numpy(x)
    return out


def test_live_ready_metadata(client: Any, headers: dict[str, str]) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.get_server_metadata(as_json=True)["name"] == "partywall"
    assert client.is_model_ready("scores", headers=headers)
    assert client.is_model_ready("scores", "1", headers=headers)
    metadata = client.get_model_metadata("scores", headers=headers, as_json=True)
    assert metadata["platform"] == "partywall_module"
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": ["-1", "16"]}]
    assert metadata["outputs"] == [{"name": "y", "datatype": "FP32", "shape": ["-1", "4"]}]
    config = client.get_model_config("scores", headers=headers, as_json=True)["config"]
    assert config["max_batch_size"] == 256
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": ["16"]}]


def test_infer_and_statistics(client: Any, headers: dict[str, str]) -> None:
    def count() -> int:
        answer = client.get_inference_statistics("scores", headers=headers, as_json=True)
        stats = answer.get("model_stats", [{}])
        return int(stats[0].get("inference_count", 0)) if stats else 0

    before = count()
    wanted = triton.InferRequestedOutput("y")
    for _ in range(4):
        answer = client.infer("scores", [tensor(3)], outputs=[wanted], headers=headers)
        assert answer.as_numpy("y").shape == (3, 4)
    assert count() == before + 4
    everything = client.get_inference_statistics(headers=headers, as_json=True)["model_stats"]
    assert {m["name"] for m in everything} == {"scores"}


def test_async_infer(client: Any, headers: dict[str, str]) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.async_infer("scores", [tensor()], lambda result, error: answers.put((result, error)), headers=headers)
    result, error = answers.get(timeout=20)
    assert error is None
    assert result.as_numpy("y").shape == (1, 4)


def test_stream_answers_in_order_and_survives_a_bad_request(client: Any, headers: dict[str, str]) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put((result, error)), headers=headers)
    for number in range(20):
        rows = 300 if number == 7 else 1
        client.async_stream_infer("scores", [tensor(rows)], request_id=str(number))
    got = [answers.get(timeout=20) for _ in range(20)]
    client.stop_stream()
    for number, (result, error) in enumerate(got):
        if number == 7:
            assert "300 rows and the model takes 256" in str(error)
        else:
            assert result.get_response().id == str(number)


def test_a_stream_wants_a_key_too(client: Any) -> None:
    answers: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: answers.put(error))
    assert "no API key" in str(answers.get(timeout=20))
    client.stop_stream()


def test_a_revoked_key_opens_no_further_request_of_its_stream(client: Any, instance: Instance, key: str) -> None:
    issued = instance.json("keys", "issue", "speaker")
    answers: queue.Queue[Any] = queue.Queue()
    bearer = {"authorization": f"Bearer {issued['key']}"}
    client.start_stream(lambda result, error: answers.put((result, error)), headers=bearer)
    client.async_stream_infer("scores", [tensor()], request_id="before")
    result, error = answers.get(timeout=20)
    assert error is None
    assert result.get_response().id == "before"
    instance.run("keys", "revoke", "speaker", issued["id"])
    client.async_stream_infer("scores", [tensor()], request_id="after")
    _, error = answers.get(timeout=20)
    client.stop_stream()
    assert "KEY_REVOKED" in str(error)


def test_repository_index_load_unload(client: Any, headers: dict[str, str]) -> None:
    def index() -> list[dict[str, str]]:
        answer = client.get_model_repository_index(headers=headers, as_json=True)
        return list(answer["models"])

    assert index() == [{"name": "scores", "version": "1", "state": "READY"}]
    client.unload_model("scores", headers=headers)
    assert index()[0]["state"] == "UNAVAILABLE"
    with pytest.raises(InferenceServerException, match="stored but not resident"):
        client.infer("scores", [tensor()], headers=headers)
    client.load_model("scores", headers=headers)
    assert client.is_model_ready("scores", headers=headers)
    assert client.infer("scores", [tensor()], headers=headers).as_numpy("y").shape == (1, 4)


NOT_OFFERED: dict[str, Callable[[Any, dict[str, str]], Any]] = {
    "trace get": lambda c, h: c.get_trace_settings(headers=h),
    "trace set": lambda c, h: c.update_trace_settings(settings={"trace_rate": "1"}, headers=h),
    "log get": lambda c, h: c.get_log_settings(headers=h),
    "log set": lambda c, h: c.update_log_settings({"log_info": True}, headers=h),
    "system status": lambda c, h: c.get_system_shared_memory_status(headers=h),
    "system register": lambda c, h: c.register_system_shared_memory("r", "/k", 8, headers=h),
    "system unregister": lambda c, h: c.unregister_system_shared_memory("r", headers=h),
    "cuda status": lambda c, h: c.get_cuda_shared_memory_status(headers=h),
    "cuda register": lambda c, h: c.register_cuda_shared_memory("r", b"", 0, 8, headers=h),
    "cuda unregister": lambda c, h: c.unregister_cuda_shared_memory("r", headers=h),
}


@pytest.mark.parametrize("name", NOT_OFFERED)
def test_what_is_not_offered_says_so(client: Any, headers: dict[str, str], name: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        NOT_OFFERED[name](client, headers)
    assert refused.value.status() == "StatusCode.UNIMPLEMENTED"
    assert len(refused.value.message()) > 40


UNKNOWN: dict[str, Callable[[Any, dict[str, str]], Any]] = {
    "infer": lambda c, h: c.infer("absent", [tensor()], headers=h),
    "version": lambda c, h: c.infer("scores", [tensor()], model_version="99", headers=h),
    "ready": lambda c, h: c.is_model_ready("absent", headers=h),
    "metadata": lambda c, h: c.get_model_metadata("absent", headers=h),
    "config": lambda c, h: c.get_model_config("absent", headers=h),
    "statistics": lambda c, h: c.get_inference_statistics("absent", headers=h),
    "load": lambda c, h: c.load_model("absent", headers=h),
    "unload": lambda c, h: c.unload_model("absent", headers=h),
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_models_are_not_found(client: Any, headers: dict[str, str], name: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        UNKNOWN[name](client, headers)
    assert refused.value.status() == "StatusCode.NOT_FOUND"


@pytest.mark.parametrize("name", UNKNOWN)
def test_nothing_is_told_without_a_key(client: Any, name: str) -> None:
    with pytest.raises(InferenceServerException) as refused:
        UNKNOWN[name](client, {})
    assert refused.value.status() == "StatusCode.UNAUTHENTICATED"
