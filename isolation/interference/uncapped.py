"""Two models without caps: who wins the compute units.

Without caps the block scheduler hands units to whoever has blocks waiting: large, long kernels hold the device and
small ones wait behind them. Two facts carry the model. Progress is nearly conserved: 1/slowdown of both partners sums
to a little over one, more where either leaves units idle alone. And progress is divided by rank: log(progress_a /
progress_b) is close to h_a - h_b, with one *hold* h per model (strength models of paired comparison, Bradley and Terry
1952). The hold is linear in how busy the model keeps the units alone, at what occupancy, how little it suffers from
the launch path and how much it delays small kernels there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from isolation.interference.atlas import Atlas
from isolation.interference.mixtures import Array
from isolation.interference.rows import Pair
from partywall.domain.profiles import Resident, Resource

_RIDGE = 1.0  # per training model, in units of the features below
_FULL = 100
_MAX_UTIL = 0.97


@dataclass(frozen=True, slots=True)
class UncappedModel:
    """Fitted on co-runs at 100/100 of models with counters and a launch-path curve."""

    atlas: Atlas
    hold_weights: Array
    total_weights: Array
    deviation: float

    @classmethod
    def fit(cls, atlas: Atlas, pairs: Sequence[Pair]) -> UncappedModel | None:
        """None when fewer than three such models were seen: nothing to rank."""
        slowdowns = {(p.victim.name, p.neighbour.name): p.slowdown for p in pairs}
        both = [k for k in slowdowns if k[::-1] in slowdowns and all(_features(atlas, n) is not None for n in k)]
        names = sorted({n for k in both for n in k})
        if len(names) < 3:
            return None
        hold, total = _solve(atlas, slowdowns, both)
        held_out = []
        for name in names:
            rest = [k for k in both if name not in k]
            if rest:
                model = cls(atlas, *_solve(atlas, slowdowns, rest), 0.0)
                held_out += [model.predict(*k) - np.log(slowdowns[k]) for k in both if name in k]
        deviation = float(np.sqrt(np.mean(np.square(held_out)))) if held_out else 1.0
        return cls(atlas, hold, total, deviation)

    def predict(self, victim: str, neighbour: str) -> float:
        """log slowdown of the victim; nan where a profile lacks what the hold needs."""
        v, n = _features(self.atlas, victim), _features(self.atlas, neighbour)
        if v is None or n is None:
            return float("nan")
        ratio = np.exp(float((n - v) @ self.hold_weights))
        total = np.exp(float(_idle(v, n) @ self.total_weights))
        return float(max(np.log1p(ratio) - np.log(total), 0.0))


def _solve(
    atlas: Atlas, slowdowns: Mapping[tuple[str, str], float], both: Sequence[tuple[str, str]]
) -> tuple[Array, Array]:
    features = {n: _features(atlas, n) for k in both for n in k}
    known = {n: f for n, f in features.items() if f is not None}
    x = np.array([known[v] - known[n] for v, n in both])
    y = np.array([np.log(slowdowns[n, v] / slowdowns[v, n]) for v, n in both])
    hold = np.linalg.solve(x.T @ x + _RIDGE * len(known) * np.eye(x.shape[1]), x.T @ y)
    z = np.array([_idle(known[v], known[n]) for v, n in both])
    t = np.array([np.log(1 / slowdowns[v, n] + 1 / slowdowns[n, v]) for v, n in both])
    return hold, np.linalg.solve(z.T @ z + 1e-6 * np.eye(2), z.T @ t)


def _features(atlas: Atlas, name: str) -> Array | None:
    """(logit of busy units alone, launch-path sensitivity / 0.1, log occupancy, launch-path pressure / 0.2)."""
    counters = atlas.counters(Resident(name, _FULL))
    launch = [r for r, p in enumerate(atlas.probes) if p.resource is Resource.LAUNCH]
    if counters is None or not launch or name not in atlas.names:
        return None
    busy = float(np.clip(counters.sm_util / 100, 1 - _MAX_UTIL, _MAX_UTIL))
    place = atlas.index(name)
    sensitivity = float(atlas.sensitivity[place][:, launch].mean())
    pressure = float(atlas.pressure[place][:, launch].mean())
    occupancy = float(np.log(max(counters.sm_occupancy, 1.0)))
    return np.array([np.log(busy / (1 - busy)), sensitivity * 10, occupancy, pressure * 5])


def _idle(v: Array, n: Array) -> Array:
    """(1, product of both sides' idle fractions)."""
    return np.array([1.0, 1.0 / ((1.0 + np.exp(v[0])) * (1.0 + np.exp(n[0])))])
