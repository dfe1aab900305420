"""Live benchmarks' own parts: what they simulate and how rounds become figures. Nothing is timed here."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks import fairness, live_vs_simulated
from benchmarks.fairness import Seen
from benchmarks.live.measured import LARGE, SMALL, Profiled, Way, between
from benchmarks.live_vs_simulated import Result
from loadgen.arrivals import Poisson, rng_for
from loadgen.results import Fate, Requests

PROFILES = {
    SMALL.name: Profiled((0.004, 0.006, 0.008, 0.010), 0.05),
    LARGE.name: Profiled((0.015,), 0.05),
}
WAY = Way(0.001, 0.0, 0.0)
OBJECTIVE_S = {SMALL.name: 0.025, LARGE.name: 0.091}


def table(name: str, latency_s: list[float], fate: list[Fate]) -> Requests:
    count = len(latency_s)
    return Requests(
        name, None, np.arange(count, dtype=float), np.zeros(count), np.array(latency_s), np.array(fate, np.int8),
        np.zeros(count, np.int16), ("OK",),
    )  # fmt: skip


def simulated(load: float) -> Result:
    arrivals = [
        Poisson(load / 2 / PROFILES[m.name].batch_s[0]).times_s(rng_for(3, m.name), 30.0) for m in (SMALL, LARGE)
    ]
    return live_vs_simulated.simulate(PROFILES, WAY, OBJECTIVE_S, arrivals)


def test_the_simulated_half_repeats_and_gets_worse_with_load() -> None:
    assert simulated(0.5) == simulated(0.5)
    light, heavy = simulated(0.3), simulated(1.2)
    assert light.attainment > 0.98 > heavy.attainment
    assert light.p95_ms < heavy.p95_ms <= 91.5 + 1e-6, "late by no more than the road behind admission"


def test_live_figures_count_refusals_as_misses_and_late_answers_too() -> None:
    tables = [
        table(SMALL.name, [0.01, 0.03, 0.002], [Fate.SERVED, Fate.SERVED, Fate.REFUSED]),
        table(LARGE.name, [0.05], [Fate.SERVED]),
    ]
    seen = live_vs_simulated.live(tables, OBJECTIVE_S)
    assert seen.attainment == pytest.approx(0.5)
    assert seen.p95_ms == pytest.approx(48.0)


def row(load: float, live: float, made: float, p95: float) -> dict[str, Any]:
    return {
        "round": 0,
        "load": load,
        "live": {"attainment": live, "p95_ms": 50.0},
        "simulated": {"attainment": made, "p95_ms": p95},
    }


def test_bars_are_judged_on_medians_within_rounds() -> None:
    rows = [row(0.5, 0.90, 0.91, 52.0), row(0.5, 0.92, 0.97, 55.0), row(0.5, 0.95, 0.96, 100.0)]
    found = live_vs_simulated.summary(rows)["load 0.5"]
    assert found["attainment_gap"] == pytest.approx(0.01)
    assert found["p95_ratio"] == pytest.approx(1.1)
    assert found["holds"]
    assert not live_vs_simulated.summary([row(0.8, 0.9, 0.94, 50.0)])["load 0.8"]["holds"]
    assert "| 0.5 |" in live_vs_simulated.markdown({"rounds": 1, "load 0.5": found})


def test_fairness_needs_both_an_unmoved_tail_and_served_requests() -> None:
    calm = {"moved": 1.1, "acme_served": 1.0, "globex_core": 0.6}
    starved = {**calm, "acme_served": 0.9}
    assert fairness.summary([calm, calm, starved])["holds"]
    assert not fairness.summary([starved, starved, calm])["holds"]
    assert not fairness.summary([{**calm, "moved": 1.3}])["holds"]
    seen = Seen.of(table("acme", [0.02, 0.04, 9.0], [Fate.SERVED, Fate.SERVED, Fate.REFUSED]))
    assert (seen.served, seen.planned, seen.p50_ms) == (2, 3, 30.0)
    assert replace(seen, served=0) != seen


def test_what_held_between_two_measurements_is_their_mean() -> None:
    before = ({"a": Profiled((0.010, 0.016), 0.1)}, Way(0.004, 0.0005, 0.001))
    after = ({"a": Profiled((0.012, 0.020), 0.2)}, Way(0.002, 0.0007, 0.0))
    profiles, way = between(before, after)
    assert profiles["a"].batch_s == pytest.approx((0.011, 0.018))
    assert profiles["a"].scatter == pytest.approx(0.15)
    assert (way.outside_s, way.gap_s, way.wake_s) == pytest.approx((0.003, 0.0006, 0.0005))
