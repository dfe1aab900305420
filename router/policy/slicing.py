"""Offline fleet planning on MIG: which slices each model gets and on how few devices they fit.

For one model and one slice size only the setting (batch, processes) with the most throughput inside the latency
objective can be of use, so the choice is how many slices of each size. Minimising devices is then a cutting-stock
problem over the few maximal slice multisets of a device (Gilmore and Gomory, 1961), small enough to be solved exactly
as a mixed integer programme; the same programme run again at that number of devices minimises the compute slices.
The problem is the one of ParvaGPU (SC'24); its own planner is a greedy configurator and allocator.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp

from partywall.errors import InvalidInput
from router.policy.geometry import SIZES, Layout, SliceSize, lay_out, patterns

LATENCY_MARGIN = 0.45
"""A slice's latency may use this part of the objective: a batch may have to wait for one other (half), less a tenth."""


@dataclass(frozen=True, slots=True)
class SliceSetting:
    """A measured way to run a model in a slice: `processes` of it side by side, each with its own batches."""

    size: SliceSize
    batch: int
    processes: int
    capacity_per_s: float
    latency_ms: float


@dataclass(frozen=True, slots=True)
class SliceDemand:
    """What one model needs."""

    model: str
    rate_per_s: float
    objective_ms: float


@dataclass(frozen=True, slots=True)
class PlacedSlice:
    """One slice of the plan: who runs in it, how, and where it stands."""

    device: int
    start: int
    model: str
    setting: SliceSetting


@dataclass(frozen=True, slots=True)
class SlicePlan:
    """The answer and its proof of quality: `lower_bound` is the linear relaxation, rounded up."""

    slices: tuple[PlacedSlice, ...]
    devices: int
    compute_slices: int
    lower_bound: int
    optimal: bool


def best_settings(
    demand: SliceDemand, settings: Sequence[SliceSetting], margin: float = LATENCY_MARGIN
) -> dict[SliceSize, SliceSetting]:
    """Per slice size, the setting with the most capacity whose latency is within `margin` x objective."""
    best: dict[SliceSize, SliceSetting] = {}
    for setting in settings:
        if setting.capacity_per_s <= 0 or setting.latency_ms > margin * demand.objective_ms:
            continue
        held = best.get(setting.size)
        if held is None or (setting.capacity_per_s, -setting.latency_ms) > (held.capacity_per_s, -held.latency_ms):
            best[setting.size] = setting
    return best


@dataclass(frozen=True, slots=True)
class _Programme:
    """Columns: slices of (model, size), then devices of each pattern."""

    columns: tuple[tuple[int, SliceSetting], ...]
    patterns: tuple[tuple[int, ...], ...]
    rows: NDArray[np.float64]
    lower: NDArray[np.float64]

    def solve(self, cost: NDArray[np.float64], *, integer: bool, devices: int | None, seconds: float) -> _Solution:
        constraints = [LinearConstraint(self.rows, self.lower, np.inf)]
        if devices is not None:
            row = np.concatenate([np.zeros(len(self.columns)), np.ones(len(self.patterns))])
            constraints.append(LinearConstraint(row[None, :], 0, devices))
        found = milp(
            cost,
            constraints=constraints,
            integrality=np.full(cost.size, 1 if integer else 0),
            bounds=Bounds(0, np.inf),
            options={"time_limit": seconds, "mip_rel_gap": 0.0},
        )
        if found.x is None:
            raise InvalidInput(f"no plan found: {found.message}; give the planner more time or relax an objective")
        return _Solution(np.asarray(found.x), float(found.fun), found.status == 0)


@dataclass(frozen=True, slots=True)
class _Solution:
    values: NDArray[np.float64]
    cost: float
    optimal: bool


def _programme(demands: Sequence[SliceDemand], chosen: Sequence[Mapping[SliceSize, SliceSetting]]) -> _Programme:
    columns = tuple((model, setting) for model, by_size in enumerate(chosen) for setting in by_size.values())
    shapes = patterns()
    rows = np.zeros((len(demands) + len(SIZES), len(columns) + len(shapes)))
    lower = np.zeros(rows.shape[0])
    lower[: len(demands)] = [demand.rate_per_s for demand in demands]
    for column, (model, setting) in enumerate(columns):
        rows[model, column] = setting.capacity_per_s
        rows[len(demands) + SIZES.index(setting.size), column] = -1.0
    for offset, shape in enumerate(shapes):
        rows[len(demands) :, len(columns) + offset] = shape
    return _Programme(columns, shapes, rows, lower)


def plan_slices(
    demands: Sequence[SliceDemand],
    profiles: Mapping[str, Sequence[SliceSetting]],
    *,
    margin: float = LATENCY_MARGIN,
    budget_s: float = 10.0,
) -> SlicePlan:
    """The fewest devices, then the fewest compute slices, that carry every demand within its objective.

    Raises:
        InvalidInput: A model has no profile or meets its objective in no slice; the message names it.
    """
    chosen = [best_settings(demand, profiles.get(demand.model, ()), margin) for demand in demands]
    for demand, by_size in zip(demands, chosen, strict=True):
        if not by_size:
            raise InvalidInput(
                f"model {demand.model!r} meets {margin:g} x {demand.objective_ms:g} ms in no slice; "
                "relax its objective or profile smaller batches",
                fields={"field": "objective_ms", "model": demand.model},
            )
    programme = _programme(demands, chosen)
    devices_cost = np.concatenate([np.zeros(len(programme.columns)), np.ones(len(programme.patterns))])
    relaxed = programme.solve(devices_cost, integer=False, devices=None, seconds=budget_s)
    fewest = programme.solve(devices_cost, integer=True, devices=None, seconds=budget_s)
    devices = round(fewest.cost)
    size_cost = np.concatenate(
        [[float(setting.size) for _, setting in programme.columns], np.zeros(len(programme.patterns))]
    )
    smallest = programme.solve(size_cost, integer=True, devices=devices, seconds=budget_s)
    return _place(demands, programme, smallest, int(np.ceil(relaxed.cost - 1e-6)), fewest.optimal)


def _place(
    demands: Sequence[SliceDemand], programme: _Programme, found: _Solution, lower_bound: int, optimal: bool
) -> SlicePlan:
    counts = np.rint(found.values).astype(int)
    waiting: dict[SliceSize, list[tuple[str, SliceSetting]]] = {size: [] for size in SIZES}
    for (model, setting), count in zip(programme.columns, counts, strict=False):
        waiting[setting.size] += [(demands[model].model, setting)] * int(count)
    compute_slices = sum(int(size) * len(held) for size, held in waiting.items())
    placed: list[PlacedSlice] = []
    device = 0
    for shape, count in zip(programme.patterns, counts[len(programme.columns) :], strict=True):
        for _ in range(int(count)):
            taken = _fill(device, lay_out(shape), waiting)
            placed += taken
            device += bool(taken)
    return SlicePlan(tuple(placed), device, compute_slices, lower_bound, optimal)


def _fill(device: int, layout: Layout, waiting: dict[SliceSize, list[tuple[str, SliceSetting]]]) -> list[PlacedSlice]:
    taken = []
    for position in layout:
        if waiting[position.size]:
            model, setting = waiting[position.size].pop()
            taken.append(PlacedSlice(device, position.start, model, setting))
    return taken
