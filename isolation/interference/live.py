"""Live correction: what agents report of service times moves, widens or overrules a prediction.

Residuals are of service time, never of queueing, per (victim, neighbours with their shares, isolation). Their mean is
shrunk by a prior variance ratio, forgets with a half-life, and a two-sided Page-Hinkley test (Page 1954) on the
standardised residuals notices that a profile no longer fits: then the bound widens and a new profile is asked for.
Pure: time is a parameter; nothing here is thread-safe.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

from isolation.interference.model import Prediction
from partywall.domain.fleet import PartitionKind
from partywall.domain.profiles import Resident
from partywall.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class Setting:
    """Whose residuals belong together."""

    victim: Resident
    neighbours: frozenset[Resident]
    isolation: PartitionKind
    device_type: str = ""


@dataclass(frozen=True, slots=True)
class LivePolicy:
    """`prior_reports`: reports after which half of the mean residual is believed, had none decayed.

    `drift` and `alarm` are Page-Hinkley's, in standard deviations; `widening` multiplies the deviation after an alarm.
    """

    half_life_s: float = 3600.0
    prior_reports: float = 3.0
    noise: float = 0.02
    drift: float = 0.5
    alarm: float = 8.0
    widening: float = 3.0

    def __post_init__(self) -> None:
        if min(self.half_life_s, self.prior_reports, self.noise, self.drift, self.alarm) <= 0 or self.widening < 1:
            raise InvalidInput(f"live policy needs positive values and a widening of at least 1: {self}")


_FORGOTTEN = 0.01


@dataclass(frozen=True, slots=True)
class _State:
    weight: float = 0.0
    total: float = 0.0
    at_s: float = 0.0
    up: float = 0.0
    down: float = 0.0
    alarmed: bool = False

    def decayed(self, at_s: float, half_life_s: float) -> _State:
        keep = 0.5 ** (max(at_s - self.at_s, 0.0) / half_life_s)
        return replace(self, weight=self.weight * keep, total=self.total * keep, at_s=max(at_s, self.at_s))

    def mean(self, prior_reports: float, prior: float) -> float:
        return (self.total + prior_reports * prior) / (self.weight + prior_reports)


class LiveCorrector:
    """Residuals of a fleet, one state per setting."""

    def __init__(self, policy: LivePolicy | None = None) -> None:
        self._policy = policy or LivePolicy()
        self._states: dict[Setting, _State] = {}

    def observe(
        self, setting: Setting, predicted: Prediction, measured_slowdown: float, at_s: float, prior: float = 0.0
    ) -> None:
        """One report: mean service time over a window / solo latency at the share. `predicted` is uncorrected.

        `prior` is the residual (of the log slowdown) that is expected without reports.

        Raises:
            InvalidInput: `measured_slowdown` is not positive and finite.
        """
        if not (math.isfinite(measured_slowdown) and measured_slowdown > 0):
            raise InvalidInput(f"measured_slowdown must be positive and finite, got {measured_slowdown}; drop it")
        policy = self._policy
        state = self._states.get(setting, _State(at_s=at_s)).decayed(at_s, policy.half_life_s)
        residual = math.log(measured_slowdown / predicted.slowdown)
        expected = state.mean(policy.prior_reports, prior)
        surprise = (residual - expected) / math.hypot(policy.noise, self._doubt(state, predicted))
        up = max(state.up + surprise - policy.drift, 0.0)
        down = max(state.down - surprise - policy.drift, 0.0)
        self._states[setting] = replace(
            state,
            weight=state.weight + 1.0,
            total=state.total + residual,
            up=up,
            down=down,
            alarmed=state.alarmed or max(up, down) > policy.alarm,
        )

    def correct(self, setting: Setting, predicted: Prediction, at_s: float, prior: float = 0.0) -> Prediction:
        """The prediction with this setting's residual shrunk to `prior`; its bound keeps its distance in deviations."""
        state = self._states.get(setting)
        if math.isinf(predicted.upper) or (state is None and not prior):
            return predicted
        if state is None:
            slowdown = max(predicted.slowdown * math.exp(prior), 1.0)
            return replace(predicted, slowdown=slowdown, upper=slowdown * predicted.upper / predicted.slowdown)
        state = state.decayed(at_s, self._policy.half_life_s)
        deviation = math.hypot(self._policy.noise, self._doubt(state, predicted))
        deviation = min(deviation, predicted.deviation)
        if state.alarmed:
            deviation = predicted.deviation * self._policy.widening
        distance = math.log(predicted.upper / predicted.slowdown) / predicted.deviation
        slowdown = max(predicted.slowdown * math.exp(state.mean(self._policy.prior_reports, prior)), 1.0)
        return replace(
            predicted, slowdown=slowdown, upper=slowdown * math.exp(distance * deviation), deviation=deviation
        )

    def prune(self, at_s: float) -> None:
        """Lets go of settings whose reports have decayed to nothing; alarms stay until `forget`."""
        half_life_s = self._policy.half_life_s
        self._states = {
            s: state
            for s, state in self._states.items()
            if state.alarmed or state.decayed(at_s, half_life_s).weight > _FORGOTTEN
        }

    def wants_profile(self) -> tuple[str, ...]:
        """Victims whose residuals changed since their profile was taken, sorted."""
        return tuple(sorted({s.victim.name for s, state in self._states.items() if state.alarmed}))

    def forget(self, names: Iterable[str]) -> None:
        """After a new profile: residuals against the old one say nothing, of the victim or of its neighbours."""
        gone = set(names)
        self._states = {
            s: state
            for s, state in self._states.items()
            if s.victim.name not in gone and not any(n.name in gone for n in s.neighbours)
        }

    def _doubt(self, state: _State, predicted: Prediction) -> float:
        """What is left of the prediction's own uncertainty after the reports so far."""
        prior = self._policy.prior_reports
        return predicted.deviation * math.sqrt(prior / (prior + state.weight))
