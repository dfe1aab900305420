"""Forecasts of request rates, per model or group: season + recent level + burst quantile.

A rate in the next interval is the season's mean for that part of the day, scaled by how the recent intervals compare
with their season (exponential smoothing of the ratio), and an upper bound from the empirical quantile of past errors,
relative to the square root of the forecast, as counts scatter. Without a full season it is the recent level alone.
How far back "recent" reaches differs: steady traffic wants a mean, runs of bursts the last value and no season. Several
smoothings are kept, with and without the season, and the one whose errors (for the bound: pinball losses) were least of
late answers (Koenker and Bassett 1978; tracking the best expert: Herbster and Warmuth 1998). Judged against naive by
`benchmarks/forecast.py`.
"""

from __future__ import annotations

import math
from bisect import insort
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Forecast:
    """Requests expected in the next interval, and the bound that the quantile of past errors gives."""

    mean: float
    upper: float


@dataclass(frozen=True, slots=True)
class ForecastSettings:
    """`season` in intervals (288 of five minutes are a day; 1: none); `quantile` of the upper bound.

    `level_smoothings` are tried side by side; their losses are remembered by `loss_memory`, a part per interval.
    """

    season: int = 288
    quantile: float = 0.95
    level_smoothings: tuple[float, ...] = (0.3, 0.1, 1.0)
    season_smoothing: float = 0.3
    remembered_errors: int = 512
    loss_memory: float = 0.98


class _Expert:
    """One smoothing, with the season or without: its level, its ratio to the season, its past errors and their cost."""

    __slots__ = ("_errors", "_order", "_settings", "level", "mean_loss", "ratio", "seasonal", "smoothing", "upper_loss")

    def __init__(self, smoothing: float, seasonal: bool, settings: ForecastSettings) -> None:
        self._settings = settings
        self.seasonal = seasonal
        self.smoothing = smoothing
        self.level = 0.0
        self.ratio = 1.0
        self.mean_loss = 0.0
        self.upper_loss = 0.0
        self._order: deque[float] = deque()
        self._errors: list[float] = []

    def mean(self, usual: float | None) -> float:
        """`usual` is the season's mean for the interval, if there is one."""
        return self.level if usual is None or not self.seasonal else max(0.0, (usual + 1.0) * self.ratio - 1.0)

    def upper(self, usual: float | None) -> float:
        mean = self.mean(usual)
        return max(0.0, mean + self._quantile() * math.sqrt(max(mean, 1.0)))

    def judge(self, count: float, usual: float | None) -> None:
        """The interval is over: remembers how far off this one was."""
        memory, mean = self._settings.loss_memory, self.mean(usual)
        self.mean_loss = memory * self.mean_loss + abs(count - mean)
        self.upper_loss = memory * self.upper_loss + pinball_loss([count], [self.upper(usual)], self._settings.quantile)
        error = (count - mean) / math.sqrt(max(mean, 1.0))
        self._order.append(error)
        insort(self._errors, error)
        if len(self._order) > self._settings.remembered_errors:
            self._errors.remove(self._order.popleft())

    def learn(self, count: float, usual: float | None, *, first: bool) -> None:
        self.level = count if first else self.level + self.smoothing * (count - self.level)
        if usual is not None:
            self.ratio += self.smoothing * ((count + 1.0) / (usual + 1.0) - self.ratio)

    def _quantile(self) -> float:
        if not self._errors:
            return 0.0
        at = min(len(self._errors) - 1, math.ceil(self._settings.quantile * len(self._errors)))
        return self._errors[at]


class Forecaster:
    """Fed one count per interval; answers for the next one."""

    def __init__(self, settings: ForecastSettings | None = None) -> None:
        self._settings = settings or ForecastSettings()
        self._season: list[float | None] = [None] * self._settings.season
        self._experts = [
            _Expert(smoothing, seasonal, self._settings)
            for seasonal in ((True, False) if self._settings.season > 1 else (False,))
            for smoothing in self._settings.level_smoothings
        ]
        self._seen = 0

    def observe(self, count: float) -> None:
        """The interval that just ended."""
        slot = self._seen % self._settings.season
        usual = self._season[slot]
        for expert in self._experts:
            if self._seen:
                expert.judge(count, usual)
            expert.learn(count, usual, first=not self._seen)
        self._season[slot] = count if usual is None else usual + self._settings.season_smoothing * (count - usual)
        self._seen += 1

    def next(self) -> Forecast:
        """The coming interval."""
        usual = self._season[self._seen % self._settings.season]
        mean = min(self._experts, key=lambda expert: expert.mean_loss).mean(usual)
        upper = min(self._experts, key=lambda expert: expert.upper_loss).upper(usual)
        return Forecast(mean, max(mean, upper) if self._settings.quantile >= 0.5 else upper)


def pinball_loss(actual: Sequence[float], predicted: Sequence[float], quantile: float) -> float:
    """Mean pinball loss of quantile forecasts; at 0.5 half the mean absolute error."""
    losses = [max(quantile * (a - p), (quantile - 1) * (a - p)) for a, p in zip(actual, predicted, strict=True)]
    return sum(losses) / len(losses) if losses else 0.0
