"""How much of a device each model of a fleet plan needs, beside the neighbours that it must expect. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from router.policy.fleet_plan import ModelDemand, PlannerLimits
from router.policy.packing import SlowdownBound
from router.policy.sizing import Floats, Need, ProfileGrid, size


class Needs:
    """Sizes for all models at once, and anew for one whose demand has changed.

    Attributes:
        need: Beside neighbours; changed in place.
        quiet: Beside quiet ones; likewise.
    """

    def __init__(
        self, grid: ProfileGrid, demands: Sequence[ModelDemand], bound: SlowdownBound, limits: PlannerLimits
    ) -> None:
        """`demands` is the planner's own list: it stays the one that is read."""
        self._grid = grid
        self._demands = demands
        self._bound = bound
        self._limits = limits
        everyone = range(len(demands))
        self.quiet = self._size(everyone, np.ones(len(demands)))
        self._allowance = self._neighbours_cost()
        self.need = self._size(everyone, self._allowance)
        self._without_allowance(everyone, self.need)

    def update(self, model: int) -> None:
        """One model's demand is another now."""
        one = self._size([model], self._allowance[[model]])
        quiet = self._size([model], np.ones(1))
        for mine, new in zip(_columns(self.quiet), _columns(quiet), strict=True):
            mine[model] = new[0]
        self._without_allowance([model], one)
        for mine, new in zip(_columns(self.need), _columns(one), strict=True):
            mine[model] = new[0]

    def _demanded(self, models: Sequence[int] | range) -> tuple[Floats, Floats, Floats]:
        chosen = [self._demands[m] for m in models]
        return (
            np.array([d.rate_per_s for d in chosen]),
            np.array([d.cv for d in chosen]),
            np.array([d.objective_ms / 1000 for d in chosen]),
        )

    def _neighbours_cost(self) -> Floats:
        """Per model, the slowdown to expect beside neighbours that fill the rest of a device."""
        shares = self.quiet.share.tolist()
        pressure = sum(self._bound.pressure(m, s) * int(self.quiet.replicas[m]) for m, s in enumerate(shares))
        per_device = pressure / max(float(self.quiet.devices.sum()), 1e-9) * self._limits.pressure_margin
        cost = np.array([1.0 + self._bound.sensitivity(m) * per_device * (1 - s / 100) for m, s in enumerate(shares)])
        return np.asarray(np.minimum(cost, self._limits.most_allowance), dtype=np.float64)

    def _without_allowance(self, models: Sequence[int] | range, need: Need) -> None:
        """A model that no share serves beside neighbours is sized for quiet ones."""
        for at, model in enumerate(models):
            if not need.share[at] and self.quiet.share[model]:
                need.share[at], need.replicas[at] = self.quiet.share[model], self.quiet.replicas[model]
                need.batch[at], need.slack[at] = self.quiet.batch[model], self.quiet.slack[model]

    def _size(self, models: Sequence[int] | range, allowance: Floats) -> Need:
        rows = list(models)
        grid = self._grid
        if len(rows) < len(grid.models):
            grid = replace(grid, models=tuple(grid.models[m] for m in rows), latency_ms=grid.latency_ms[rows])
        return size(grid, *self._demanded(rows), allowance, self._limits.miss)


def _columns(need: Need) -> tuple[NDArray[Any], ...]:
    return need.share, need.replicas, need.batch, need.slack
