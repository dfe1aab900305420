"""What a fleet's own co-runs teach about pairs that have not met: live correction with a lesson under it.

`LiveCorrector` moves the prediction of the setting that was observed and of no other. Where enough models have been
beside enough others, their residuals also tell how far profiles are off on this type of device as a whole: a factor on
the log slowdown (a ridge towards 1, so that an idle neighbour costs nothing still) and the deviations that its bound
needs. A lesson counts only while it predicts models left out of it better than profiles do, and is the mean that the
residuals of each setting are shrunk to.

In memory only: a restart learns anew. Measurements that shall last belong into a fit (`fits`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from isolation.interference.live import LiveCorrector, LivePolicy, Setting
from isolation.interference.model import Basis, Prediction


@dataclass(frozen=True, slots=True)
class TeachingPolicy:
    """What is enough to learn from.

    Attributes:
        least_models: Versions that were victims.
        least_settings: Settings with at least `least_reports` reports each.
        least_deviation: Of a prediction; below it nothing can be told from noise.
        ridge: Squared log slowdowns that speak for leaving the profiles' word as it is.
        period_s: Seconds between two lessons.
        most: Settings that are remembered, the latest new ones.
    """

    least_models: int = 3
    least_settings: int = 6
    least_reports: int = 5
    least_deviation: float = 0.02
    ridge: float = 0.05
    period_s: float = 60.0
    most: int = 5000


@dataclass(frozen=True, slots=True)
class CoRun:
    """A setting's mean over its reports: log slowdown predicted from profiles, its deviation, and log observed."""

    victim: str
    predicted: float
    deviation: float
    observed: float
    reports: int


@dataclass(frozen=True, slots=True)
class Lesson:
    """Log slowdowns are `scale` times what profiles say; the bound lies `deviations` above."""

    scale: float
    deviations: float
    models: int
    co_runs: int

    def prior(self, predicted: Prediction) -> float:
        """The residual that is expected before any report of a setting."""
        return (self.scale - 1.0) * math.log(predicted.slowdown)

    def bounded(self, predicted: Prediction) -> Prediction:
        """The same mean with this lesson's bound."""
        upper = predicted.slowdown * math.exp(self.deviations * predicted.deviation)
        return replace(predicted, upper=upper, basis=Basis.CO_RUNS)


_DEFAULT_DEVIATIONS, _LEAST_DEVIATIONS, _SURE_FROM = 2.0, 1.0, 6
_COVERAGE, _OF_MODELS = 0.95, 0.85


def learn(co_runs: Sequence[CoRun], policy: TeachingPolicy) -> Lesson | None:
    """None while there is too little, or while profiles alone do as well on models left out.

    The bound is conformal over models (`bound.py`); of fewer than six it is never narrower than that of profiles.
    """
    names = sorted({c.victim for c in co_runs})
    if len(names) < policy.least_models or len(co_runs) < policy.least_settings:
        return None
    x, y, deviation = (np.array([getattr(c, f) for c in co_runs]) for f in ("predicted", "observed", "deviation"))
    victim = np.array([c.victim for c in co_runs])
    before, after, scores = [], [], []
    for name in names:
        out = victim == name
        error = y[out] - _scale(x[~out], y[~out], policy.ridge) * x[out]
        before.append(float(np.abs(y[out] - x[out]).mean()))
        after.append(float(np.abs(error).mean()))
        scores.append(float(np.quantile(error / deviation[out], _COVERAGE)))
    if np.mean(after) >= np.mean(before):
        return None
    least = _LEAST_DEVIATIONS if len(names) >= _SURE_FROM else _DEFAULT_DEVIATIONS
    deviations = max(float(np.quantile(scores, _OF_MODELS)), least)
    return Lesson(_scale(x, y, policy.ridge), deviations, len(names), len(co_runs))


def _scale(x: np.typing.NDArray[np.float64], y: np.typing.NDArray[np.float64], ridge: float) -> float:
    return max(float((x @ y + ridge) / (x @ x + ridge)), 0.0)


class TaughtCorrector:
    """`LiveCorrector` of a fleet, with a lesson for each type of device under it."""

    def __init__(self, policy: LivePolicy | None = None, teaching: TeachingPolicy | None = None) -> None:
        self._live = LiveCorrector(policy)
        self._teaching = teaching or TeachingPolicy()
        self._co_runs: dict[Setting, CoRun] = {}
        self._lessons: dict[str, Lesson] = {}
        self._taught_s = -math.inf

    @property
    def lessons(self) -> Mapping[str, Lesson]:
        """By type of device."""
        return self._lessons

    def observe(self, setting: Setting, predicted: Prediction, measured_slowdown: float, at_s: float) -> None:
        """As `LiveCorrector.observe`; what was predicted from profiles alone is a co-run to learn from."""
        lesson = self._lesson(setting, predicted)
        self._live.observe(setting, predicted, measured_slowdown, at_s, lesson.prior(predicted) if lesson else 0.0)
        if predicted.basis is not Basis.PROFILES or predicted.deviation < self._teaching.least_deviation:
            return
        seen = (math.log(predicted.slowdown), predicted.deviation, math.log(measured_slowdown))
        held = self._co_runs.get(setting)
        if held is None:
            if len(self._co_runs) >= self._teaching.most:
                del self._co_runs[next(iter(self._co_runs))]
            self._co_runs[setting] = CoRun(setting.victim.name, *seen, 1)
            return
        weight = 1.0 / (held.reports + 1)
        before = (held.predicted, held.deviation, held.observed)
        log, deviation, observed = (old + weight * (new - old) for old, new in zip(before, seen, strict=True))
        self._co_runs[setting] = CoRun(held.victim, log, deviation, observed, held.reports + 1)

    def correct(self, setting: Setting, predicted: Prediction, at_s: float) -> Prediction:
        """As `LiveCorrector.correct`, shrunk to the lesson of the setting's type of device where there is one."""
        lesson = self._lesson(setting, predicted)
        if lesson is None:
            return self._live.correct(setting, predicted, at_s)
        return self._live.correct(setting, lesson.bounded(predicted), at_s, lesson.prior(predicted))

    def prune(self, at_s: float) -> None:
        """As `LiveCorrector.prune`; every minute the lessons are learned anew."""
        self._live.prune(at_s)
        if at_s - self._taught_s < self._teaching.period_s:
            return
        self._taught_s = at_s
        by_type: dict[str, list[CoRun]] = {}
        for setting, co_run in self._co_runs.items():
            if co_run.reports >= self._teaching.least_reports:
                by_type.setdefault(setting.device_type, []).append(co_run)
        found = {device_type: learn(some, self._teaching) for device_type, some in by_type.items()}
        self._lessons = {device_type: lesson for device_type, lesson in found.items() if lesson is not None}

    def wants_profile(self) -> tuple[str, ...]:
        """As `LiveCorrector.wants_profile`."""
        return self._live.wants_profile()

    def forget(self, names: Iterable[str]) -> None:
        """As `LiveCorrector.forget`; their co-runs teach nothing any more."""
        gone = set(names)
        self._live.forget(gone)
        self._co_runs = {
            s: c for s, c in self._co_runs.items() if not gone & {s.victim.name, *(n.name for n in s.neighbours)}
        }

    def _lesson(self, setting: Setting, predicted: Prediction) -> Lesson | None:
        return self._lessons.get(setting.device_type) if predicted.basis is Basis.PROFILES and predicted.known else None
