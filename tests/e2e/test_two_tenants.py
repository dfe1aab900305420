"""Two tenants, three engines, two clients, over real processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from e2e_instance import Instance, eventually
from mlp_model import MLP_OPTIONS, mlp_files

import partywall
from partywall.errors import NotFound, PartywallError, PermissionDenied, QuotaExceeded, Reason, Unauthenticated

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def acme(instance: Instance, minilm_folder: Path, identity_folder: Path) -> str:
    key = instance.tenant("acme")
    instance.push(key, "minilm", minilm_folder, "--engine", "transformers")
    instance.push(key, "echo", identity_folder, "--engine", "identity")
    return key


@pytest.fixture(scope="module")
def globex(instance: Instance, mlp_folder: Path) -> str:
    key = instance.tenant("globex")
    instance.push(key, "scores", mlp_folder, *MLP_OPTIONS)
    return key


def client(instance: Instance, key: str) -> partywall.Client:
    return partywall.Client(instance.address, api_key=key)


def test_real_sentences_get_sane_embeddings(instance: Instance, acme: str) -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The central bank raised interest rates."]
    with client(instance, acme) as c:
        embedding = c.infer("minilm", {"text": texts})["embedding"]
    assert embedding.shape == (3, 384)
    cosine = embedding @ embedding.T
    assert cosine[0, 1] > 0.5 > cosine[0, 2] + 0.2
    np.testing.assert_allclose(np.diag(cosine), 1.0, atol=1e-5)


def test_the_module_engine_computes_what_torch_computes(instance: Instance, globex: str) -> None:
    weights = mlp_files()
    x = np.random.default_rng(1).standard_normal((5, 16)).astype(np.float32)
    hidden = np.maximum(x @ weights["0.weight"].T + weights["0.bias"], 0)
    expected = hidden @ weights["2.weight"].T + weights["2.bias"]
    with client(instance, globex) as c:
        np.testing.assert_allclose(c.infer("scores", {"x": x})["y"], expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("rows", [1, 4000])
def test_identity_through_tritonclient(instance: Instance, acme: str, rows: int) -> None:
    """Small tensors go through the socket, large ones through shared memory."""
    x = np.random.default_rng(rows).standard_normal((rows, 64)).astype(np.float32)
    tensor = triton.InferInput("x", list(x.shape), "FP32")
    tensor.set_data_from_numpy(x)
    with triton.InferenceServerClient(instance.address) as c:
        answer = c.infer("echo", [tensor], headers={"authorization": f"Bearer {acme}"}, request_id="r-1")
    np.testing.assert_array_equal(answer.as_numpy("x"), x)
    assert answer.get_response().id == "r-1"
    assert answer.get_response().model_version == "1"


def test_many_at_once_come_back_to_their_callers(instance: Instance, acme: str) -> None:
    async def run() -> list[Any]:
        import asyncio

        async with partywall.AsyncClient(instance.address, api_key=acme) as c:
            calls = [c.infer("echo", {"x": np.full((1, 8), n, np.int64)}) for n in range(300)]
            return [r["x"][0, 0] for r in await asyncio.gather(*calls)]

    import asyncio

    assert asyncio.run(run()) == list(range(300))


def test_another_tenants_model_does_not_exist(instance: Instance, acme: str, globex: str) -> None:
    texts = []
    for name in ("minilm", "no-such-model"):
        with client(instance, globex) as c, pytest.raises(NotFound) as refused:
            c.infer(name, {"text": ["x"]})
        texts.append(refused.value.message.replace(name, "NAME"))
        assert refused.value.reason is Reason.MODEL_NOT_FOUND
    assert texts[0] == texts[1]
    with client(instance, globex) as c:
        assert [m.name for m in c.models()] == ["scores"]


def test_each_tenant_has_a_partition_of_its_own(instance: Instance, acme: str, globex: str) -> None:
    one, two = instance.replica("minilm"), instance.replica("scores")
    assert one["partition"]["id"] != two["partition"]["id"]
    assert one["pid"] != two["pid"]
    affinity = {r["model"]: set(map(int, r["partition"]["cores"])) for r in (one, two)}
    for replica in (one, two):
        status = Path(f"/proc/{replica['pid']}/status").read_text()
        allowed = next(line for line in status.splitlines() if line.startswith("Cpus_allowed_list"))
        assert _cores(allowed.split()[1]) == affinity[replica["model"]]


def _cores(text: str) -> set[int]:
    out: set[int] = set()
    for part in text.split(","):
        low, _, high = part.partition("-")
        out.update(range(int(low), int(high or low) + 1))
    return out


def test_explain_tells_why(instance: Instance, acme: str) -> None:
    answer = instance.json("explain", "minilm", key=acme)
    assert "predicted finish" in str(answer)


WRONG_KEYS = {
    "none": None,
    "not a key": "hello",
    "unknown": "pw_aaaaaaaa_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
}


@pytest.mark.parametrize("name", WRONG_KEYS)
def test_wrong_keys(instance: Instance, acme: str, name: str) -> None:
    with partywall.Client(instance.address, api_key=WRONG_KEYS[name]) as c, pytest.raises(Unauthenticated):
        c.infer("echo", {"x": np.zeros((1, 1), np.float32)})


def test_revoked_and_expired_keys_close_the_door(instance: Instance, acme: str) -> None:
    issued = instance.json("keys", "issue", "acme")
    with client(instance, issued["key"]) as c:
        c.metadata("echo")
        instance.run("keys", "revoke", "acme", issued["id"])
        with pytest.raises(Unauthenticated) as refused:
            c.metadata("echo")
    assert refused.value.reason is Reason.KEY_REVOKED


def test_a_suspended_tenant_is_told_so_and_comes_back(instance: Instance, globex: str) -> None:
    x = {"x": np.zeros((1, 16), np.float32)}
    with client(instance, globex) as c:
        instance.run("tenants", "suspend", "globex")
        try:
            with pytest.raises(PermissionDenied) as refused:
                c.infer("scores", x)
        finally:
            instance.run("tenants", "resume", "globex")
        assert refused.value.reason is Reason.TENANT_SUSPENDED
        c.infer("scores", x)


def test_over_quota_is_refused_at_once_with_a_hint(instance: Instance, identity_folder: Path) -> None:
    key = instance.tenant("limited", "--requests-per-s", "2", "--burst", "2")
    instance.push(key, "echo", identity_folder, "--engine", "identity")
    errors: list[PartywallError] = []
    with partywall.Client(instance.address, api_key=key, retry=partywall.client.RetryPolicy(max_tries=1)) as c:
        for _ in range(5):
            try:
                c.infer("echo", {"x": np.zeros((1, 1), np.float32)})
            except QuotaExceeded as error:
                errors.append(error)
    assert len(errors) >= 2
    assert all(e.reason is Reason.RATE_LIMITED and e.retry_after_s for e in errors)


def test_versions_promote_and_roll_back(instance: Instance, globex: str, tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    save_file(mlp_files(seed=8), tmp_path / "model.safetensors")
    x = {"x": np.ones((1, 16), np.float32)}
    with client(instance, globex) as c:
        before = c.infer("scores", x)["y"]
        instance.push(globex, "scores", tmp_path, *MLP_OPTIONS)
        np.testing.assert_array_equal(c.infer("scores", x)["y"], before)
        canary = c.infer("scores", x, version="2")["y"]
        assert not np.allclose(canary, before)
        instance.run("models", "promote", "scores", "2", key=globex)
        np.testing.assert_array_equal(c.infer("scores", x)["y"], canary)
        instance.run("models", "rollback", "scores", key=globex)
        # Version 1 was released when 2 had taken over: 2 goes on serving until 1 is loaded again.
        assert eventually(lambda: np.array_equal(c.infer("scores", x)["y"], before))
