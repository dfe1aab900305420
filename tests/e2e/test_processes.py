"""Two router processes on one port: both serve, one dies and comes back, new state reaches both, quotas hold in sum."""

from __future__ import annotations

import os
import signal
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from e2e_instance import Instance, eventually
from mlp_model import MLP_OPTIONS

from partywall.wire import inference as oip
from partywall.wire.status import from_rpc_error

pytestmark = pytest.mark.e2e

X = {"x": np.ones((1, 16), np.float32)}
CONNECTIONS = 12
"""They fall on the two processes by chance: all on one in one of 2,000 tries."""
SERVED = 'partywall_requests_total{model="acme-model",outcome="OK",tenant="acme"}'


class Connection:
    """A caller with a connection of its own: gRPC lets channels of one process share one unless told."""

    def __init__(self, instance: Instance, key: str) -> None:
        self.channel = grpc.insecure_channel(instance.address, [("grpc.use_local_subchannel_pool", 1)])
        self.metadata = (("authorization", f"Bearer {key}"),)

    def call(self, method: str, request: Any) -> Any:
        path, serialise, parse, _ = oip.method_codec(method)
        return self.channel.unary_unary(path, serialise, parse)(request, metadata=self.metadata, timeout=5.0)

    def infer(self, model: str) -> str:
        """`OK`, or the reason of the refusal."""
        request = oip.ModelInferRequest(model_name=model)
        request.inputs.add(name="x", datatype="FP32", shape=[1, 16])
        request.raw_input_contents.append(X["x"].tobytes())
        try:
            self.call("ModelInfer", request)
        except grpc.RpcError as failure:
            return from_rpc_error(failure).reason.value
        return "OK"


def indexed(connection: Connection) -> list[str]:
    index = connection.call("RepositoryIndex", oip.message("RepositoryIndexRequest")())
    return [model.name for model in index.models]


@contextmanager
def connections(instance: Instance, key: str, count: int = CONNECTIONS) -> Iterator[list[Connection]]:
    with ExitStack() as stack:
        made = [Connection(instance, key) for _ in range(count)]
        for one in made:
            stack.callback(one.channel.close)
        yield made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, mlp_folder: Path) -> Iterator[dict[str, Any]]:
    options = ("--router-processes", "2", "--connection-age-s", "2", "--drain-s", "3")
    made = Instance(tmp_path_factory.mktemp("pair"), options)
    try:
        made.start()
        key = made.tenant("acme")
        made.push(key, "acme-model", mlp_folder, *MLP_OPTIONS)
        with connections(made, key) as many:
            # The process that does not lead asks for news every quarter of a second.
            eventually(lambda: all(one.infer("acme-model") == "OK" for one in many))
        yield {"instance": made, "acme": key}
    finally:
        code = made.stop()
    assert code == 0, made.log()


def metrics(instance: Instance) -> dict[str, float]:
    with urllib.request.urlopen(f"http://{instance.ready['metrics_address']}/metrics", timeout=10) as response:
        lines = response.read().decode().splitlines()
    return {name: float(value) for name, _, value in (x.rpartition(" ") for x in lines if not x.startswith("#"))}


def by_process(instance: Instance) -> list[float]:
    found = metrics(instance)
    return [found.get(f'partywall_router_process_requests_total{{process="{index}"}}', 0.0) for index in (0, 1)]


def member(instance: Instance, index: int) -> int:
    """The pid of router process `index`, 0 while there is none."""
    parent = instance.ready["router_pid"]
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if f"process-{index}".encode() in command:
            return int(pid)
    return 0


def test_both_processes_answer_and_metrics_are_of_both(pair: dict[str, Any]) -> None:
    instance: Instance = pair["instance"]
    before, sent, then = metrics(instance).get(SERVED, 0.0), 0, by_process(instance)

    def both() -> bool:
        return all(now > earlier for now, earlier in zip(by_process(instance), then, strict=True))

    for _ in range(5):
        with connections(instance, pair["acme"]) as many:
            assert {one.infer("acme-model") for one in many} == {"OK"}
            sent += len(many)
            if both():
                break
    assert both()
    after = metrics(instance)
    assert after[SERVED] - before == sent
    assert after["partywall_agents"] == 1
    with connections(instance, pair["acme"]) as many:
        for one in many:
            counted = one.call("ModelStatistics", oip.message("ModelStatisticsRequest")(name="acme-model"))
            assert counted.model_stats[0].inference_count == after[SERVED]


def test_a_connection_is_moved_in_time(pair: dict[str, Any]) -> None:
    """One channel, connections two seconds old at the most: both processes see its requests, and none fails."""
    instance: Instance = pair["instance"]
    before = by_process(instance)
    with connections(instance, pair["acme"], 1) as (one,):

        def both() -> bool:
            assert one.infer("acme-model") == "OK"
            return all(now > then for now, then in zip(by_process(instance), before, strict=True))

        eventually(both)


