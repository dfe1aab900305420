"""The planner: demand, profiles, interference bounds, trust and the fleet in; placements with reasons out.

Greedy at once: every model gets the smallest share that meets its objective beside neighbours (`sizing`), replicas are
placed in falling order of size on the fullest device that takes them (best fit decreasing; `packing`), then devices
that are nearly empty are emptied within the time budget. A replan keeps what stands: a replica moves only when its
objective asks for it, and a device is emptied only when what it saves within the horizon pays for the moves.
Pure: time is only the budget that is passed in, as a function that says whether there is any left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from partywall.errors import InvalidInput
from router.policy.fleet_plan import (
    FleetPlan,
    ModelDemand,
    PlannedReplica,
    PlannerLimits,
    broken_promises,
    linear_bound,
)
from router.policy.packing import Bins, Item, SlowdownBound
from router.policy.planner_needs import Needs
from router.policy.sizing import ProfileGrid, names_of

__all__ = ["Budget", "FleetPlan", "FleetPlanner", "ModelDemand", "PlannedReplica", "PlannerLimits"]

Budget = Callable[[], bool]
"""Whether there is time left to improve."""

EASED = 1.25
"""Up to this factor a demand that grew lighter is the same demand that scatters."""


class FleetPlanner:
    """Holds the current placements; `plan` from nothing, `change` for one model, `improve` while there is time."""

    def __init__(
        self,
        grid: ProfileGrid,
        demands: Sequence[ModelDemand],
        devices: int,
        memory_gb: float,
        bound: SlowdownBound,
        limits: PlannerLimits | None = None,
    ) -> None:
        if len(demands) != len(grid.models):
            raise InvalidInput(f"demands: {len(demands)} for {len(grid.models)} profiled models; give one for each")
        self._grid = grid
        self._limits = limits or PlannerLimits()
        self._demands = list(demands)
        self._bound = bound
        self._bins = Bins(devices, memory_gb, bound)
        self._where: list[list[tuple[int, Item]]] = [[] for _ in demands]
        self._why: list[str] = [""] * len(demands)
        self._needs = Needs(grid, self._demands, bound, self._limits)
        self._need = self._needs.need
        self._placed_for: list[ModelDemand] = list(demands)
        self._unplaced: set[int] = set()
        self.moved = 0

    # -- from nothing -------------------------------------------------------------------------------------------

    def plan(self, budget: Budget = lambda: False) -> FleetPlan:
        """Places everything anew: greedy at once, then improved while `budget` says so."""
        memory = np.array([d.memory_gb for d in self._demands])
        weight = np.maximum(self._need.share / 100, memory / self._bins.memory_gb)
        for model in np.argsort(-weight, kind="stable").tolist():
            self._place(model)
        self.improve(budget)
        return self.result()

    def _place(self, model: int, keep: Sequence[tuple[int, Item]] = ()) -> None:
        """Brings the model's replicas to the number it needs; `keep` are those that stand."""
        self._unplaced.discard(model)
        wanted = int(self._need.replicas[model]) if self._need.share[model] else 0
        if not wanted:
            self._unplaced.add(model)
            self._why[model] = "no share of a device meets the objective at this rate"
            return
        item = self._item(model)
        for _ in range(wanted - len(keep)):
            device = self._bins.find(item)
            if device is None:
                self._unplaced.add(model)
                self._why[model] = "no device has the share, the memory and neighbours that bear it"
                return
            self._bins.add(item, device)
            self._where[model].append((device, item))
            self.moved += 1
        self._why[model] = (
            f"share {item.share} % at batch {self._need.batch[model]} meets {self._demands[model].objective_ms:g} ms, "
            f"bears a slowdown of {item.slack:.2f}"
        )

    def _item(self, model: int) -> Item:
        share = int(self._need.share[model])
        demand = self._demands[model]
        return Item(
            model,
            share,
            demand.memory_gb,
            demand.wall,
            self._bound.sensitivity(model),
            self._bound.pressure(model, share),
            float(self._need.slack[model]),
        )

    # -- changes ------------------------------------------------------------------------------------------------

    def change(self, model: int, demand: ModelDemand) -> bool:
        """One model's new demand; everybody else stays. True: something was moved or resized."""
        if not 0 <= model < len(self._demands):
            raise InvalidInput(f"model index {model} is not planned here", fields={"field": "model"})
        stood = self._where[model]
        same_wall = demand.wall == self._demands[model].wall and demand.memory_gb == self._demands[model].memory_gb
        self._demands[model] = demand
        self._needs.update(model)
        if same_wall and stood and self._still_fits(model, stood):
            return False
        before = self.moved
        self._placed_for[model] = demand
        for device, item in stood:
            self._bins.remove(item, device)
        self._where[model] = []
        kept = self._grow_in_place(model, stood) if same_wall else []
        self._place(model, kept)
        return self.moved > before or kept != stood

    def _still_fits(self, model: int, stood: Sequence[tuple[int, Item]]) -> bool:
        """Hysteresis: enough share, and not far too much."""
        share, replicas = int(self._need.share[model]), int(self._need.replicas[model])
        held = stood[0][1].share
        if model in self._unplaced:
            return False
        if _alike(self._demands[model], self._placed_for[model]):
            # The need goes in steps (a replica less, a larger share each): a little less load may want a lot less.
            return True
        if share * replicas < self._limits.shrink_below * held * len(stood):
            return False
        enough = replicas == len(stood) and 0 < share <= held
        return enough or _no_harder(self._demands[model], self._placed_for[model])

    def _grow_in_place(self, model: int, stood: Sequence[tuple[int, Item]]) -> list[tuple[int, Item]]:
        """Resizes replicas where they are, as far as their devices and neighbours bear it."""
        kept: list[tuple[int, Item]] = []
        if not self._need.share[model]:
            return kept
        item = self._item(model)
        for device, _ in stood[: int(self._need.replicas[model])]:
            if self._bins.share_left[device] >= item.share and self._bins.allowed(item, device):
                self._bins.add(item, device)
                kept.append((device, item))
        self._where[model] = list(kept)
        return kept

    # -- improvement --------------------------------------------------------------------------------------------

    def improve(self, budget: Budget) -> int:
        """Empties devices, least filled first, while moves pay; gives how many were emptied."""
        affordable = int(self._limits.horizon_s / self._limits.move_device_s)
        emptied = 0
        used = np.flatnonzero(self._bins.wall >= 0)
        for device in used[np.argsort(-self._bins.share_left[used], kind="stable")].tolist():
            if not budget():
                break
            if len(self._bins.residents[device]) < affordable and self._empty(device):
                emptied += 1
        return emptied

    def _empty(self, device: int) -> bool:
        done: list[tuple[Item, int]] = []
        for item in list(self._bins.residents[device]):
            target = self._bins.find(item, avoid=device, open_new=False)
            if target is None:
                for moved, at in reversed(done):
                    self._bins.remove(moved, at)
                    self._bins.add(moved, device)
                return False
            self._bins.remove(item, device)
            self._bins.add(item, target)
            done.append((item, target))
        for item, target in done:
            places = self._where[item.model]
            places[places.index((device, item))] = (target, item)
            self.moved += 1
        return True

    # -- answers ------------------------------------------------------------------------------------------------

    def result(self) -> FleetPlan:
        """The placements as they stand."""
        replicas = tuple(
            PlannedReplica(self._grid.models[model], device, item.share, int(self._need.batch[model]), self._why[model])
            for model, places in enumerate(self._where)
            for device, item in places
        )
        rates = np.array([d.rate_per_s for d in self._demands])
        lost = float(rates[sorted(self._unplaced)].sum())
        total = max(float(rates.sum()), 1e-12)
        return FleetPlan(
            replicas,
            self._bins.used,
            self.lower_bound(),
            self.moved,
            tuple(self._grid.models[m] for m in sorted(self._unplaced)),
            (1 - lost / total) * (1 - self._limits.miss),
        )

    def lower_bound(self) -> float:
        """Devices of the linear relaxation: per wall, compute at no slowdown and memory, whichever is more."""
        return linear_bound(self._demands, self._needs.quiet, self._bins.memory_gb)

    def violations(self) -> list[str]:
        """Every promise checked anew from the placements alone; empty when all hold."""
        found = broken_promises(self._bins, self._bound, self._grid.models)
        if self._unplaced:
            found.append(f"not placed: {names_of(self._grid, sorted(self._unplaced))}")
        return found


def _alike(new: ModelDemand, old: ModelDemand) -> bool:
    """Whether the new demand is no harder than the old one, and not much easier."""
    eased = max(
        old.rate_per_s / max(new.rate_per_s, 1e-9), old.cv / max(new.cv, 1e-9), new.objective_ms / old.objective_ms
    )
    return _no_harder(new, old) and eased <= EASED


def _no_harder(new: ModelDemand, old: ModelDemand) -> bool:
    """Whether what was enough for the old demand is enough for the new one."""
    return new.rate_per_s <= old.rate_per_s and new.cv <= old.cv and new.objective_ms >= old.objective_ms
