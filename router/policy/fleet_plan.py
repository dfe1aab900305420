"""What the fleet planner is asked and what it answers, and the checks of an answer from its placements alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from router.policy.packing import Bins, SlowdownBound
from router.policy.sizing import Need


@dataclass(frozen=True, slots=True)
class ModelDemand:
    """What one model must be given. `rate_per_s` is the upper bound of the forecast, not its mean.

    `wall` says beside whom it may stand: models with equal walls may share a device, others never (the trust rule
    makes the number: one per trust group, one per tenant that wants its own hardware).
    """

    rate_per_s: float
    cv: float
    objective_ms: float
    memory_gb: float
    wall: int = 0


@dataclass(frozen=True, slots=True)
class PlannerLimits:
    """What the planner weighs.

    Shares are sized for neighbours of the fleet's mean pressure times `pressure_margin`, and for a slowdown of at most
    `most_allowance`: who is more sensitive is kept apart instead. A move costs `move_device_s`
    device seconds (load, warm-up, both replicas held); emptying a device must save more within `horizon_s`. A share
    shrinks only when the need has fallen below `shrink_below` of it.
    """

    pressure_margin: float = 1.1
    most_allowance: float = 1.25
    miss: float = 0.01
    move_device_s: float = 30.0
    horizon_s: float = 600.0
    shrink_below: float = 0.7


@dataclass(frozen=True, slots=True)
class PlannedReplica:
    """One placement and why it is where it is."""

    model: str
    device: int
    share: int
    batch: int
    reason: str


@dataclass(frozen=True, slots=True)
class FleetPlan:
    """`lower_bound` is the linear relaxation: compute and memory spread without waste, no neighbour's noise."""

    replicas: tuple[PlannedReplica, ...]
    devices: int
    lower_bound: float
    moved: int
    unplaced: tuple[str, ...]
    expected_attainment: float


def linear_bound(demands: Sequence[ModelDemand], quiet: Need, memory_gb: float) -> float:
    """Devices of the linear relaxation: per wall, compute at no slowdown (`quiet`) and memory, whichever is more."""
    walls = np.unique(np.array([d.wall for d in demands]), return_inverse=True)[1]
    held_gb = np.array([d.memory_gb for d in demands]) * quiet.replicas
    compute = np.bincount(walls, weights=quiet.devices)
    held = np.bincount(walls, weights=held_gb) / memory_gb
    return float(np.maximum(compute, held).sum())


def broken_promises(bins: Bins, bound: SlowdownBound, names: Sequence[str]) -> list[str]:
    """Share, memory, trust and every resident's slowdown, device by device; empty when all hold."""
    found = []
    for device, residents in enumerate(bins.residents):
        if sum(r.share for r in residents) > 100:
            found.append(f"device {device}: shares above 100 %")
        if sum(r.memory_gb for r in residents) > bins.memory_gb + 1e-6:
            found.append(f"device {device}: memory")
        if len({r.wall for r in residents}) > 1:
            found.append(f"device {device}: trust")
        for at, victim in enumerate(residents):
            slowed = bound.slowdown(victim, [*residents[:at], *residents[at + 1 :]])
            if slowed > victim.slack + 1e-6:
                found.append(f"device {device}: {names[victim.model]} slowed by {slowed:.3f}")
    return found
