"""A worker that hangs in the middle of a batch."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from e2e_instance import Instance, eventually
from mlp_model import MLP_OPTIONS

import partywall
from partywall.client.retry import RetryPolicy
from partywall.errors import Reason, Unavailable

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    made = Instance(tmp_path_factory.mktemp("watched"), ("--watchdog-s", "1", "--drain-s", "2")).start()
    try:
        yield made
    finally:
        made.stop()


def test_its_callers_hear_why_neighbours_serve_on_and_it_comes_back(watched: Instance, mlp_folder: Path) -> None:
    keys = {name: watched.tenant(name) for name in ("acme", "zeta")}
    for key in keys.values():
        watched.push(key, "mlp", mlp_folder, *MLP_OPTIONS)
    x = {"x": np.ones((1, 16), np.float32)}
    once = RetryPolicy(max_tries=1)
    with (
        partywall.Client(watched.address, api_key=keys["acme"], retry=once) as acme,
        partywall.Client(watched.address, api_key=keys["zeta"], retry=once) as zeta,
    ):
        for client in (acme, zeta):
            client.infer("mlp", x)
        pid = next(r["pid"] for r in watched.replicas() if r["tenant"] == "acme")
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(Unavailable, match="counts as stuck") as caught:
            acme.infer("mlp", x, deadline_s=30.0)
        assert caught.value.reason is Reason.WORKER_DIED
        assert zeta.infer("mlp", x)["y"].shape == (1, 4)
        eventually(lambda: acme.ready("mlp"))
        assert acme.infer("mlp", x)["y"].shape == (1, 4)
    (event,) = [e for e in watched.json("fleet", "events") if e["kind"] == "worker_stuck"]
    assert event["node"] == "local"
    assert "counts as stuck" in event["message"]
