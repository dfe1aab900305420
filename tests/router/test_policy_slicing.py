"""Geometry counts against NVIDIA's documented ones; plans checked from their parts and against brute force."""

from __future__ import annotations

import itertools
import math
import random

import pytest

from partywall.errors import InvalidInput
from router.policy.geometry import SIZES, SlicePosition, SliceSize, counts_of, lay_out, layouts, legal, maximal_layouts
from router.policy.geometry import patterns as patterns_of
from router.policy.slicing import SliceDemand, SlicePlan, SliceSetting, best_settings, plan_slices


def setting(size: int, capacity: float, latency_ms: float = 1.0, batch: int = 1) -> SliceSetting:
    return SliceSetting(SliceSize(size), batch, 1, capacity, latency_ms)


def test_the_geometry_has_the_known_number_of_layouts() -> None:
    assert len(layouts()) + 1 == 298  # with the empty one
    assert len(maximal_layouts()) == 19


@pytest.mark.parametrize("counts", patterns_of())
def test_every_pattern_can_be_laid_out(counts: tuple[int, ...]) -> None:
    assert legal(lay_out(counts))
    assert counts_of(lay_out(counts)) == counts


def test_an_impossible_pattern_is_refused() -> None:
    with pytest.raises(InvalidInput, match="do not fit"):
        lay_out((0, 0, 1, 1, 1))


@pytest.mark.parametrize(
    "layout",
    [
        [SlicePosition(1, SliceSize.TWO)],
        [SlicePosition(4, SliceSize.FOUR)],
        [SlicePosition(0, SliceSize.FOUR), SlicePosition(2, SliceSize.TWO)],
    ],
)
def test_illegal_layouts_are_seen(layout: list[SlicePosition]) -> None:
    assert not legal(layout)


def test_the_setting_with_most_capacity_inside_the_objective_is_taken() -> None:
    settings = [setting(1, 10, 40.0), setting(1, 20, 45.0), setting(1, 30, 46.0), setting(2, 0, 1.0)]
    best = best_settings(SliceDemand("m", 1, 100.0), settings)
    assert best == {SliceSize.ONE: settings[1]}


def test_a_model_no_slice_can_serve_is_named() -> None:
    with pytest.raises(InvalidInput, match="'slow'"):
        plan_slices([SliceDemand("slow", 1, 10.0)], {"slow": [setting(7, 100, 50.0)]})


def carried(plan: SlicePlan, model: str) -> float:
    return sum(placed.setting.capacity_per_s for placed in plan.slices if placed.model == model)


def brute_force(demands: list[SliceDemand], profiles: dict[str, list[SliceSetting]], most: int = 3) -> int:
    """The fewest devices by trying every way to fill them; only for very small demands."""
    options = [tuple(s.size for s in layout) for layout in maximal_layouts()]
    for devices in range(1, most + 1):
        for choice in itertools.combinations_with_replacement(options, devices):
            if _assignable([size for layout in choice for size in layout], demands, profiles):
                return devices
    raise AssertionError("more devices than expected")


def _assignable(sizes: list[SliceSize], demands: list[SliceDemand], profiles: dict[str, list[SliceSetting]]) -> bool:
    best = [best_settings(demand, profiles[demand.model]) for demand in demands]
    states = {tuple(d.rate_per_s for d in demands)}
    for size in sizes:
        after = set()
        for state in states:
            for index, by_size in enumerate(best):
                got = by_size[size].capacity_per_s if size in by_size else 0.0
                after.add((*state[:index], max(0.0, state[index] - got), *state[index + 1 :]))
        states = after
    return any(not any(state) for state in states)


@pytest.mark.parametrize("seed", range(6))
def test_plans_are_legal_enough_and_as_small_as_brute_force_finds(seed: int) -> None:
    rng = random.Random(seed)
    demands = [SliceDemand(f"m{i}", rng.uniform(20, 90), 100.0) for i in range(2)]
    profiles = {
        d.model: [setting(int(size), rng.uniform(6, 9) * int(size) ** 0.9, rng.choice([20, 40, 50])) for size in SIZES]
        + [setting(7, 40, 20.0)]
        for d in demands
    }
    plan = plan_slices(demands, profiles)
    by_device: dict[int, list[SlicePosition]] = {}
    for placed in plan.slices:
        assert placed.setting.latency_ms <= 45.0
        by_device.setdefault(placed.device, []).append(SlicePosition(placed.start, placed.setting.size))
    assert all(legal(layout) for layout in by_device.values())
    assert all(carried(plan, d.model) >= d.rate_per_s - 1e-6 for d in demands)
    assert plan.optimal
    assert len(by_device) == plan.devices >= plan.lower_bound
    if plan.devices <= 2:
        assert plan.devices == brute_force(demands, profiles)
    assert plan.compute_slices <= 7 * plan.devices
    assert not math.isnan(plan.lower_bound)