def test_slowdowns_are_judged_by_what_both_saw(pair: dict[str, Any]) -> None:
    instance: Instance = pair["instance"]
    instance.json("profile", "acme-model", "--quick", "--anyway", key=pair["acme"])
    with connections(instance, pair["acme"]) as many:

        def observed() -> bool:
            assert {one.infer("acme-model") for one in many} == {"OK"}
            seen = instance.json("explain", "acme-model", key=pair["acme"])["slowdowns"]
            return any(one["observed"] for one in seen)

        # Nothing is judged before the leading process has heard from both.
        eventually(observed)
    basis = 'partywall_slowdown_basis{basis="profiles",model="acme-model"'
    assert any(name.startswith(basis) for name in metrics(instance))


def test_new_state_is_seen_by_both_within_a_second(pair: dict[str, Any], mlp_folder: Path) -> None:
    instance: Instance = pair["instance"]
    with connections(instance, "pw_none") as many:
        assert {one.infer("none") for one in many} == {"BAD_CREDENTIAL"}
    key = instance.tenant("globex")
    issued = time.monotonic()
    with connections(instance, key) as many:
        for one in many:
            eventually(lambda one=one: one.infer("none") == "MODEL_NOT_FOUND", limit_s=5.0)
        took_s = time.monotonic() - issued
        instance.push(key, "late", mlp_folder, *MLP_OPTIONS)
        pushed = time.monotonic()
        for one in many:
            eventually(lambda one=one: one.infer("late") == "OK", limit_s=5.0)
        print(f"key seen by all after {took_s:.2f} s, model after {time.monotonic() - pushed:.2f} s")


def test_pushing_works_whichever_process_is_called(pair: dict[str, Any], mlp_folder: Path) -> None:
    instance: Instance = pair["instance"]
    key = instance.tenant("initech")
    names = [f"m{number}" for number in range(4)]
    for name in names:
        instance.push(key, name, mlp_folder, *MLP_OPTIONS)
    with connections(instance, key) as many:
        for one in many:
            # A process that was not asked follows within a second.
            eventually(lambda one=one: indexed(one) == names, limit_s=5.0)


def test_the_sum_of_a_quota_holds(pair: dict[str, Any], mlp_folder: Path) -> None:
    instance: Instance = pair["instance"]
    key = instance.tenant("hooli", "--requests-per-s", "20", "--burst", "10")
    instance.push(key, "m", mlp_folder, *MLP_OPTIONS)
    with connections(instance, key) as many:
        for one in many:
            eventually(lambda one=one: one.infer("m") in ("OK", "RATE_LIMITED"))
        started = time.monotonic()
        outcomes: list[str] = []

        def send(one: Connection) -> None:
            while time.monotonic() < started + 3.0:
                outcomes.append(one.infer("m"))

        threads = [threading.Thread(target=send, args=(one,)) for one in many]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        elapsed_s = time.monotonic() - started
    assert set(outcomes) == {"OK", "RATE_LIMITED"}
    assert outcomes.count("OK") <= 10 + 20 * elapsed_s
    # Half of the rate for each process would be there to be had only by those that happen to call both.
    assert outcomes.count("OK") >= 0.7 * 20 * 3.0


@pytest.mark.parametrize("index", [1, 0], ids=["another", "leading"])
def test_a_killed_process_returns_while_the_other_serves(pair: dict[str, Any], index: int) -> None:
    instance: Instance = pair["instance"]
    victim, other = member(instance, index), member(instance, 1 - index)
    assert victim
    counted = sum(by_process(instance))
    os.kill(victim, signal.SIGKILL)
    outcomes: list[str] = []

    def back() -> bool:
        with connections(instance, pair["acme"], 4) as many:
            outcomes.extend(one.infer("acme-model") for one in many)
        return member(instance, index) not in (0, victim)

    eventually(back)
    assert member(instance, 1 - index) == other
    assert outcomes.count("OK") >= 0.5 * len(outcomes), outcomes
    # What the dead one had counted stays: sums never fall.
    assert sum(by_process(instance)) >= counted
    assert metrics(instance)[f'partywall_router_process_ended_total{{process="{index}"}}'] == 1
    eventually(lambda: instance.run("tenants", "create", f"after-{index}", check=None).returncode == 0)
    eventually(lambda: [n["state"] for n in instance.json("fleet", "show")["nodes"]] == ["online"])
    had = by_process(instance)[index]

    def whole() -> bool:
        with connections(instance, pair["acme"]) as many:
            return {one.infer("acme-model") for one in many} == {"OK"} and by_process(instance)[index] > had

    eventually(whole)
