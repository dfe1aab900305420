"""The planner's promises: never over memory or share, never against trust, neighbours within bounds, no to and fro."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from fuzzing import examples
from hypothesis import example, given
from hypothesis import strategies as st

from partywall.errors import InvalidInput
from router.policy.packing import Item
from router.policy.planner import FleetPlanner, ModelDemand, PlannerLimits
from router.policy.sizing import ProfileGrid, size

BATCHES, SHARES = (1, 2, 4), (25, 50, 100)


class Additive:
    """Slowdown 1 + sensitivity x sum of pressures."""

    def __init__(self, sensitivity: float = 0.05) -> None:
        self._sensitivity = sensitivity

    def sensitivity(self, model: int) -> float:
        return self._sensitivity * (1 + model % 3)

    def pressure(self, model: int, share: int) -> float:
        return (0.3 + 0.1 * (model % 5)) * share / 100

    def slowdown(self, victim: Item, neighbours: Sequence[Item]) -> float:
        return 1.0 + victim.sensitivity * sum(n.pressure for n in neighbours)


def grid(latency_ms: Sequence[float]) -> ProfileGrid:
    base = np.array(latency_ms)[:, None, None]
    batch = 1 + 0.6 * (np.array(BATCHES) - 1)[None, :, None]
    stretch = (100 / np.array(SHARES))[None, None, :] ** 0.8
    return ProfileGrid(tuple(f"m{i}" for i in range(len(latency_ms))), BATCHES, SHARES, base * batch * stretch)


def demand(
    rate: float = 10.0, objective_ms: float = 100.0, memory_gb: float = 4.0, wall: int = 0, cv: float = 1.0
) -> ModelDemand:
    return ModelDemand(rate, cv, objective_ms, memory_gb, wall)


def drawn(seed: int, models: int = 40) -> tuple[ProfileGrid, list[ModelDemand]]:
    rng = random.Random(seed)
    latency = [rng.uniform(2, 20) for _ in range(models)]
    demands = [
        demand(
            rng.uniform(1, 300 / ms),
            ms * rng.uniform(6, 30),
            rng.uniform(0.5, 30),
            rng.randrange(4),
            rng.uniform(0.5, 3),
        )
        for ms in latency
    ]
    return grid(latency), demands


def promises(planner: FleetPlanner, demands: Sequence[ModelDemand], memory_gb: float) -> None:
    """Checked from the answer alone."""
    plan = planner.result()
    devices: dict[int, list[tuple[int, int]]] = {}
    for placed in plan.replicas:
        devices.setdefault(placed.device, []).append((int(placed.model[1:]), placed.share))
    for residents in devices.values():
        assert sum(share for _, share in residents) <= 100
        assert sum(demands[m].memory_gb for m, _ in residents) <= memory_gb + 1e-6
        assert len({demands[m].wall for m, _ in residents}) == 1
    bad = [v for v in planner.violations() if not v.startswith("not placed")]
    assert bad == []
    assert plan.devices == len(devices)
    assert all(placed.reason for placed in plan.replicas)


@examples(25)
@given(st.integers(0, 10**6))
def test_a_plan_keeps_memory_share_trust_and_bounds_through_changes(seed: int) -> None:
    profile, demands = drawn(seed)
    planner = FleetPlanner(profile, demands, 90, 80.0, Additive())
    plan = planner.plan(lambda: True)
    assert not plan.unplaced
    promises(planner, demands, 80.0)
    rng = random.Random(seed)
    for _ in range(15):
        model = rng.randrange(len(demands))
        demands[model] = replace(demands[model], rate_per_s=demands[model].rate_per_s * rng.choice([0.3, 1.5, 3.0]))
        planner.change(model, demands[model])
        promises(planner, demands, 80.0)


@example(357902)
@examples(6)
@given(st.integers(0, 10**6))
def test_steady_load_moves_nothing(seed: int) -> None:
    """Rates that scatter by a tenth around what was planned for cause no to and fro."""
    profile, demands = drawn(seed)
    raised = [replace(d, rate_per_s=d.rate_per_s * 1.1) for d in demands]
    planner = FleetPlanner(profile, raised, 90, 80.0, Additive())
    planner.plan()
    before, rng = planner.moved, random.Random(seed)
    for _ in range(30):
        model = rng.randrange(len(demands))
        planner.change(model, replace(demands[model], rate_per_s=demands[model].rate_per_s * rng.uniform(0.95, 1.08)))
    assert planner.moved == before


def test_the_plan_repeats() -> None:
    profile, demands = drawn(3)
    plans = [FleetPlanner(profile, demands, 30, 80.0, Additive()).plan() for _ in range(2)]
    assert plans[0] == plans[1]


@pytest.mark.parametrize("seed", range(4))
def test_devices_stay_near_the_linear_bound(seed: int) -> None:
    profile, demands = drawn(seed, 400)
    plan = FleetPlanner(profile, [replace(d, wall=0) for d in demands], 300, 80.0, Additive(0.01)).plan()
    assert plan.lower_bound <= plan.devices <= 1.25 * plan.lower_bound


def test_emptying_a_device_must_pay() -> None:
    profile = grid([10.0] * 6)
    planner = FleetPlanner(profile, [demand(memory_gb=26.0)] * 6, 6, 80.0, Additive(0.0))
    planner.plan()
    for model in (0, 1, 3, 4):  # two thirds leave: what is left would fit one device
        planner.change(model, demand(rate=10.0, memory_gb=26.0, wall=model + 10))
    used = planner.result().devices
    stingy = PlannerLimits(move_device_s=600.0, horizon_s=600.0)
    planner._limits = stingy
    assert planner.improve(lambda: True) == 0
    planner._limits = PlannerLimits()
    assert planner.improve(lambda: False) == 0, "no time, no moves"
    assert planner.improve(lambda: True) >= 1
    assert planner.result().devices < used


def test_what_cannot_be_placed_is_named_with_the_reason() -> None:
    profile = grid([10.0, 10.0])
    planner = FleetPlanner(profile, [demand(objective_ms=5.0), demand(memory_gb=100.0)], 2, 80.0, Additive())
    plan = planner.plan()
    assert plan.unplaced == ("m0", "m1")
    assert plan.expected_attainment == pytest.approx(0.0)
    assert planner.violations() == ["not placed: m0, m1"]


def test_a_sensitive_model_is_kept_from_loud_ones() -> None:
    class Loud(Additive):
        def sensitivity(self, model: int) -> float:
            return 50.0 if model == 0 else 0.0

    profile = grid([10.0] * 4)
    planner = FleetPlanner(profile, [demand()] * 4, 4, 80.0, Loud())
    plan = planner.plan()
    home = {placed.model: placed.device for placed in plan.replicas}
    assert sum(device == home["m0"] for device in home.values()) == 1
    assert planner.violations() == []


@pytest.mark.parametrize("rate", [5.0, 50.0, 150.0])
def test_sizes_meet_objective_and_rate_and_no_smaller_share_does(rate: float) -> None:
    profile = grid([10.0])
    column = np.array([rate]), np.array([1.0]), np.array([0.1])
    need = size(profile, *column, np.array([1.0]))
    share, batch = int(need.share[0]), int(need.batch[0])
    assert share >= 1
    latency_s = 0.010 * (1 + 0.6 * (batch - 1))
    assert rate / int(need.replicas[0]) * latency_s / batch < share / 100 * 1.5
    assert need.slack[0] >= 1.0
    more = size(profile, np.array([rate * 1.5]), *column[1:], np.array([1.0]))
    assert more.devices[0] > need.devices[0]
    burstier = size(profile, column[0], np.array([1.3]), column[2], np.array([1.0]))
    assert burstier.devices[0] >= need.devices[0]


def test_shapes_are_checked() -> None:
    with pytest.raises(InvalidInput, match="shape"):
        ProfileGrid(("a",), (1,), (100,), np.ones((2, 1, 1)))
    with pytest.raises(InvalidInput, match="end with 100"):
        ProfileGrid(("a",), (1,), (50,), np.ones((1, 1, 1)))
    with pytest.raises(InvalidInput, match="demands"):
        FleetPlanner(grid([1.0]), [], 1, 80.0, Additive())
    with pytest.raises(InvalidInput, match="not planned"):
        FleetPlanner(grid([1.0]), [demand()], 1, 80.0, Additive()).change(1, demand())
