"""One seed of the ground: tenants, their models, their parts of the load, and arrivals at any load."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.ground.truths import SoloTimes
from loadgen.simulate import Arrivals
from loadgen.world import Hardware
from router.policy.catalog import ServedModel, Traffic

TENANTS = 12
DEVICES = 4
OBJECTIVE = 2.0
"""Objective / solo latency on a whole device."""
WEIGHTS_GB = 5.0
MEMORY_GB = 80.0
HARDWARE = Hardware(DEVICES, MEMORY_GB)


@dataclass(frozen=True, slots=True)
class Scenario:
    """`names[t]` is tenant t's model; `part[t]` its part of the load. Load is solo seconds asked per second.

    `arrivals(load)` keeps the same draws at every load, closer together or further apart.
    """

    seed: int
    names: tuple[str, ...]
    part: tuple[float, ...]
    models: tuple[ServedModel, ...]
    unit: Arrivals

    @classmethod
    def draw(
        cls, seed: int, models: Sequence[str], solo_s: SoloTimes, requests: int, objective: float = OBJECTIVE
    ) -> Scenario:
        """Tenants' models with replacement; parts of the load lognormal; Poisson arrivals."""
        rng = np.random.default_rng([seed, 7])
        names = tuple(rng.choice(sorted(models), TENANTS).tolist())
        part = np.exp(rng.normal(0.0, 0.7, TENANTS))
        part /= part.sum()
        solo = np.array([solo_s.at(name, 1.0) for name in names])
        served = tuple(
            ServedModel(f"tenant{t}/{name}", WEIGHTS_GB, (float(s),), objective * float(s))
            for t, (name, s) in enumerate(zip(names, solo, strict=True))
        )
        rate = part / solo
        gaps = rng.exponential(1.0 / float(rate.sum()), requests)
        owners = rng.choice(TENANTS, requests, p=rate / rate.sum())
        return cls(seed, names, tuple(part.tolist()), served, Arrivals(np.cumsum(gaps).tolist(), owners.tolist()))

    def arrivals(self, load: float, tenants: frozenset[int] | None = None) -> Arrivals:
        """Everybody's, or some tenants', at a load of the whole mix."""
        pairs = zip(self.unit.seconds, self.unit.models, strict=True)
        kept = [(at / load, owner) for at, owner in pairs if tenants is None or owner in tenants]
        return Arrivals([at for at, _ in kept], [owner for _, owner in kept])

    def traffic(self, load: float) -> list[Traffic]:
        """What a plan may know."""
        return [Traffic(load * p / m.service_s[0]) for p, m in zip(self.part, self.models, strict=True)]
