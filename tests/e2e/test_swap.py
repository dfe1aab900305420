"""Weights that stay in their worker: rollback and cold start without a load."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_instance import Instance, eventually
from mlp_model import MLP_OPTIONS

import partywall
from partywall.errors import NotReady, Reason

pytestmark = pytest.mark.e2e

X = np.ones((2, 16), np.float32)


@pytest.fixture(scope="module")
def swapping(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    made = Instance(
        tmp_path_factory.mktemp("swapping"), ("--drain-s", "2", "--swap-bytes", "4GiB", "--sealed-memory", "1GiB")
    ).start()
    try:
        yield made
    finally:
        made.stop()


def replicas(instance: Instance, model: str) -> list[dict[str, Any]]:
    return [r for r in instance.replicas() if r["model"] == model]


def parked(instance: Instance, model: str, version: int) -> dict[str, Any] | None:
    found = (r for r in replicas(instance, model) if r["version"] == version and r["state"] == "stopped")
    return next((r for r in found if "keeps its weights" in r["reason"]), None)


def test_a_rollback_finds_the_weights_where_they_were(swapping: Instance, mlp_folder: Path) -> None:
    key = swapping.tenant("rolls")
    swapping.push(key, "m", mlp_folder, *MLP_OPTIONS)
    first = replicas(swapping, "m")[0]
    swapping.push(key, "m", mlp_folder, *MLP_OPTIONS, "--promote")
    kept = eventually(lambda: parked(swapping, "m", 1))
    assert (kept["pid"], kept["worker_id"]) == (first["pid"], first["worker_id"])
    with partywall.Client(swapping.address, api_key=key) as client:
        assert client.infer("m", {"x": X})["y"].shape == (2, 4)
        assert swapping.json("models", "rollback", "m", key=key)["live_version"] == 1

        def back() -> bool:
            # Somebody answers all the time: the newer version until the older one serves again.
            client.infer("m", {"x": X})
            return any(r["version"] == 1 and r["state"] == "ready" for r in replicas(swapping, "m"))

        eventually(back)
    assert swapping.json("models", "show", "m", key=key)["serving_version"] == 1
    assert next(r for r in replicas(swapping, "m") if r["version"] == 1)["pid"] == first["pid"]
    why = [d["summary"] for d in swapping.json("decisions", "list", "--kind", "swap", key=key)]
    assert any("comes back" in text for text in why)
    assert eventually(lambda: parked(swapping, "m", 2))


def test_a_request_wakes_a_cold_version(swapping: Instance, mlp_folder: Path) -> None:
    key = swapping.tenant("sleeps")
    swapping.push(key, "cold", mlp_folder, *MLP_OPTIONS, "--cold-start")
    swapping.push(key, "plain", mlp_folder, *MLP_OPTIONS)
    pid = replicas(swapping, "cold")[0]["pid"]
    for model in ("cold", "plain"):
        swapping.run("models", "unload", model, key=key)
    eventually(lambda: parked(swapping, "cold", 1))
    with partywall.Client(swapping.address, api_key=key) as client:
        with pytest.raises(NotReady) as refused:
            client.infer("plain", {"x": X})
        assert refused.value.reason is Reason.MODEL_NOT_READY
        assert client.infer("cold", {"x": X}, deadline_s=20.0)["y"].shape == (2, 4)
    assert replicas(swapping, "cold")[0]["pid"] == pid


def test_deleted_models_leave_nothing_parked(swapping: Instance, mlp_folder: Path) -> None:
    key = swapping.tenant("leaves")
    swapping.push(key, "gone", mlp_folder, *MLP_OPTIONS)
    swapping.run("models", "unload", "gone", key=key)
    eventually(lambda: parked(swapping, "gone", 1))
    swapping.run("models", "delete", "gone", "--yes", key=key)
    eventually(lambda: not replicas(swapping, "gone"))


def test_a_tenant_that_is_gone_is_forgotten(swapping: Instance, mlp_folder: Path) -> None:
    key = swapping.tenant("brief")
    swapping.push(key, "b", mlp_folder, *MLP_OPTIONS)
    with partywall.Client(swapping.address, api_key=key) as client:
        client.infer("b", {"x": X}, request_id="last-words")
    assert swapping.json("requests", "list", "--tenant", "brief")[0]["id"] == "last-words"
    swapping.run("tenants", "delete", "brief", "--yes")
    swapping.tenant("brief")
    assert swapping.json("requests", "list", "--tenant", "brief") == []


def test_a_shared_worker_keeps_nothing_decrypted_but_the_agent_keeps_what_is_sealed(
    swapping: Instance, mlp_folder: Path
) -> None:
    key = swapping.tenant("shares", "--trust-policy", "shared")
    swapping.push(key, "s", mlp_folder, *MLP_OPTIONS)
    swapping.run("models", "unload", "s", key=key)
    eventually(lambda: not replicas(swapping, "s"))
    eventually(lambda: "sealed files kept in memory" in swapping.log())
    swapping.run("models", "load", "s", "--wait", key=key)
    with partywall.Client(swapping.address, api_key=key) as client:
        assert client.infer("s", {"x": X})["y"].shape == (2, 4)
