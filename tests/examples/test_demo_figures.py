"""The demo's judgement of its own rounds, its page and its picture; the measuring itself is `make demo`."""

from __future__ import annotations

import dataclasses
import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loadgen.results import Fate, Recorder, Requests

DEMO = Path(__file__).parents[2] / "examples" / "demo"


@pytest.fixture(scope="module")
def demo() -> Iterator[Any]:
    """The demo's modules, which are imported by their plain names and forgotten again."""
    names = {path.stem for path in DEMO.glob("*.py")}
    sys.path.insert(0, str(DEMO))
    try:
        yield importlib.import_module
    finally:
        sys.path.remove(str(DEMO))
        for name in names:
            sys.modules.pop(name, None)


def requests(name: str, latencies_ms: list[float], objective_ms: float | None, refused: int = 0) -> Requests:
    count = len(latencies_ms) + refused
    recorder = Recorder(np.linspace(0, 20, count))
    for index in range(count):
        recorder.sending(index, 0.0)
        if index < len(latencies_ms):
            recorder.settled(index, Fate.SERVED, "OK", latencies_ms[index] / 1e3)
        else:
            recorder.settled(index, Fate.REFUSED, "RATE_LIMITED", 0.001)
    return recorder.columns(name, objective_ms)


def outcome_of(
    demo: Any, *, walls_ms: float = 15.0, without_ms: float = 900.0, served: int = 180, others: float = 0.0
) -> Any:
    noise = demo("noise")
    arm = noise.Arm
    plan = noise.Calibration(acme_service_ms=13.0, globex_capacity_per_s=20.0)
    rounds = [
        noise.Round(
            objective_ms=40.0,
            order=(arm.WITHOUT, arm.WITH),
            solo=requests("acme", [13.0] * 100, None),
            arms={
                arm.WITH: {
                    "acme": requests("acme", [walls_ms] * 400, 40.0),
                    "globex": requests("globex", [60.0] * round(served * plan.arm_s / 20), 1000.0, refused=900),
                },
                arm.WITHOUT: {
                    "acme": requests("acme", [without_ms] * 400, 40.0),
                    "globex": requests("globex", [1900.0] * 100, 1000.0, refused=900),
                },
            },
            others={arm.WITH: others, arm.WITHOUT: others},
            sights={"acme": [demo("slowdown").Sight(1.1, 1.4, observed) for observed in (1.2, 1.1, 1.3)]},
        )
    ] * 3
    return demo("outcome").summarise(plan, rounds, noise.SOLO_S)


def test_predicted_and_measured_slowdowns_stand_side_by_side(demo: Any) -> None:
    outcome = outcome_of(demo)
    (row,) = outcome.slowdowns
    assert (row.tenant, row.predicted, row.observed, row.samples) == ("acme", 1.1, 1.2, 9)
    assert demo("outcome").slowdown_cells(outcome) == [("acme", "globex", "1.10", "1.20", "1.40", "9")]


def test_the_picture_shows(demo: Any) -> None:
    arm = demo("noise").Arm
    outcome = outcome_of(demo)
    assert demo("outcome").misses(outcome) == []
    assert outcome.row("acme", arm.WITH).attainment == 1.0
    assert outcome.row("acme", arm.WITHOUT).attainment == 0.0
    assert outcome.row("acme", arm.WITH).sent == 1200
    assert outcome.quota_served == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"walls_ms": 41.0}, "with walls acme's attainment is 0.0 %"),
        ({"without_ms": 39.0}, "without walls acme's attainment is 100.0 %, not below 80%"),
        ({"served": 160}, "of its quota, not 95% or more"),
    ],
)
def test_what_does_not_show_is_said(demo: Any, changed: dict[str, float], said: str) -> None:
    found = demo("outcome").misses(outcome_of(demo, **changed))
    assert len(found) == 1
    assert said in found[0]


def test_a_busy_machine_is_named_where_the_picture_fails(demo: Any) -> None:
    misses = demo("outcome").misses
    assert any("other programs used 30%" in m for m in misses(outcome_of(demo, walls_ms=41.0, others=0.3)))
    assert misses(outcome_of(demo, others=0.3)) == []


def test_too_few_requests_and_unsent_ones_are_said(demo: Any) -> None:
    outcome = outcome_of(demo)
    rows = tuple(dataclasses.replace(row, sent=row.sent // 3, unsent=1) for row in outcome.rows)
    found = demo("outcome").misses(dataclasses.replace(outcome, rows=rows))
    assert any("at least 1000 are wanted" in m for m in found)
    assert any("could not send 5 requests" in m for m in found)


def test_page_results_and_picture_are_written(demo: Any, tmp_path: Path) -> None:
    outcome, page = outcome_of(demo), demo("page")
    page.write_page(outcome, {"seed": 7}, tmp_path / "report.html")
    page.write_results(outcome, {"seed": 7}, tmp_path / "results.json")
    page.write_figure(outcome, tmp_path / "images" / "demo.svg")
    html = (tmp_path / "report.html").read_text()
    assert html.count("<svg") == 3
    assert "http" not in html.replace("http://www.w3.org", "")
    assert json.loads((tmp_path / "results.json").read_text())["globex"]["capacity_per_s"] == 20.0
    svg = (tmp_path / "images" / "demo.svg").read_text()
    assert svg.startswith("<svg")
    assert "100.0 %" in svg


def test_the_plan_follows_the_measured_speed(demo: Any) -> None:
    noise = demo("noise")
    for service_ms in (2.0, 13.0, 60.0):
        plan = noise.Calibration(service_ms, 20.0)
        assert plan.acme_rate_per_s * plan.arm_s * noise.ROUNDS >= 1000
        assert plan.arm_s <= 30.0
    assert noise.Calibration(13.0, 20.0).quota_per_s == pytest.approx(9.0)
    assert noise.Calibration(2.0, 5000.0).flood_per_s == 1000.0


def test_sentences_are_short_and_all_different(demo: Any) -> None:
    lines = demo("noise").SENTENCES.read_text().splitlines()
    assert len(lines) == len(set(lines)) == 200
    assert all(4 <= len(line.split()) <= 12 for line in lines)


def test_own_work_is_not_others(demo: Any) -> None:
    """A child that works counts as the demo's own."""
    machine = demo("machine")
    before = machine.usage()
    worker = subprocess.Popen([sys.executable, "-c", "sum(range(20_000_000)); input()"], stdin=subprocess.PIPE)
    try:
        for _ in range(2000):
            now = machine.usage()
            if now.own_s - before.own_s >= 0.2:
                break
        assert now.own_s - before.own_s >= 0.2
        assert 0.0 <= now.others_since(before) <= 1.0
    finally:
        worker.kill()
        worker.communicate()


def test_help(demo: Any) -> None:
    done = subprocess.run(
        [sys.executable, DEMO / "run.py", "--help"], capture_output=True, text=True, timeout=60, check=True
    )
    assert "--save-figure" in done.stdout
