"""How large a share of a device each model needs: the smallest that meets its objective at its rate and burstiness.

Latency at share s and batch b comes from the profile, straight in 1 / latency between profiled shares, times an
allowance for neighbours. Waiting follows the heavy-traffic bound P(wait > t) <= rho exp(-2 (1 - rho) t / (cv^2 S))
(Kingman, 1962, service taken as constant); a share is enough when at most `miss` of the requests wait longer than
the objective leaves after one batch and its gathering. All models at once, in arrays.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray

from partywall.errors import InvalidInput

Floats = NDArray[np.float64]
SHARES = np.arange(1, 101)
"""Shares in percent that a partition may have."""
MAX_REPLICAS = 16
_ROUNDING_S = 1e-9
"""An objective that is missed by no more than this is met: a nanosecond is what units cost, not what a model does."""


@dataclass(frozen=True, slots=True)
class ProfileGrid:
    """Solo latencies: `latency_ms[m, b, s]` at `batches[b]` and `shares_percent[s]`; NaN: does not run."""

    models: tuple[str, ...]
    batches: tuple[int, ...]
    shares_percent: tuple[int, ...]
    latency_ms: Floats

    def __post_init__(self) -> None:
        shape = (len(self.models), len(self.batches), len(self.shares_percent))
        if self.latency_ms.shape != shape:
            raise InvalidInput(f"profiles: latency_ms has shape {self.latency_ms.shape}, expected {shape}")
        if list(self.shares_percent) != sorted(self.shares_percent) or self.shares_percent[-1] != 100:
            raise InvalidInput("profiles: shares_percent must rise and end with 100")

    def weights(self) -> Floats:
        """Matrix of (profiled share, percent) that interpolates 1 / latency; through zero below the first share."""
        known = np.array(self.shares_percent, dtype=float)
        rows = np.eye(len(known))
        return np.array([np.interp(SHARES, np.r_[0.0, known], np.r_[0.0, row]) for row in rows])


@dataclass(frozen=True, slots=True)
class Need:
    """Per model: share in percent of each of `replicas` partitions, the batch there, and how much slower it may be.

    `slack[m]` is the largest slowdown at which the objective still holds. `share[m]` 0: no share is enough.
    """

    share: NDArray[np.int64]
    replicas: NDArray[np.int64]
    batch: NDArray[np.int64]
    slack: Floats

    @property
    def devices(self) -> Floats:
        """Devices' worth of compute, per model."""
        return self.share * self.replicas / 100


def _enough(
    latency_s: Floats, batch: int, rate: Floats, cv: Floats, objective_s: Floats, miss: float
) -> NDArray[np.bool_]:
    """Which models meet their objective at this batch and latency (slowdown included)."""
    rho = rate * latency_s / batch
    left = objective_s - latency_s - (batch - 1) / np.maximum(rate, 1e-9)
    variation = np.maximum(cv, 0.2) ** 2
    with np.errstate(over="ignore", invalid="ignore"):
        tail = rho * np.exp(-2 * (1 - rho) * left / (variation * latency_s / batch))
        return (rho < 1) & (left >= -_ROUNDING_S) & (tail <= miss)


def miss_probability(latency_s: float, batch: int, rate_per_s: float, cv: float, objective_s: float) -> float:
    """The part of one model's requests that comes too late, by the bound of `_enough`; 1.0 beyond its range."""
    rho = rate_per_s * latency_s / batch
    left = objective_s - latency_s - (batch - 1) / max(rate_per_s, 1e-9)
    if rho >= 1 or left < -_ROUNDING_S:
        return 1.0
    return min(1.0, rho * math.exp(-2 * (1 - rho) * left / (max(cv, 0.2) ** 2 * latency_s / batch)))


def _least_share(
    inverse: Floats, weights: Floats, allowance: Floats, enough: Callable[[Floats], NDArray[np.bool_]]
) -> NDArray[np.int64]:
    """The least share that is enough, by bisection (more share is never worse); 101: none is."""
    low, high = np.zeros(len(inverse), np.int64), np.full(len(inverse), 101, np.int64)
    while np.any(high - low > 1):
        middle = (low + high) // 2
        speed = np.einsum("ms,sm->m", inverse, weights[:, np.clip(middle, 1, 100) - 1])
        with np.errstate(divide="ignore"):
            ok = enough(0.001 / speed * allowance) & (middle >= 1) & (middle <= 100)
        settled = high - low <= 1
        high = np.where(ok & ~settled, middle, high)
        low = np.where(~ok & ~settled, middle, low)
    return high


def size(
    grid: ProfileGrid, rate: Floats, cv: Floats, objective_s: Floats, allowance: Floats, miss: float = 0.01
) -> Need:
    """The least share x replicas for each model when neighbours slow it down by `allowance`."""
    count = len(grid.models)
    weights = grid.weights()
    need = Need(np.zeros(count, np.int64), np.ones(count, np.int64), np.ones(count, np.int64), np.ones(count))
    best = np.full(count, np.inf)
    inverse = np.nan_to_num(1.0 / grid.latency_ms)
    todo = np.arange(count)
    for replicas in range(1, MAX_REPLICAS + 1):
        for at, batch in enumerate(grid.batches):
            enough = partial(
                _enough,
                batch=batch,
                rate=rate[todo] / replicas,
                cv=cv[todo],
                objective_s=objective_s[todo],
                miss=miss,
            )
            share = _least_share(inverse[todo, at], weights, allowance[todo], enough)
            cost = np.where(share <= 100, share * replicas, np.inf)
            better = cost < best[todo]
            chosen = todo[better]
            best[chosen] = cost[better]
            need.share[chosen] = share[better]
            need.replicas[chosen] = replicas
            need.batch[chosen] = batch
        todo = np.flatnonzero(np.isinf(best))
        if not todo.size:
            break
    _measure_slack(grid, need, rate, cv, objective_s, allowance, miss)
    return need


def _measure_slack(
    grid: ProfileGrid, need: Need, rate: Floats, cv: Floats, objective_s: Floats, allowance: Floats, miss: float
) -> None:
    """Bisects the slowdown that each chosen share still bears."""
    inverse = np.nan_to_num(1.0 / grid.latency_ms)
    rows = np.arange(len(grid.models))
    batches = np.array(grid.batches)
    place = np.searchsorted(batches, need.batch)
    with np.errstate(divide="ignore"):
        weights = grid.weights()[:, np.maximum(need.share, 1) - 1]
        latency_s = 0.001 / np.einsum("ms,sm->m", inverse[rows, place], weights)
    low, high = allowance.astype(float).copy(), np.full(len(rows), 4.0)
    for _ in range(14):
        middle = (low + high) / 2
        ok = np.zeros(len(rows), bool)
        for batch in grid.batches:
            mine = need.batch == batch
            if mine.any():
                slowed = (latency_s * middle)[mine]
                ok[mine] = _enough(slowed, batch, (rate / need.replicas)[mine], cv[mine], objective_s[mine], miss)
        low, high = np.where(ok, middle, low), np.where(ok, high, middle)
    need.slack[:] = low


def names_of(grid: ProfileGrid, indices: Sequence[int]) -> str:
    """A few names for a message."""
    return ", ".join(grid.models[i] for i in list(indices)[:5])
