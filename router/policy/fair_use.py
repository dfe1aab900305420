"""Who was promised more than its part of a pool of late, and is less patient while others are refused. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

from router.policy.catalog import Traffic
from router.policy.pool_limits import PoolLimits


class FairUse:
    """Decaying means of the service seconds that each model was promised, by its index."""

    def __init__(
        self, traffic: Sequence[Traffic], service_s: Sequence[float], devices: int, limits: PoolLimits
    ) -> None:
        """`service_s`: of one request of each model. A part is an equal one, or the model's traffic if that is more."""
        equal = devices / max(1, len(service_s))
        self._service_s = service_s
        self._limits = limits
        self._share_s = [
            max(equal, t.rate_per_s * c) * limits.fairness_s for t, c in zip(traffic, service_s, strict=True)
        ]
        self._use = [(0.0, 0.0)] * len(service_s)
        self._contested_until_s = -1.0

    def deadline_s(self, now: float, model: int, deadline_s: float) -> float:
        """The deadline to plan with: an earlier one for a model over its share while somebody else is refused."""
        if now >= self._contested_until_s or not self._over(now, model):
            return deadline_s
        service = self._service_s[model]
        return now + service + self._limits.patience_over_share * (deadline_s - now - service)

    def refused(self, now: float, model: int) -> None:
        """A request was refused: while its model is within its share, the others make room for a while."""
        if not self._over(now, model):
            self._contested_until_s = now + self._limits.contested_s

    def promised(self, now: float, model: int) -> None:
        """A request was taken."""
        since_s, used = self._use[model]
        decayed = used * math.exp((since_s - now) / self._limits.fairness_s)
        self._use[model] = (now, decayed + self._service_s[model])

    def _over(self, now: float, model: int) -> bool:
        since_s, used = self._use[model]
        return used * math.exp((since_s - now) / self._limits.fairness_s) > self._share_s[model]
