"""The benchmark's own parts: what it sends, what it reads, what it prints."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.dataplane import payload
from benchmarks.dataplane.bench import BUSY, IDLE, MANY, Comparison, added_ms, ratio
from benchmarks.dataplane.cores import together
from benchmarks.dataplane.load import AioClient, H2Load, Outcome, Shape, choose_client, even_starts
from benchmarks.dataplane.processes import cpu_s, descendants, machine, pss_mib, rss_mib
from benchmarks.dataplane.report import comparison_table
from benchmarks.dataplane.rounds import Sample, Spread, interleave, take
from benchmarks.dataplane.servers import Server, echo_server
from partywall.wire.inference import ModelInferResponse

ROOT = Path(__file__).resolve().parents[1]
SUMMARY = {"echo_us", "router_us", "agent_us", "worker_us", "ratio", "idle_added_ms"}


@pytest.fixture(scope="module")
def echo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with echo_server(tmp_path_factory.mktemp("echo")) as server:
        yield server


def sample(server: str, us: dict[str, float], p50_ms: float = 1.0) -> Sample:
    return Sample(server, Outcome(100, 0, 1.0, p50_ms, 2 * p50_ms), us, 30.0, 0.0)


ROUNDS = [
    [sample("echo", {"echo": 200.0}, 0.2), sample("partywall", {"router": 250.0, "agent": 40.0, "worker": 10.0}, 0.9)],
    [sample("echo", {"echo": 100.0}, 0.3), sample("partywall", {"router": 200.0, "agent": 40.0, "worker": 10.0}, 1.3)],
    [sample("echo", {"echo": 300.0}, 0.2), sample("partywall", {"router": 300.0, "agent": 50.0, "worker": 10.0}, 0.8)],
]


def test_figures_are_taken_within_a_round_and_then_the_median() -> None:
    assert ratio(ROUNDS).median == pytest.approx(1.5)
    assert ratio(ROUNDS).high == pytest.approx(2.5)
    assert added_ms(ROUNDS).median == pytest.approx(0.7)


def test_the_summary_has_the_fields_that_are_promised() -> None:
    summary = Comparison("h2load", ROUNDS, ROUNDS, ROUNDS).summary()
    assert set(summary) == SUMMARY
    assert summary["echo_us"] == 200.0
    assert summary["ratio"] == 1.5
    assert comparison_table(Comparison("h2load", ROUNDS, ROUNDS, ROUNDS)).row_count == 7


def test_a_spread_tells_median_and_range() -> None:
    assert Spread.of([3.0, 1.0, 2.0]).text(1) == "2.0 (1.0 to 3.0)"


def test_the_framing_is_that_of_grpc() -> None:
    message = payload.request_bytes()
    assert 1024 < len(message) < 1100
    assert payload.framed(message)[:5] == b"\0" + len(message).to_bytes(4, "big")
    assert payload.request_bytes() == message


def test_a_reply_with_another_tensor_is_noticed() -> None:
    request = payload.request_bytes(4)
    good = ModelInferResponse(model_name="echo")
    good.outputs.add(name="x", datatype="FP32", shape=[1, 4])
    good.raw_output_contents.append(request[-16:])
    payload.check_reply(good.SerializeToString(), request)
    good.raw_output_contents[0] = bytes(16)
    with pytest.raises(AssertionError, match="another tensor"):
        payload.check_reply(good.SerializeToString(), request)


def test_processor_time_is_read_per_process() -> None:
    before = cpu_s([os.getpid()])
    total = 0
    while cpu_s([os.getpid()]) - before < 0.02:
        total += sum(range(10_000))
    assert cpu_s([os.getpid()]) > before
    assert rss_mib([os.getpid()]) >= pss_mib([os.getpid()]) > 1.0
    assert machine().cores >= 1


def test_descendants_are_found_and_the_dead_are_an_error() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert child.pid in descendants(os.getpid())
    finally:
        child.communicate(b"\n", timeout=20)
    with pytest.raises(ProcessLookupError):
        cpu_s([child.pid])


@pytest.mark.parametrize("shape", [IDLE, Shape(4, 4), Shape(2, 8, rate_per_s=400.0)])
def test_the_client_process_sends_what_was_ordered(echo: Server, shape: Shape) -> None:
    outcome = AioClient().run(echo, shape, 96)
    assert (outcome.completed, outcome.failed) == (96, 0)
    assert 0.0 < outcome.p50_ms <= outcome.p99_ms
    if shape.rate_per_s:
        assert outcome.per_s < 2 * shape.rate_per_s


def test_cores_together_are_compared_with_each_alone() -> None:
    # Whoever else is on the machine moves it either way; it is a share, not a count.
    assert 0.05 < together() < 20.0


@pytest.mark.parametrize("rate_per_s", [40.0, 300.0, 1000.0, 1588.0, 2400.0, 3500.0])
def test_connections_that_pace_themselves_start_evenly_over_one_period(rate_per_s: float) -> None:
    starts, every_ms = even_starts(rate_per_s)
    assert starts / every_ms == pytest.approx(rate_per_s / 1e3, rel=0.15)
    # A burst is no even load.
    assert starts <= max(1.0, 3 * rate_per_s / 1e3)


@pytest.mark.parametrize("shape", [BUSY, MANY, Shape(8, 8, rate_per_s=2000.0)])
def test_h2load_sends_what_was_ordered(echo: Server, shape: Shape, tmp_path: Path) -> None:
    client = choose_client(tmp_path)
    if not isinstance(client, H2Load):
        pytest.skip("h2load is not installed")
    outcome = client.run(echo, shape, 512)
    assert (outcome.completed, outcome.failed) == (512, 0)
    assert 0.0 < outcome.p50_ms <= outcome.p99_ms


def test_a_sample_holds_the_servers_time_and_not_the_clients(echo: Server) -> None:
    echo.probe(payload.request_bytes())
    taken = take(echo, AioClient(), Shape(1, 8), 1024)
    assert 0.0 < taken.cpu_us["echo"] < 5_000.0
    assert taken.client_us > 0.0


def test_answers_that_the_server_did_not_count_are_noticed(echo: Server) -> None:
    counts = iter((0, 63))
    lying = replace(echo, answered=lambda: next(counts))
    with pytest.raises(AssertionError, match="answered 63 of 64"):
        take(lying, AioClient(), Shape(1, 8), 64)


def test_rounds_are_interleaved(echo: Server) -> None:
    notes: list[str] = []
    other = replace(echo, name="other")
    rounds = interleave((echo, other), AioClient(), IDLE, rounds=2, seconds=0.01, note=notes.append)
    assert [[s.server for s in samples] for samples in rounds] == [["echo", "other"]] * 2
    assert len(notes) == 2


@pytest.mark.e2e
def test_the_last_line_is_one_object_with_all_parts() -> None:
    command = [sys.executable, "benchmarks/run.py", "--rounds", "1", "--seconds", "0.2", "--only", "dataplane"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert set(figures) == {"dataplane", "sealed", "interference", "simulation"}
    assert figures["sealed"] is figures["interference"] is figures["simulation"] is None
    assert set(figures["dataplane"]) == SUMMARY
    assert all(value > 0.0 for name, value in figures["dataplane"].items() if name.endswith("_us"))
