"""Two nodes: a second replica comes with the load and goes with it, calls are retried, and all of it is explained."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from e2e_instance import Instance, eventually
from mlp_model import MLP_OPTIONS
from test_second_node import agent, online

import partywall
from partywall.errors import Overloaded, PartywallError

pytestmark = pytest.mark.e2e

OPTIONS = ("--drain-s", "2", "--merge-after-s", "4")
HEAVY = ("--option", "hidden=4096", "--option", "depth=3", "--max-batch", "1")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """An instance with a second node."""
    made = Instance(tmp_path_factory.mktemp("replicas"), OPTIONS).start()
    process = agent(made, tmp_path_factory.mktemp("r2"), "n2", made.json("fleet", "token", "n2")["bundle"])
    try:
        eventually(lambda: online(made, "n2"))
        yield made
    finally:
        process.terminate()
        process.wait(30)
        made.stop()


class Callers:
    """Threads that call without a pause; a refusal of admission is an answer, any other failure is kept."""

    def __init__(self, instance: Instance, key: str, model: str, count: int) -> None:
        self.answered = self.refused = 0
        self.failures: list[str] = []
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._call, args=(instance.address, key, model), daemon=True) for _ in range(count)
        ]

    def __enter__(self) -> Callers:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def _call(self, address: str, key: str, model: str) -> None:
        x = np.ones((1, 16), np.float32)
        with partywall.Client(address, api_key=key) as client:
            while not self._stop.is_set():
                try:
                    client.infer(model, {"x": x}, deadline_s=5.0)
                    with self._lock:
                        self.answered += 1
                except Overloaded:
                    with self._lock:
                        self.refused += 1
                    time.sleep(0.01)
                except PartywallError as error:
                    with self._lock:
                        self.failures.append(f"{error.reason}: {error.message}")


def test_replicas_come_and_go_with_the_load(pair: Instance, heavy_folder: Path) -> None:
    key = pair.tenant("acme")
    options = (*MLP_OPTIONS, *HEAVY)
    pair.run("models", "push", "m", str(heavy_folder), "--slo-ms", "250", "--wait", *options, key=key)
    with partywall.Client(pair.address, api_key=key) as client:
        for _ in range(5):
            client.infer("m", {"x": np.ones((1, 16), np.float32)}, request_id="before")
    plan = pair.json("plan", "--dry-run")
    assert plan["enabled"]
    assert [(s["action"], s["replicas_now"]) for s in plan["steps"] if s["model"] == "m"] == [("keep", 1)]

    with Callers(pair, key, "m", 16) as load:
        eventually(lambda: sum(r["state"] == "ready" for r in pair.replicas() if r["model"] == "m") == 2, 90)
        assert {r["node"] for r in pair.replicas() if r["model"] == "m"} == {"local", "n2"}
        served = load.answered
        eventually(lambda: load.answered > served + 50)
        # A worker that dies under them costs no caller anything: what it held is tried on the other replica.
        os.kill(next(r["pid"] for r in pair.replicas() if r["model"] == "m" and r["node"] == "local"), signal.SIGKILL)
        served = load.answered
        eventually(lambda: load.answered > served + 50)
    assert load.failures == []
    assert load.answered

    why = pair.json("decisions", "list", "--kind", "scale", key=key)
    assert any(d["summary"].startswith("from 1 to 2") for d in why)
    one = pair.json("explain", why[0]["id"], key=key)
    assert float(one["inputs"]["rate_bound_per_s"]) > 0

    with partywall.Client(pair.address, api_key=key) as client:

        def calm() -> bool:
            # A little load goes on: it must never fail.
            client.infer("m", {"x": np.ones((1, 16), np.float32)})
            return sum(r["model"] == "m" for r in pair.replicas()) == 1

        eventually(calm, 240, 0.5)
    assert any(d["summary"].startswith("from 2 to 1") for d in pair.json("decisions", "list", key=key))


def test_a_request_explains_itself_and_only_to_its_tenant(pair: Instance, mlp_folder: Path) -> None:
    key, other = pair.tenant("asks"), pair.tenant("pries")
    pair.push(key, "small", mlp_folder, *MLP_OPTIONS)
    with partywall.Client(pair.address, api_key=key) as client:
        client.infer("small", {"x": np.ones((1, 16), np.float32)}, request_id="warm-up")
        client.infer("small", {"x": np.ones((1, 16), np.float32)}, request_id="mine-1")
    found = pair.json("explain", "mine-1", key=key)
    trace = found["requests"][0]
    assert (trace["outcome"], trace["attempts"], trace["rows"]) == ("OK", 1, 1)
    assert trace["predicted_ms"] > 0
    assert trace["actual_ms"] >= trace["service_ms"] > 0
    assert trace["replica"] == found["decisions"][0]["id"]
    assert [r["id"] for r in pair.json("requests", "list", "--model", "small", key=key)] == ["mine-1", "warm-up"]
    assert pair.run("explain", "mine-1", key=other, check=3).returncode == 3
    assert pair.json("requests", "list", key=other) == []
