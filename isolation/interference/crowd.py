"""Three and more at once: pair slowdowns added up, then corrected for what pairs cannot show.

The sum of log slowdowns over the neighbours is the prior. It counts the victim's own offset once per neighbour, it
ignores that contention saturates, and it knows nothing of the power cap, which the sum of several models reaches
although no two of them do. Each of these is one feature that vanishes for a single neighbour; their weights are a
ridge on the training part's triples and quads, so without any the sum stands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from isolation.interference.atlas import Atlas
from isolation.interference.mixtures import Array
from isolation.interference.rows import Colocation
from partywall.domain.profiles import Resident

_RIDGE = 2.0
_IDLE_WATTS = 110.0
_CAP_WATTS = 700.0

PairLog = Callable[[Resident, Resident], float]


@dataclass(frozen=True, slots=True)
class CrowdModel:
    """`weights` over `_features`; `deviation` is the training residual in log slowdown."""

    atlas: Atlas
    weights: Array
    deviation: float

    @classmethod
    def fit(cls, atlas: Atlas, runs: Sequence[Colocation], pair_log: PairLog) -> CrowdModel:
        """`pair_log` gives the log slowdown of a victim beside one neighbour, as the pair model believes it."""
        if not runs:
            return cls(atlas, np.zeros(len(_SCALES)), 0.1)
        logs = [_logs(r, pair_log) for r in runs]
        x = np.array([_features(atlas, r, log) for r, log in zip(runs, logs, strict=True)])
        y = np.array([np.log(r.slowdown) - log.sum() for r, log in zip(runs, logs, strict=True)])
        weights = np.linalg.solve(x.T @ x + _RIDGE * np.eye(x.shape[1]), x.T @ y)
        return cls(atlas, weights, float(np.sqrt(np.mean((y - x @ weights) ** 2))))

    def predict(self, run: Colocation, pair_log: PairLog) -> float:
        """log slowdown; never below that beside the worst single neighbour's half."""
        logs = _logs(run, pair_log)
        return float(max(logs.sum() + _features(self.atlas, run, logs) @ self.weights, logs.max() / 2, 0.0))


_SCALES = np.array([1.0, 0.05, 0.1, 0.2, 0.03, 0.03])


def _logs(run: Colocation, pair_log: PairLog) -> Array:
    return np.array([pair_log(run.victim, n) for n in run.neighbours])


def _features(atlas: Atlas, run: Colocation, logs: Array) -> Array:
    """(extra neighbours, cross products, shared offset, watts over the cap, session offset, solo error)."""
    extra = len(logs) - 1
    cross = float(logs.sum() ** 2 - (logs**2).sum())
    session, solo_error = atlas.session(run.victim)
    raw = np.array(
        [extra, cross, extra * float(logs.min()), _excess_watts(atlas, run), extra * session, extra * solo_error]
    )
    return np.asarray(raw / _SCALES)


def _excess_watts(atlas: Atlas, run: Colocation) -> float:
    """Power the residents would draw together, over the device's cap, as a fraction of the cap."""
    counters = [atlas.counters(r) for r in (run.victim, *run.neighbours)]
    watts = sum(c.watts - _IDLE_WATTS for c in counters if c is not None) + _IDLE_WATTS
    return max(watts / _CAP_WATTS - 1.0, 0.0)
