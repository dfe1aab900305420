"""The words of sharing a device: what a resident asks of it, what the interference model says, what is tolerated."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Protocol

from router.policy.neighbour_costs import SlowdownBounds


@dataclass(frozen=True, slots=True)
class Work:
    """What one replica asks of its device.

    Attributes:
        objective_s: Latency objective in seconds; 0.0: none.
        ratio: Its batches' service time alone / the profile's solo time, both at one share: how heavy its traffic is.
        rate_per_s: Batches a second; 0.0 while no traffic has shown it.
        busy: Upper bound on the fraction of time it runs, 0 to 1; 1.0 while nothing is known.
    """

    objective_s: float = 0.0
    ratio: float = 1.0
    rate_per_s: float = 0.0
    busy: float = 1.0


@dataclass(frozen=True, slots=True)
class Estimate:
    """A victim's slowdown beside neighbours: mean, upper bound on the mean, upper bound while all of them run at once.

    `beside` is the part of its batches that run while any of them does. Infinite bounds: one of them has no profile,
    so nothing is known.
    """

    mean: float
    upper: float
    tail_upper: float
    beside: float = 1.0


class Bounds(SlowdownBounds, Protocol):
    """The interference model as placement asks it; `router.control.neighbourhood.Neighbourhood` is the real side."""

    def informed(self) -> bool:
        """Whether any model has a profile. Without one, places are chosen as if there were no model."""
        ...

    def solo_s(self, device_type: str, model_id: str, version: int, share_percent: int) -> float | None:
        """Seconds of a batch alone; None: its curves were not measured on this type of device, or not near this
        share."""
        ...


@dataclass(frozen=True, slots=True)
class SharingLimits:
    """What residents of one device may cost each other.

    Attributes:
        miss: Part of a model's requests that may miss the objective.
        tolerated: Slowdown that a model without an objective bears.
        hopeless: Slowdown that a model bears which misses its objective alone already.
        most_assessed: Candidates assessed once an acceptable one is known.
    """

    miss: float = 0.01
    tolerated: float = 2.0
    hopeless: float = 1.1
    most_assessed: int = 200


class Sharing(enum.IntEnum):
    """What a place comes to for all that would stand there, best first."""

    ACCEPTABLE = 0
    UNKNOWN = 1
    HARMFUL = 2


@dataclass(frozen=True, slots=True)
class Effect:
    """What a placement comes to for one model there.

    `strain` is by what its service time would have to shrink to just meet its objective: 1.0 is just met, 2.0 twice
    too slow. `placement_id` is empty for the newcomer.
    """

    placement_id: str
    model_id: str
    estimate: Estimate
    strain: float
    sharing: Sharing


@dataclass(frozen=True, slots=True)
class Assessment:
    """One candidate under the interference model. `reason` holds `<model:ID>` for the models that are named."""

    sharing: Sharing
    effects: tuple[Effect, ...]
    occupies: bool
    finish_s: float | None
    reason: str

    @property
    def strain(self) -> float:
        """The worst of those that are known."""
        return max((e.strain for e in self.effects if e.sharing is not Sharing.UNKNOWN), default=0.0)
