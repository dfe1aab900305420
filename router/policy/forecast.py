"""Forecasts of request rates, per model or group: season + recent level + burst quantile.

A rate in the next interval is the season's mean for that part of the day, scaled by how the recent intervals compare
with their season (exponential smoothing of the ratio), and an upper bound from the empirical quantile of past errors,
relative to the square root of the forecast, as counts scatter. Without a full season it is the recent level alone.
Judged by pinball loss (Koenker and Bassett, 1978) against "the last value again".
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
    """`season` in intervals (288 of five minutes are a day); `quantile` of the upper bound."""

    season: int = 288
    quantile: float = 0.95
    level_smoothing: float = 0.3
    season_smoothing: float = 0.3
    remembered_errors: int = 512


class Forecaster:
    """Fed one count per interval; answers for the next one."""

    def __init__(self, settings: ForecastSettings | None = None) -> None:
        self._settings = settings or ForecastSettings()
        self._season: list[float | None] = [None] * self._settings.season
        self._seen = 0
        self._level = 0.0
        self._ratio = 1.0
        self._order: deque[float] = deque()
        self._errors: list[float] = []

    def observe(self, count: float) -> None:
        """The interval that just ended."""
        settings = self._settings
        if self._seen:
            expected = self._mean()
            self._remember((count - expected) / math.sqrt(max(expected, 1.0)))
        slot = self._seen % settings.season
        usual = self._season[slot]
        if usual is not None:
            ratio = (count + 1.0) / (usual + 1.0)
            self._ratio += settings.level_smoothing * (ratio - self._ratio)
            self._season[slot] = usual + settings.season_smoothing * (count - usual)
        else:
            self._season[slot] = count
        self._level = count if not self._seen else self._level + settings.level_smoothing * (count - self._level)
        self._seen += 1

    def next(self) -> Forecast:
        """The coming interval."""
        mean = self._mean()
        return Forecast(mean, max(0.0, mean + self._quantile() * math.sqrt(max(mean, 1.0))))

    def _mean(self) -> float:
        usual = self._season[self._seen % self._settings.season]
        return self._level if usual is None else max(0.0, (usual + 1.0) * self._ratio - 1.0)

    def _quantile(self) -> float:
        if not self._errors:
            return 0.0
        at = min(len(self._errors) - 1, math.ceil(self._settings.quantile * len(self._errors)))
        return self._errors[at]

    def _remember(self, error: float) -> None:
        self._order.append(error)
        insort(self._errors, error)
        if len(self._order) > self._settings.remembered_errors:
            self._errors.remove(self._order.popleft())


def pinball_loss(actual: Sequence[float], predicted: Sequence[float], quantile: float) -> float:
    """Mean pinball loss of quantile forecasts; at 0.5 half the mean absolute error."""
    losses = [max(quantile * (a - p), (quantile - 1) * (a - p)) for a, p in zip(actual, predicted, strict=True)]
    return sum(losses) / len(losses) if losses else 0.0
