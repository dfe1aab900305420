"""The words of scaling: limits, what is observed of a model, and the verdict on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from router.policy.triggers import Trigger, TriggerSettings


@dataclass(frozen=True, slots=True)
class ScalingLimits:
    """What the scaler weighs. Times in seconds.

    `most` replicas of one model. `margin` on forecast and burstiness before a replica may go. The need must hold for
    `confirm_s` before one is added without an objective at risk; after a change nothing happens for
    `settle_s`, or until it is there, for `start_s` at most.
    Burstiness is taken over `dispersion_bins` seconds, as if `prior_bins` of a Poisson process had come before.
    `busy` is how much of its replicas' time a model must use before more of them can help an objective at risk.
    """

    most: int = 4
    margin: float = 1.3
    confirm_s: float = 10.0
    settle_s: float = 10.0
    start_s: float = 120.0
    interval_s: float = 5.0
    dispersion_bins: int = 120
    prior_bins: int = 60
    busy: float = 0.5
    miss: float = 0.01
    triggers: TriggerSettings = field(default_factory=TriggerSettings)


@dataclass(frozen=True, slots=True)
class Observed:
    """One model since the last observation, and as it is now.

    `batch_s` maps batch sizes to the upper bound of their service time in seconds, slowdown by neighbours included;
    empty while nothing ran. `wanted` is the number that is asked for, `ready` how many serve.
    """

    arrivals: int
    in_time: int
    objective_ms: float
    batch_s: Mapping[int, float]
    wanted: int
    ready: int


@dataclass(frozen=True, slots=True)
class Option:
    """A number of replicas that was looked at: the part of the requests in time, and the replicas' time in use."""

    replicas: int
    attainment: float
    utilisation: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """How many replicas a model should have, and why. `rate_per_s` is the bound of the forecast it was sized for."""

    replicas: int
    reason: str
    trigger: Trigger | None
    rate_per_s: float
    burstiness: float
    need: int
    options: tuple[Option, ...] = ()
