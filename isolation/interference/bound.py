"""An upper bound that holds as often as it says: conformal prediction over models, not over rows.

Rows of one model are not exchangeable with rows of another, so the scores come from an inner leave-one-model-out:
how many predictive deviations above the mean did models lie that the rest had not seen? (Split conformal with a
normalised score: Lei et al. 2018; groups as the exchangeable unit: Dunn, Wasserman and Ramdas 2023.)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from isolation.interference.pairs import Residuals

DEFAULT_COVERAGE = 0.95


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bound = mean + `deviations` x predictive deviation, in log slowdown."""

    deviations: float
    coverage: float

    @classmethod
    def calibrate(cls, residuals: Iterable[Residuals], coverage: float = DEFAULT_COVERAGE) -> Bound:
        """The score's quantile with the finite-sample correction; without any residual three deviations."""
        scores = [(r.measured - r.belief.mean) / r.belief.deviation for r in residuals]
        if not scores:
            return cls(3.0, coverage)
        pooled = np.concatenate(scores)
        level = min(coverage * (1 + 1 / len(pooled)), 1.0)
        return cls(max(float(np.quantile(pooled, level)), 0.0), coverage)
