"""Cutting a few devices: estimates against known queues, and the choices that follow from them."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from partywall.errors import InvalidInput
from router.policy.cutting import plan_cut
from router.policy.waiting import CutDemand, Floats, WaitEstimate, erlang_c


@dataclass(frozen=True)
class Synthetic:
    """Latency `ms` at a whole device, times (100 / share) ** `exponent`; everybody slows everybody alike."""

    ms: tuple[float, ...]
    exponent: float = 0.5
    slowdown: float = 1.0

    def solo_s(self, share: int) -> Floats:
        return np.array(self.ms) / 1000 * (100 / share) ** self.exponent

    def log_slowdown(self, share: int, neighbour_share: int) -> tuple[Floats, Floats]:
        mean = np.full((len(self.ms), len(self.ms)), np.log(self.slowdown))
        return mean, mean


def demand(rate: float, objective_ms: float = 20.0, cv: float = 1.0, memory_gb: float = 4.0) -> CutDemand:
    return CutDemand(rate, cv, objective_ms / 1000, memory_gb)


@pytest.mark.parametrize(("servers", "load", "chance"), [(1, 0.5, 0.5), (2, 1.0, 1 / 3), (4, 2.0, 4 / 23), (3, 3.0, 1)])
def test_erlang_c(servers: int, load: float, chance: float) -> None:
    assert erlang_c(servers, load) == pytest.approx(chance)


def test_the_wait_of_one_server_is_that_of_a_simulated_queue() -> None:
    rng, service_s, objective_s, rate = random.Random(5), 0.01, 0.03, 60.0
    at = free = 0.0
    late = count = 0
    while count < 100_000:
        at += rng.expovariate(rate)
        free = max(free, at) + service_s
        late, count = late + (free > at + objective_s), count + 1
    estimate = WaitEstimate([demand(rate, 30.0)], 80.0, Synthetic((10.0,)))
    assert estimate.misses_per_s((100,), 1, ((0,),)) / rate == pytest.approx(late / count, rel=0.35)


def test_quiet_narrow_models_stand_side_by_side_and_noisy_ones_do_not() -> None:
    demands = [demand(40.0, 25.0)] * 3
    quiet = plan_cut(demands, 2, 80.0, Synthetic((10.0,) * 3, exponent=0.2))
    assert all(len(layout) > 1 for layout in quiet.layouts), quiet.reason
    noisy = plan_cut(demands, 2, 80.0, Synthetic((10.0,) * 3, exponent=0.2, slowdown=2.5))
    assert noisy.layouts == ((100,), (100,)), noisy.reason
    assert noisy.expected_attainment <= quiet.expected_attainment
    assert "next best" in quiet.reason


def test_a_small_model_is_kept_from_waiting_behind_a_large_one() -> None:
    """Fifty times the latency and as tight an objective: one queue for both would block the small one."""
    demands = [demand(2.0, 400.0), demand(100.0, 6.0)]
    plan = plan_cut(demands, 1, 80.0, Synthetic((100.0, 2.0), exponent=0.6), layouts=((100,), (75, 25), (50, 50)))
    assert not any({0, 1} <= set(held.members) for held in plan.classes), plan


@examples(25)
@given(st.integers(0, 10**6))
def test_a_cut_serves_everybody_once_within_memory_and_repeats(seed: int) -> None:
    rng = random.Random(seed)
    count, devices = rng.randrange(1, 7), rng.randrange(1, 4)
    ms = tuple(rng.uniform(1, 20) for _ in range(count))
    demands = [
        demand(rng.uniform(1, 100), rng.uniform(1.2, 8) * m, rng.uniform(0.5, 3), rng.choice([1, 4, 9])) for m in ms
    ]
    cost = Synthetic(ms, rng.uniform(0.1, 1.0), rng.uniform(1.0, 1.6))
    plan = plan_cut(demands, devices, 80.0, cost)
    assert sorted(m for held in plan.classes for m in held.members) == list(range(count))
    assert len(plan.layouts) == devices
    assert all(sum(layout) <= 100 for layout in plan.layouts)
    for device, layout in enumerate(plan.layouts):
        here = {m for share in layout for m in plan.members(device, share)}
        assert sum(demands[m].memory_gb for m in here) <= 80.0
    assert 0 <= plan.expected_attainment <= 1
    assert plan == plan_cut(demands, devices, 80.0, cost)


def test_memory_divides_the_fleet() -> None:
    demands = [demand(10.0, 100.0, memory_gb=50.0)] * 2
    plan = plan_cut(demands, 2, 80.0, Synthetic((10.0, 10.0)), layouts=((100,), (50, 50)))
    homes = [set(plan.members(d, layout[0])) for d, layout in enumerate(plan.layouts)]
    assert sorted(map(sorted, homes)) == [[0], [1]]


@pytest.mark.parametrize("layouts", [((60, 60),), ((25, 50),), ((),)])
def test_impossible_layouts_are_named(layouts: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(InvalidInput, match="layout"):
        plan_cut([demand(1.0)], 1, 80.0, Synthetic((1.0,)), layouts)
    with pytest.raises(InvalidInput, match="at least one"):
        plan_cut([], 1, 80.0, Synthetic(()))
