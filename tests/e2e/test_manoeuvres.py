"""Resize and move under load: not one request fails."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from e2e_instance import Instance, eventually
from mlp_model import MLP_OPTIONS
from test_second_node import agent, online

import partywall
from partywall.client.retry import RetryPolicy

NO_RETRY = RetryPolicy(max_tries=1)
pytestmark = pytest.mark.e2e


@dataclass
class Load:
    """What happened to the requests of some threads."""

    done: int = 0
    failures: list[str] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)


@contextmanager
def load(instance: Instance, key: str, model: str, threads: int = 3) -> Iterator[Load]:
    """Requests without a pause, without retries, from threads of their own."""
    seen, lock = Load(), threading.Lock()

    def ask(number: int) -> None:
        x = np.full((1, 16), number, np.float32)
        with partywall.Client(instance.address, api_key=key, retry=NO_RETRY) as client:
            expected = client.infer(model, {"x": x}, deadline_s=20.0)["y"]
            while not seen.stop.is_set():
                try:
                    answer = client.infer(model, {"x": x}, deadline_s=20.0)["y"]
                    ok = bool(np.allclose(answer, expected, atol=1e-4))
                    with lock:
                        seen.done += 1
                        if not ok:
                            seen.failures.append("a wrong answer")
                except partywall.PartywallError as error:
                    with lock:
                        seen.failures.append(f"{error.reason}: {error.message}")

    workers = [threading.Thread(target=ask, args=(n,)) for n in range(threads)]
    for worker in workers:
        worker.start()
    try:
        yield seen
    finally:
        seen.stop.set()
        for worker in workers:
            worker.join(60)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, mlp_folder: Path) -> Iterator[tuple[Instance, str]]:
    made = Instance(tmp_path_factory.mktemp("manoeuvres"), ("--drain-s", "5")).start()
    try:
        key = made.tenant("acme")
        made.push(key, "mlp", mlp_folder, *MLP_OPTIONS)
        yield made, key
    finally:
        made.stop()


def partitions(instance: Instance) -> list[dict[str, Any]]:
    return list(instance.json("partitions", "list"))


def progress(load: Load, more: int = 20) -> None:
    start = load.done
    eventually(lambda: load.done >= start + more or load.failures)


def test_resize_under_load_fails_nobody(served: tuple[Instance, str]) -> None:
    instance, key = served
    (before,) = partitions(instance)
    assert len(before["cores"]) == 1
    with load(instance, key, "mlp") as seen:
        progress(seen)
        looked = instance.json("partitions", "resize", "acme/mlp", "--share", "100", "--dry-run")
        assert looked["dry_run"]
        assert looked["to"]["share_percent"] == 100
        assert [p["id"] for p in partitions(instance)] == [before["id"]]
        pid = instance.replica("mlp")["pid"]
        answer = instance.json("partitions", "resize", "acme/mlp", "--share", "100", "--wait")
        assert answer["state"] == "standing"
        progress(seen)
    assert seen.failures == []
    (after,) = partitions(instance)
    assert after["id"] != before["id"]
    assert after["share_percent"] == 100
    assert after["share_by"] == "operator"
    assert instance.json("partitions", "resize", "acme/mlp", "--auto")["share_by"] == "planner"
    assert instance.replica("mlp")["pid"] != pid
    assert "cores" in after["wall"]
    decisions = instance.json("explain", "mlp", "--tenant", "acme")["decisions"]
    assert [d["kind"] for d in decisions if "moved" in d["summary"] or "moves" in d["summary"]] == ["manoeuvre"] * 2


def test_move_between_two_nodes_under_load_fails_nobody(served: tuple[Instance, str], tmp_path: Path) -> None:
    instance, key = served
    bundle = instance.json("fleet", "token", "n2")["bundle"]
    process = agent(instance, tmp_path / "n2", "n2", bundle)
    try:
        eventually(lambda: online(instance, "n2"))
        with load(instance, key, "mlp") as seen:
            progress(seen)
            instance.run("partitions", "move", "acme/mlp", "--node", "n2", "--wait")
            assert instance.replica("mlp")["node"] == "n2"
            progress(seen)
            instance.run("partitions", "move", "acme/mlp", "--node", "local", "--wait")
            assert instance.replica("mlp")["node"] == "local"
            progress(seen)
        assert seen.failures == []
    finally:
        process.terminate()
        assert process.wait(30) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("resize", "acme/mlp"), "--share PERCENT or --cores N"),
        (("resize", "acme/mlp", "--share", "101"), "1 to 100"),
        (("resize", "acme/mlp", "--share", "50", "--auto"), "or --auto alone"),
        (("resize", "acme/mlp", "--cores", "999"), "999 cores are asked for"),
        (("resize", "nobody/nothing", "--cores", "1"), "partywall partitions list"),
        (("move", "acme/mlp"), "--node NODE"),
        (("move", "acme/mlp", "--node", "nowhere"), "is not connected"),
        (("move", "acme/mlp", "--node", "local"), "on local already"),
    ],
)
def test_bad_input_says_what_to_do(served: tuple[Instance, str], arguments: tuple[str, ...], words: str) -> None:
    instance, _ = served
    done = instance.run("partitions", *arguments, check=None)
    assert words in done.stderr, done.stderr
    assert done.returncode != 0
    assert "Traceback" not in done.stderr


def test_attest_reads_every_wall_and_a_lost_one_takes_no_traffic(served: tuple[Instance, str]) -> None:
    instance, key = served
    before = instance.json("fleet", "attest")
    assert before["ok"]
    (one,) = before["replicas"]
    assert {c["what"] for c in one["checks"]} >= {"process", "affinity mask", "threads", "no new privileges"}
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("one core: no other affinity to set")
    pid = instance.replica("mlp")["pid"]
    mask = os.sched_getaffinity(pid)
    other = {min(mask)} if len(mask) > 1 else os.sched_getaffinity(0)
    for thread in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(thread), other)
    broken = instance.run("fleet", "attest", "-o", "json", check=None)
    assert broken.returncode != 0
    assert "affinity is" in broken.stderr
    eventually(lambda: instance.replica("mlp")["pid"] not in (0, pid) and instance.replica("mlp")["state"] == "ready")
    assert instance.json("fleet", "attest")["ok"]
    (event,) = [e for e in instance.json("fleet", "events") if e["kind"] == "wall_mismatch"]
    assert event["placement_id"] == one["placement_id"]
    with partywall.Client(instance.address, api_key=key) as client:
        assert client.infer("mlp", {"x": np.ones((1, 16), np.float32)})["y"].shape == (1, 4)


@pytest.fixture(scope="module")
def h100(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    made = Instance(tmp_path_factory.mktemp("h100"), ("--drain-s", "2", "--simulate-devices", "h100")).start()
    try:
        yield made
    finally:
        made.stop()


def test_a_simulated_h100_is_cut_by_mps_attested_and_resized(h100: Instance, mlp_folder: Path) -> None:
    keys = {name: h100.tenant(name) for name in ("acme", "zeta")}
    for name, key in keys.items():
        h100.push(key, "mlp", mlp_folder, *MLP_OPTIONS, "--share", "50")
        del name
    rows = partitions(h100)
    assert sorted((r["kind"], r["share_percent"]) for r in rows) == [("mps", 50), ("mps", 50)]
    assert all("66 of 132 SMs" in r["wall"] for r in rows)
    with load(h100, keys["acme"], "mlp", threads=1) as seen:
        progress(seen, 5)
        # The GPU is full: only a takeover may overlap with what it replaces.
        h100.run("partitions", "resize", "acme/mlp", "--share", "25", "--wait")
        h100.run("partitions", "resize", "zeta/mlp", "--share", "75", "--wait")
        progress(seen, 5)
    assert seen.failures == []
    assert sorted(r["share_percent"] for r in partitions(h100)) == [25, 75]
    refused = h100.run("partitions", "resize", "acme/mlp", "--share", "30", check=None)
    assert "30 % of the SMs are asked for and 25 % are free" in refused.stderr
    answer = h100.json("fleet", "attest")
    assert answer["ok"]
    checks = {c["what"]: c for one in answer["replicas"] if one["tenant"] == "zeta" for c in one["checks"]}
    assert checks["SM count"]["seen"] == "98"
    assert checks["client list"]["ok"]
    assert checks["memory cap"]["seen"] == "overrun refused"
