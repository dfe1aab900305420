"""What live correction remembers and sees of one replica, and how it looks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from partywall.domain.profiles import Profile, Resident
from router.gateway.replicas import Replica
from router.gateway.service_window import Taken
from router.gateway.slowdown import Activity, SlowdownNow


@dataclass(frozen=True, slots=True)
class CorrectionPolicy:
    """Seconds between two looks, what counts as busy, and how fast the traffic's own work is forgotten.

    `most` bounds the factor by which admission may lengthen a service time.
    """

    period_s: float = 2.0
    busy: float = 0.02
    smoothing: float = 0.3
    workload_half_life_s: float = 600.0
    least_batches: float = 3.0
    most: float = 4.0
    peak_half_life_s: float = 120.0
    """How fast a replica's busiest time is forgotten, for those who would stand beside it."""


@dataclass(slots=True)
class State:
    """What is remembered of a replica: `busy` in the last period, `lately` smoothed over periods.

    `workload` is a decaying mean of log(service / solo) without neighbours.
    """

    busy: float = 0.0
    lately: float = 0.0
    weight: float = 0.0
    workload_sum: float = 0.0
    observed: float = 0.0
    now: SlowdownNow | None = None
    peak: float = 1.0
    seen_peak: float = 0.0
    peak_batches_per_s: float = 0.0
    rows_factor: float = 1.0

    def see(self, taken: Taken, period_s: float, policy: CorrectionPolicy, rows_factor: float | None) -> None:
        """What a period brought: how busy it was, and how large its batches (`solo.rows_factor`)."""
        self.busy = min(sum(seconds for _, seconds in taken.values()) / period_s, 1.0)
        self.lately = max(self.busy, self.lately + policy.smoothing * (self.busy - self.lately))
        keep = 0.5 ** (period_s / policy.peak_half_life_s)
        self.peak = max(self.busy, self.peak * keep)
        self.seen_peak = max(self.busy, self.seen_peak * keep)
        batches_per_s = sum(count for count, _ in taken.values()) / period_s
        self.peak_batches_per_s = max(batches_per_s, self.peak_batches_per_s * keep)
        if rows_factor is not None:
            self.rows_factor += policy.smoothing * (rows_factor - self.rows_factor)

    def take_over(self, before: State) -> None:
        """The traffic of a replica that this one replaces comes here."""
        self.peak, self.seen_peak = before.peak, before.seen_peak
        self.peak_batches_per_s, self.rows_factor = before.peak_batches_per_s, before.rows_factor

    @property
    def activity(self) -> Activity:
        """For those who would stand beside it."""
        return Activity(self.peak, self.seen_peak, self.peak_batches_per_s, self.rows_factor * math.exp(self.workload))

    @property
    def workload(self) -> float:
        """Shrunk to none by one look's worth of doubt."""
        return self.workload_sum / (self.weight + 1.0) if self.weight else 0.0


@dataclass(frozen=True, slots=True)
class Standing:
    """A replica with its profile and what its batches of the last period took."""

    replica: Replica
    state: State
    resident: Resident
    profile: Profile | None
    ratio: float | None
