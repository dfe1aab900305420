"""Arrival processes: rates, burstiness, seeds, merging."""

from __future__ import annotations

import math

import numpy as np
import pytest

from loadgen.arrivals import ArrivalProcess, Constant, Gamma, OnOff, Poisson, Replay, merge, rng_for
from partywall.errors import InvalidInput

PROCESSES: list[ArrivalProcess] = [Constant(50), Poisson(50), Gamma(50, 0.25), Gamma(50, 4), OnOff(50, 1.0, 3.0)]


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_times_ascend_inside_the_duration(process: ArrivalProcess) -> None:
    times = process.times_s(rng_for(1, "t"), 30.0)
    assert len(times) > 0
    assert times[0] >= 0
    assert times[-1] < 30.0
    assert (np.diff(times) >= 0).all()


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_mean_count_is_rate_times_duration(process: ArrivalProcess) -> None:
    counts = np.array([len(process.times_s(rng_for(seed, "t"), 20.0)) for seed in range(200)])
    standard_error = max(counts.std() / math.sqrt(len(counts)), 0.5)
    assert abs(counts.mean() - 1000) < 4 * standard_error


@pytest.mark.parametrize(("process", "cv"), [(Poisson(100), 1.0), (Gamma(100, 0.25), 0.25), (Gamma(100, 3.0), 3.0)])
def test_gaps_have_the_coefficient_of_variation(process: ArrivalProcess, cv: float) -> None:
    gaps = np.diff(process.times_s(rng_for(7, "t"), 2000.0))
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.05)


def test_constant_gaps_are_even() -> None:
    assert np.diff(Constant(10).times_s(rng_for(0, "t"), 5.0)) == pytest.approx(0.1)


def test_bursts_come_at_the_burst_rate_and_leave_gaps() -> None:
    process = OnOff(20, on_s=1.0, off_s=4.0)
    assert process.burst_rate_per_s == pytest.approx(100)
    per_second = np.bincount(process.times_s(rng_for(3, "t"), 1000.0).astype(int), minlength=1000)
    assert (per_second == 0).mean() > 0.4
    assert np.quantile(per_second, 0.99) > 60


def test_the_same_seed_repeats_and_streams_are_independent() -> None:
    again = [Poisson(10).times_s(rng_for(5, "acme"), 10.0) for _ in range(2)]
    other = Poisson(10).times_s(rng_for(5, "globex"), 10.0)
    assert np.array_equal(*again)
    assert not np.array_equal(again[0][:5], other[:5])


def test_replay_is_cut_at_the_duration() -> None:
    assert Replay(np.array([0.0, 1.0, 2.0])).times_s(rng_for(0, "t"), 2.0).tolist() == [0.0, 1.0]


def test_merge_orders_and_keeps_positions() -> None:
    times, owner, position = merge([np.array([0.1, 0.5]), np.array([0.1, 0.3])])
    assert times.tolist() == [0.1, 0.1, 0.3, 0.5]
    assert owner.tolist() == [0, 1, 1, 0]
    assert position.tolist() == [0, 0, 1, 1]
    assert [len(part) for part in merge([])] == [0, 0, 0]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: Poisson(0), "rate"),
        (lambda: Constant(math.nan), "rate"),
        (lambda: Gamma(1, -1), "cv"),
        (lambda: OnOff(1, 0, 1), "on_s"),
        (lambda: OnOff(1, 1, math.inf), "off_s"),
        (lambda: Poisson(1).times_s(rng_for(0, "t"), 0), "duration"),
    ],
)
def test_bad_parameters_name_the_field(make: object, field: str) -> None:
    with pytest.raises(InvalidInput, match=f"^{field} must be") as caught:
        make()  # type: ignore[operator]
    assert caught.value.fields["field"] == field
