"""A version measured for real on this machine's cores, by the command line."""

from __future__ import annotations

import shutil
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_instance import Instance, eventually
from mlp_model import MLP_OPTIONS

import partywall

pytestmark = pytest.mark.e2e


@pytest.fixture
def profiled(tmp_path: Path, mlp_folder: Path) -> Instance:
    made = Instance(tmp_path)
    try:
        made.start()
        yield made  # type: ignore[misc]
    finally:
        made.stop()


def test_a_version_is_profiled_kept_and_shredded(profiled: Instance, mlp_folder: Path) -> None:
    key = profiled.tenant("acme")
    profiled.push(key, "mlp", mlp_folder, *MLP_OPTIONS, "--promote")
    assert profiled.json("models", "profile", "mlp", key=key)["profiles"] == []
    found = profiled.json("profile", "mlp", "--quick", "--anyway", key=key)
    (record,) = found["profiles"]
    assert record["complete"] is True
    assert record["input_bytes"] == 16 * 4
    if record["curves"]:
        assert record["predicted_from"] == "profiles"
        assert "no fit for this type of device" in record["predicted_from_reason"]
    assert all(p["latency_ms"] > 0 for p in record["solo"])
    if profiled.json("fleet", "show")["nodes"][0]["devices"][0]["compute_units"] > 1:
        assert {p["probe"] for p in record["curves"]} == {"probe:membw:1.0", "probe:llc:1.0"}
    assert all(r["model"] == "mlp" for r in profiled.replicas()), "the profiler's own workers are nobody's replicas"
    # A profile is the tenant's own: not a figure of it stands on the disk in the clear.
    for file in profiled.data_dir.rglob("*"):
        assert not file.is_file() or b"probe:membw" not in file.read_bytes(), file

    profiled.stop()
    profiled.start()
    again = profiled.json("models", "profile", "mlp", key=key)
    assert again["profiles"] == found["profiles"]
    backup = profiled.root / "backup.db"
    shutil.copy(profiled.data_dir / "state.db", backup)
    profiled.run("models", "delete", "mlp", "--yes", key=key)
    gone = profiled.run("models", "profile", "mlp", key=key, check=3)
    assert "does not exist" in gone.stderr


def test_live_traffic_corrects_what_profiles_predict(profiled: Instance, mlp_folder: Path) -> None:
    keys = {name: profiled.tenant(name) for name in ("acme", "globex")}
    for key in keys.values():
        profiled.push(key, "mlp", mlp_folder, *MLP_OPTIONS, "--promote")
    if len({core for replica in profiled.replicas() for core in replica["partition"]["cores"]}) < 2:
        pytest.skip("one core: nobody stands beside anybody")
    quiet = profiled.json("explain", "mlp", key=keys["acme"])
    assert quiet["slowdowns"] == [], "without a profile nothing is said"
    for key in keys.values():
        profiled.json("profile", "mlp", "--quick", "--shares", "50", "--anyway", key=key)
    with ThreadPoolExecutor() as pool:
        stop = threading.Event()
        flood = [pool.submit(send, profiled.address, key, stop) for key in keys.values()]
        try:
            found = eventually(lambda: beside(profiled.json("explain", "mlp", key=keys["acme"])["slowdowns"]))
            text = scrape(profiled)
        finally:
            stop.set()
        assert all(one.result() > 0 for one in flood), "every request was answered, with the bound in admission"
    assert found["basis"] == "profiles"
    assert found["predicted"] >= 1.0
    assert found["bound"] >= found["predicted"]
    assert found["neighbours"] == ["another tenant's model"]
    assert 'partywall_slowdown{kind="bound"' in text


def send(address: str, key: str, stop: threading.Event) -> int:
    """A tenant's requests, one after the other, until it is told to stop."""
    answered = 0
    with partywall.Client(address, api_key=key) as client:
        while not stop.is_set():
            client.infer("mlp", {"x": np.ones((64, 16), np.float32)})
            answered += 1
    return answered


def beside(slowdowns: list[dict[str, Any]]) -> dict[str, Any] | None:
    """The first replica that was observed beside a neighbour."""
    return next((s for s in slowdowns if s["neighbours"] and s["observed"]), None)


def scrape(instance: Instance) -> str:
    with urllib.request.urlopen(f"http://{instance.ready['metrics_address']}/metrics", timeout=20) as answer:
        return str(answer.read().decode())


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("nothing",), 3, "does not exist"),
        (("m", "--shares", "fifty"), 1, "--shares"),
        (("m", "--batch", "100000", "--anyway"), 1, "batch must be"),
        (("m", "--node", "elsewhere"), 4, "only the operator"),
        (("m", "--shares", "0", "--anyway"), 1, "shares must be"),
        (("m", "--version", "9"), 3, "no version 9"),
    ],
)
def test_bad_input_is_refused(
    instance: Instance, mlp_folder: Path, arguments: tuple[str, ...], code: int, words: str
) -> None:
    key = _tenant(instance, mlp_folder)
    done = instance.run("profile", *arguments, key=key, check=code)
    assert words in done.stderr


_KEYS: dict[Path, str] = {}


def _tenant(instance: Instance, folder: Path) -> str:
    if instance.root not in _KEYS:
        _KEYS[instance.root] = key = instance.tenant("measured")
        instance.push(key, "m", folder, *MLP_OPTIONS, "--promote")
    return _KEYS[instance.root]
