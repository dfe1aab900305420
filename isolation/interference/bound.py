"""An upper bound that holds as often as it says: conformal prediction over models, not over rows.

Rows of one model are not exchangeable with rows of another, so the scores come from an inner leave-one-model-out:
how many predictive deviations above the mean did models lie that the rest had not seen? Each left-out model gives one
number, the score that covers its rows, and the bound covers a new model as it covers most (85 %) of those (conformal
prediction with a normalised score: Lei et al. 2018; with groups as the exchangeable unit: Dunn, Wasserman and Ramdas
2023).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from isolation.interference.pairs import Residuals

DEFAULT_COVERAGE = 0.95
_OF_MODELS = 0.85
_UNCALIBRATED = 3.0


@dataclass(frozen=True, slots=True)
class Bound:
    """Upper bound = mean + `deviations` x predictive deviation, in log slowdown."""

    deviations: float
    coverage: float

    @classmethod
    def calibrate(cls, residuals: Iterable[Residuals], coverage: float = DEFAULT_COVERAGE) -> Bound:
        """Without any residual three deviations; never a bound below the mean."""
        scores = [float(np.quantile((r.measured - r.belief.mean) / r.belief.deviation, coverage)) for r in residuals]
        if not scores:
            return cls(_UNCALIBRATED, coverage)
        return cls(max(float(np.quantile(scores, _OF_MODELS)), 0.0), coverage)
