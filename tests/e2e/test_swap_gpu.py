"""Weights that leave a (simulated) GPU for host memory: others get the share, and a wake copies them back."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_instance import Instance, eventually
from mlp_model import MLP_OPTIONS

import partywall

pytestmark = pytest.mark.e2e

X = np.ones((2, 16), np.float32)


@pytest.fixture(scope="module")
def h100(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    options = ("--drain-s", "2", "--swap-bytes", "4GiB", "--simulate-devices", "h100")
    made = Instance(tmp_path_factory.mktemp("swap-h100"), options).start()
    try:
        yield made
    finally:
        made.stop()


def replica(instance: Instance, model: str, state: str) -> dict[str, Any] | None:
    return next((r for r in instance.replicas() if r["model"] == model and r["state"] == state), None)


def test_parked_weights_leave_the_gpu_to_others_and_come_back(h100: Instance, mlp_folder: Path) -> None:
    acme, zeta = h100.tenant("acme"), h100.tenant("zeta")
    h100.push(acme, "one", mlp_folder, *MLP_OPTIONS, "--share", "60")
    first = h100.replica("one")
    assert first["partition"]["kind"] == "mps"
    with partywall.Client(h100.address, api_key=acme) as client:
        before = client.infer("one", {"x": X})["y"]
        h100.run("models", "unload", "one", key=acme)
        parked = eventually(lambda: replica(h100, "one", "stopped"))
        assert parked["reason"] == "released; the worker keeps its weights"
        assert parked["wake_bytes"] == parked["memory_bytes"] > 0
        h100.run("models", "load", "one", "--wait", key=acme)
        woken = eventually(lambda: replica(h100, "one", "ready"))
        assert (woken["pid"], woken["placement_id"]) == (first["pid"], first["placement_id"])
        assert woken["wake_seconds"] > 0
        assert np.array_equal(client.infer("one", {"x": X})["y"], before)
        h100.run("models", "unload", "one", key=acme)
        eventually(lambda: replica(h100, "one", "stopped"))
        # 60 and 60 % do not stand together; one of them rests.
        h100.push(zeta, "two", mlp_folder, *MLP_OPTIONS, "--share", "60")
        other = h100.replica("two")
        assert other["partition"]["device"] == first["partition"]["device"]
        assert replica(h100, "one", "stopped")
        assert h100.json("fleet", "attest")["ok"]
        # The GPU's share is gone, and the CPU is free.
        h100.run("models", "load", "one", "--wait", key=acme)
        moved = eventually(lambda: replica(h100, "one", "ready"))
        assert moved["partition"]["device"] != first["partition"]["device"]
        assert np.allclose(client.infer("one", {"x": X})["y"], before)
    why = [d["summary"] for d in h100.json("decisions", "list", "--kind", "swap", key=acme)]
    assert any("its share was given to others" in text for text in why)
    assert any("comes back" in text for text in why)


def test_weights_that_die_with_their_worker_leave_nothing_behind(h100: Instance, mlp_folder: Path) -> None:
    key = h100.tenant("dies")
    h100.push(key, "brief", mlp_folder, *MLP_OPTIONS, "--share", "30")
    before = h100.replica("brief")
    h100.run("models", "unload", "brief", key=key)
    parked = eventually(lambda: replica(h100, "brief", "stopped"))
    os.kill(parked["pid"], signal.SIGKILL)
    eventually(lambda: not [r for r in h100.replicas() if r["model"] == "brief"])
    why = [d["summary"] for d in h100.json("decisions", "list", "--kind", "swap", key=key)]
    assert any("its weights are gone" in text for text in why)
    h100.run("models", "load", "brief", "--wait", key=key)
    after = eventually(lambda: replica(h100, "brief", "ready"))
    assert after["placement_id"] != before["placement_id"]
    assert after["partition"]["share_percent"] == 30
