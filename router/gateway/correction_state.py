"""What live correction remembers and sees of one replica, and how it looks."""

from __future__ import annotations

from dataclasses import dataclass

from partywall.domain.profiles import Profile, Resident
from router.gateway.replicas import Replica
from router.gateway.slowdown import SlowdownNow


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
