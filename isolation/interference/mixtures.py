"""A neighbour as a mixture of probes: the structural prior, which no co-run of two models enters.

Which blend of probes would slow the probes themselves as this neighbour does? The victim then should slow as it does
beside that blend: a nonnegative Nystrom extension of the victim-by-neighbour table through its probe rows and columns
(Williams and Seeger 2001). Three ways to weigh the fit are averaged, because each has its blind spot: absolute errors
see the strong pressures, relative ones the weak, and lost throughput (1 - 1/slowdown) saturates as contention does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

_LEAST_SPEED = 0.05


@dataclass(frozen=True, slots=True)
class Blend:
    """One way to fit. `ridge` shrinks the blend to nothing; `other_shares` is the weight of the same neighbour beside
    probes of other sizes; `relative` 0: absolute errors, else the floor below which errors count as absolute."""

    ridge: float
    other_shares: float
    relative: float = 0.0
    lost_throughput: bool = False

    def forward(self, log_slowdown: Array) -> Array:
        return 1.0 - np.exp(-log_slowdown) if self.lost_throughput else log_slowdown

    def backward(self, value: Array) -> Array:
        return -np.log(np.maximum(1.0 - value, _LEAST_SPEED)) if self.lost_throughput else value


BLENDS: tuple[Blend, ...] = (
    Blend(ridge=0.1, other_shares=0.3),
    Blend(ridge=0.3, other_shares=0.5, relative=0.3),
    Blend(ridge=0.1, other_shares=0.3, lost_throughput=True),
)


def fit_blends(table: Array, pressure: Array, neighbour_share: Sequence[int]) -> Array:
    """Blends of all neighbours: (ways, neighbours, grid, probes), nonnegative.

    `table` is the probes' own log slowdown (victim probe, grid, neighbour probe); `pressure` (neighbours, grid, victim
    probe); `neighbour_share` the neighbour's share at each grid point.
    """
    share = np.array(neighbour_share)
    found = np.zeros((len(BLENDS), *pressure.shape))
    for b, blend in enumerate(BLENDS):
        basis, target = blend.forward(table), blend.forward(pressure)
        for c in range(len(share)):
            weight = np.where(np.arange(len(share)) == c, 1.0, np.where(share == share[c], blend.other_shares, 0.0))
            for n in range(len(pressure)):
                found[b, n, c] = _fit(blend, basis, target[n], weight)
    return found


def believe(blends: Array, sensitivity: Array) -> Array:
    """Prior log slowdown, averaged over the ways: `blends` (ways, rows, probes), `sensitivity` (rows, probes)."""
    ways = [
        blend.backward(np.sum(x * blend.forward(sensitivity), axis=-1)) for blend, x in zip(BLENDS, blends, strict=True)
    ]
    return np.asarray(np.mean(ways, axis=0))


def _fit(blend: Blend, basis: Array, target: Array, weight: Array) -> Array:
    # A third of a second to import, and only fits need it: a router that predicts from profiles does without.
    from scipy.optimize import nnls

    rows, values = [], []
    for c in np.flatnonzero(weight):
        scale = (
            weight[c] / (blend.relative + np.abs(target[c])) if blend.relative else np.full(len(target[c]), weight[c])
        )
        rows.append(basis[:, c, :] * scale[:, None])
        values.append(target[c] * scale)
    size = basis.shape[2]
    a = np.vstack([*rows, blend.ridge * np.eye(size)])
    return np.asarray(nnls(a, np.concatenate([*values, np.zeros(size)]))[0])
