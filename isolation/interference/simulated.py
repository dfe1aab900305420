"""How simulated devices slow simulated models: a discrete-event resource model, or a recorded table.

The resource model shares nothing with the predictor: models are cycles of phases with compute, DRAM bytes, an L2
footprint and watts; DRAM bandwidth is shared max-min fairly, a footprint that does not fit spills to DRAM, a power
governor lowers the clock, and every launch waits longer beside others. Its parameters stay hidden from the predictor,
which sees solo runs, probe runs and counters only, as on hardware.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from isolation.interference.dataset import Measurements
from isolation.interference.mixtures import Array
from partywall.domain.profiles import Resident
from partywall.errors import InvalidInput, NotFound

_DONE = 1e-12


class SlowdownTruth(Protocol):
    """What really happens on a simulated device."""

    def slowdowns(self, active: Sequence[Resident]) -> tuple[float, ...]:
        """Latency beside the others / alone at the same share, for each that is busy at once, in order.

        Raises:
            NotFound: A name that this truth does not know.
        """
        ...


@dataclass(frozen=True, slots=True)
class Phase:
    """One stretch of a batch at the full device and clock; a phase without compute is a gap (launch path, host).

    `width` is the share of the device beyond which more units do not help.
    """

    seconds: float
    dram_bytes: float = 0.0
    l2_bytes: float = 0.0
    watts: float = 0.0
    width: float = 1.0
    gap: bool = False

    def __post_init__(self) -> None:
        if self.seconds <= 0 or not 0 < self.width <= 1 or min(self.dram_bytes, self.l2_bytes, self.watts) < 0:
            raise InvalidInput(f"a phase needs positive seconds, a width in (0, 1] and no negative demand: {self}")


@dataclass(frozen=True, slots=True)
class DeviceLaw:
    """The shared resources. Defaults have the size of an 80 GB data-centre GPU.

    A phase lasts as long as its compute and its memory time together, overlapped but not perfectly (their root sum of
    squares); memory answers later when others keep it busy (`queueing`), even below saturation.
    """

    dram_bytes_per_s: float = 2.9e12
    l2_bytes: float = 50e6
    power_cap_watts: float = 700.0
    idle_watts: float = 110.0
    launch_penalty: float = 0.08
    spill: float = 1.5
    queueing: float = 0.6

    def speeds(self, phases: Sequence[Phase], shares: Sequence[float]) -> Array:
        """Progress per second of each active phase, in phases (1 / its current duration)."""
        units = np.array([min(s, p.width) / p.width for p, s in zip(phases, shares, strict=True)])
        gap = np.array([p.gap for p in phases])
        alone = np.array([p.seconds for p in phases]) / np.where(gap, 1.0, units)
        pressure = sum(p.l2_bytes for p in phases) / self.l2_bytes
        spilled = 1.0 + self.spill * max(pressure - 1.0, 0.0) / max(pressure, 1.0)
        watts = sum(p.watts * u for p, u in zip(phases, units, strict=True)) + self.idle_watts
        clock = min((self.power_cap_watts / watts) ** (1 / 2), 1.0)
        crowd = 1.0 + self.launch_penalty * (len(phases) - 1)
        compute = np.where(gap, 1.0 / (alone * crowd), clock / alone)
        bytes_needed = np.array([p.dram_bytes * (spilled if p.l2_bytes else 1.0) for p in phases])
        demand = bytes_needed * compute
        granted = np.maximum(max_min(demand, self.dram_bytes_per_s), 1.0)
        others = np.minimum((demand.sum() - demand) / self.dram_bytes_per_s, 1.0)
        waiting = bytes_needed / granted * (1.0 + self.queueing * others)
        return np.asarray(1.0 / np.hypot(1.0 / compute, waiting))


def max_min(demands: Array, capacity: float) -> Array:
    """Max-min fair shares of a capacity (Bertsekas and Gallager 1992, section 6.5.2)."""
    granted = np.zeros_like(demands)
    left, open_ = capacity, list(np.argsort(demands, kind="stable"))
    while open_:
        i = open_.pop(0)
        granted[i] = min(demands[i], left / (len(open_) + 1))
        left -= granted[i]
    return granted


@dataclass(frozen=True, slots=True)
class ResourceTruth:
    """Closed loops of phases on one device, stepped from one phase's end to the next."""

    models: Mapping[str, tuple[Phase, ...]]
    law: DeviceLaw = DeviceLaw()
    batches: int = 40

    def slowdowns(self, active: Sequence[Resident]) -> tuple[float, ...]:
        together = self.latencies_s(active)
        return tuple(
            float(max(ours.mean() / self.latencies_s([r])[0].mean(), 1.0))
            for r, ours in zip(active, together, strict=True)
        )

    def latencies_s(self, active: Sequence[Resident]) -> list[Array]:
        """Batch latencies of each until the slowest has done `batches`, without the first (they start in step)."""
        cycles = [self._phases(r.name) for r in active]
        shares = [r.share_percent / 100 for r in active]
        place, left = [0] * len(active), np.ones(len(active))
        started, now = [0.0] * len(active), 0.0
        done: list[list[float]] = [[] for _ in active]
        while min(len(d) for d in done) < self.batches:
            speeds = self.law.speeds([c[p] for c, p in zip(cycles, place, strict=True)], shares)
            step = float((left / speeds).min())
            now += step
            left = left - speeds * step
            for i in np.flatnonzero(left <= _DONE):
                left[i], place[i] = 1.0, (place[i] + 1) % len(cycles[i])
                if place[i] == 0:
                    done[i].append(now - started[i])
                    started[i] = now
        return [np.array(d[1:]) for d in done]

    def _phases(self, name: str) -> tuple[Phase, ...]:
        if name not in self.models:
            raise NotFound(f"model {name!r} has no phases in this truth; add it", fields={"field": "name"})
        return self.models[name]


@dataclass(frozen=True, slots=True)
class RecordedTruth:
    """Slowdowns as they were measured: the exact set, else the same names at the nearest shares."""

    table: Mapping[tuple[Resident, ...], tuple[float, ...]]

    @classmethod
    def of(cls, measurements: Measurements) -> RecordedTruth:
        table: dict[tuple[Resident, ...], tuple[float, ...]] = {}
        for run in measurements.runs:
            solos = [measurements.solo_ms.get(p) for p in run.partners]
            if not run.has_probe and all(solos):
                slow = [ms / s for ms, s in zip(run.latency_ms, solos, strict=True) if s]
                order = sorted(range(len(slow)), key=lambda i: run.partners[i])
                table[tuple(run.partners[i] for i in order)] = tuple(slow[i] for i in order)
        return cls(table)

    def slowdowns(self, active: Sequence[Resident]) -> tuple[float, ...]:
        if len(active) <= 1:
            return (1.0,) * len(active)
        order = sorted(range(len(active)), key=lambda i: active[i])
        wanted = tuple(active[i] for i in order)
        key = wanted if wanted in self.table else self._nearest(wanted)
        found = [0.0] * len(active)
        for position, i in enumerate(order):
            found[i] = max(self.table[key][position], 1.0)
        return tuple(found)

    def _nearest(self, wanted: tuple[Resident, ...]) -> tuple[Resident, ...]:
        names = [r.name for r in wanted]
        same = [k for k in self.table if [r.name for r in k] == names]
        if not same:
            raise NotFound(f"no co-run of {', '.join(names)} was recorded; measure it or use ResourceTruth")
        return min(
            same, key=lambda k: (sum(abs(a.share_percent - b.share_percent) for a, b in zip(k, wanted, strict=True)), k)
        )
