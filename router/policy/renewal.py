"""What a quiet time says about the next arrival, for gamma-distributed gaps (a renewal process).

Bursty arrivals have a falling hazard: just after an arrival the next is likely, after a quiet time it is not. A model
is described by its mean gap and the coefficient of variation CV; their shape is 1 / CV^2 (Cox, Renewal Theory, 1962).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

_LOWEST, _HIGHEST, _PER_OCTAVE = -24, 8, 4
"""The table's range in powers of two of the mean gap."""


def survival(shape: float, x: float) -> float:
    """P(gap > x) for a gamma gap of unit scale: 1 minus the series of the regularised incomplete gamma function."""
    if x <= 0:
        return 1.0
    if x > shape + 1:
        return _survival_fraction(shape, x)
    term = total = 1.0 / shape
    n = shape
    while term > total * 1e-12:
        n += 1.0
        term *= x / n
        total += term
    return 1.0 - total * math.exp(-x + shape * math.log(x) - math.lgamma(shape))


def _survival_fraction(shape: float, x: float) -> float:
    """Lentz's continued fraction for large x."""
    b = x + 1.0 - shape
    c, d = 1e300, 1.0 / b
    h = d
    for i in range(1, 200):
        an = -i * (i - shape)
        b += 2.0
        d = 1.0 / (an * d + b or 1e-300)
        c = b + an / c or 1e-300
        step = d * c
        h *= step
        if abs(step - 1.0) < 1e-10:
            break
    return math.exp(-x + shape * math.log(x) - math.lgamma(shape)) * h


def gap_within(rate_per_s: float, cv: float, seconds: float) -> float:
    """P(gap <= seconds) for gaps of this mean rate and variation."""
    if rate_per_s <= 0:
        return 0.0
    shape = 1.0 / max(cv, 0.05) ** 2
    return 1.0 - survival(shape, shape * seconds * rate_per_s)


@functools.lru_cache(maxsize=256)
def _cumulative_hazard(cv_steps: int) -> Sequence[float]:
    """-ln P(gap > 2^e) of unit mean, on a grid of exponents e."""
    cv = cv_steps / 10
    shape = 1.0 / (cv * cv)
    grid = range(_LOWEST * _PER_OCTAVE, _HIGHEST * _PER_OCTAVE + 1)
    return tuple(-math.log(max(1e-300, survival(shape, shape * 2.0 ** (e / _PER_OCTAVE)))) for e in grid)


class GapHazard:
    """Expected arrival rate in the near future, given the time since the last arrival."""

    __slots__ = ("_horizon", "_mean_s", "_table")

    def __init__(self, rate_per_s: float, cv: float, horizon_s: float) -> None:
        self._mean_s = 1.0 / max(rate_per_s, 1e-9)
        self._horizon = horizon_s / self._mean_s
        self._table = _cumulative_hazard(min(120, max(5, round(cv * 10))))

    def near_rate_per_s(self, quiet_s: float) -> float:
        """Mean hazard from now to the horizon, after `quiet_s` without an arrival."""
        quiet = quiet_s / self._mean_s
        spent = self._at(quiet + self._horizon) - self._at(quiet)
        return spent / (self._horizon * self._mean_s)

    def _at(self, gaps: float) -> float:
        table = self._table
        if gaps <= 2.0**_LOWEST:
            return table[0] * gaps * 2.0**-_LOWEST
        place = (math.log2(gaps) - _LOWEST) * _PER_OCTAVE
        low = min(int(place), len(table) - 2)
        start = math.exp2(low / _PER_OCTAVE + _LOWEST)
        part = (gaps / start - 1) / (math.exp2(1 / _PER_OCTAVE) - 1)
        return table[low] + part * (table[low + 1] - table[low])
