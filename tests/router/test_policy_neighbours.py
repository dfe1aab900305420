"""The interference model behind the planners' seams, on the recorded table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from isolation.interference import dataset
from isolation.interference.splits import Split, one_file
from partywall.domain.profiles import Resident
from router.policy.neighbours import PredictedNeighbours
from router.policy.packing import Item
from router.policy.planner import FleetPlanner, ModelDemand
from router.policy.sizing import ProfileGrid

DATA = Path(__file__).parents[2] / "benchmarks" / "data" / "h100-colocation.json"
NAMES = ("bert", "decode", "bert", "mobilenet")


@pytest.fixture(scope="module")
def neighbours() -> PredictedNeighbours:
    data = dataset.load(DATA)
    study = one_file(data, Split.MODEL_OUT).study
    solo = {n: {s: data.solo_ms[Resident(n, s)] / 1000 for s in (25, 50, 75, 100)} for n in set(NAMES)}
    return PredictedNeighbours(study.fit(range(len(study.rows))), NAMES, solo)


def item(neighbours: PredictedNeighbours, model: int, share: int) -> Item:
    return Item(model, share, 4.0, 0, neighbours.sensitivity(model), neighbours.pressure(model, share), 1.5)


def test_tables_have_a_row_for_each_model_and_bounds_above_means(neighbours: PredictedNeighbours) -> None:
    mean, upper = neighbours.log_slowdown(50, 50)
    assert mean.shape == upper.shape == (4, 4)
    assert (upper >= mean).all()
    assert np.allclose(mean[0], mean[2]), "two tenants with one model"
    assert neighbours.solo_s(50)[0] == pytest.approx(0.004774, rel=1e-3)
    assert neighbours.solo_s(60)[0] < neighbours.solo_s(50)[0]


def test_crowds_are_bounded_and_alone_costs_nothing(neighbours: PredictedNeighbours) -> None:
    victim, others = item(neighbours, 0, 25), [item(neighbours, 1, 25), item(neighbours, 3, 25)]
    assert neighbours.slowdown(victim, []) == 1.0
    assert 1.0 < neighbours.slowdown(victim, others[:1]) < 3.0
    assert neighbours.slowdown(victim, others) == neighbours.slowdown(victim, others[::-1])


def test_the_fleet_planner_places_by_predictions(neighbours: PredictedNeighbours) -> None:
    grid = ProfileGrid(
        tuple(f"t{i}" for i in range(4)),
        (1,),
        (25, 50, 75, 100),
        1000 * np.stack([[neighbours.solo_s(s)[m] for s in (25, 50, 75, 100)] for m in range(4)])[:, None, :],
    )
    demands = [ModelDemand(5.0, 1.0, 1000 * 5 * float(neighbours.solo_s(100)[m]), 4.0) for m in range(4)]
    planner = FleetPlanner(grid, demands, 4, 80.0, neighbours)
    plan = planner.plan()
    assert not plan.unplaced
    assert planner.violations() == []
    assert plan.devices < 4
