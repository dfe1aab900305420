"""Start-time fair queueing between tenants on device seconds (Goyal, Vin and Cheng, SIGCOMM'96). Pure.

Each tenant has a finish tag in virtual time. Work starts at max(virtual time, the tenant's last finish) and moves the
finish by cost / weight; the backlogged tenant with the least start is served next; virtual time is the start of
what was served last. A tenant that was away starts at the virtual time of its return: absence earns no credit. The
cost is predicted when work is taken and corrected when it was measured.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

_PRESENT = 0.01
"""A tenant that used less of the device than this of late is away."""


class FairClock:
    """The tenants' tags."""

    __slots__ = ("_finish", "_now", "_weight")

    def __init__(self) -> None:
        self._now = 0.0
        self._finish: dict[str, float] = {}
        self._weight: dict[str, float] = {}

    def set_weight(self, tenant: str, weight: float) -> None:
        """A tenant's part of the device is its weight over the weights of all that wait; above zero."""
        if not weight > 0:
            raise ValueError(f"weight must be above zero, got {weight}")
        self._weight[tenant] = weight

    def start_tag(self, tenant: str) -> float:
        """Where the tenant's next work would begin in virtual time."""
        return max(self._now, self._finish.get(tenant, 0.0))

    def first(self, tenants: Iterable[str]) -> str | None:
        """Whose turn it is among those that have work; None: nobody has."""
        return min(tenants, key=lambda tenant: (self.start_tag(tenant), tenant), default=None)

    def charge(self, tenant: str, cost_s: float) -> None:
        """The tenant's work begins now and is expected to take this long."""
        self._now = self.start_tag(tenant)
        self._finish[tenant] = self._now + cost_s / self._weight.get(tenant, 1.0)

    def correct(self, tenant: str, difference_s: float) -> None:
        """It took this much longer (or, negative, shorter) than charged."""
        held = self._finish.get(tenant, 0.0) + difference_s / self._weight.get(tenant, 1.0)
        self._finish[tenant] = max(0.0, held)

    def forget(self, tenant: str) -> None:
        """The tenant has no replica here any more."""
        self._finish.pop(tenant, None)
        self._weight.pop(tenant, None)


@dataclass(frozen=True, slots=True)
class ShareLimits:
    """When a tenant's share stands before another's excess.

    A tenant is *over* when its use of the device, a mean decaying with `window_s`, is more than `margin` above its
    share. Beside such a tenant, one that is not over goes first as long as it has credit: credit grows with its share
    of time up to `burst_s` of device time and is spent by what it uses. So absence earns `burst_s` at the most.
    While others are present, a batch of a tenant that is over takes at most `residency` times the longest of anybody's
    single requests: a full batch may be cheap, but whoever comes during it waits for all of it.
    """

    window_s: float = 5.0
    margin: float = 0.1
    burst_s: float = 0.2
    residency: float = 1.0


class ShareAccount:
    """Who used how much of the device of late, against the shares of those present."""

    __slots__ = ("_at_s", "_credit_s", "_limits", "_used", "_weight")

    def __init__(self, limits: ShareLimits | None = None) -> None:
        self._limits = limits or ShareLimits()
        self._at_s = float("-inf")
        self._used: dict[str, float] = {}
        self._credit_s: dict[str, float] = {}
        self._weight: dict[str, float] = {}

    def set_weight(self, tenant: str, weight: float) -> None:
        """As of `FairClock`."""
        self._weight[tenant] = weight
        self._used.setdefault(tenant, 0.0)
        self._credit_s.setdefault(tenant, 0.0)

    def forget(self, tenant: str) -> None:
        """The tenant has no replica here any more."""
        for held in (self._weight, self._used, self._credit_s):
            held.pop(tenant, None)

    def advance(self, now_s: float, waiting: Iterable[str]) -> None:
        """Time passes: use decays, credit grows with the share of those that wait or used the device of late."""
        passed_s = now_s - self._at_s
        if not passed_s > 0:
            return
        self._at_s = now_s
        if math.isinf(passed_s):
            return
        share = self._shares(waiting)
        keep = math.exp(-passed_s / self._limits.window_s)
        for tenant in self._weight:
            self._used[tenant] *= keep
            grown = self._credit_s[tenant] + passed_s * share.get(tenant, 1.0)
            self._credit_s[tenant] = min(self._limits.burst_s, grown)

    def spend(self, tenant: str, seconds: float) -> None:
        """The tenant takes the device for this long (negative: less than was said)."""
        if tenant in self._weight:
            self._used[tenant] += seconds / self._limits.window_s
            self._credit_s[tenant] = max(-self._limits.burst_s, self._credit_s[tenant] - seconds)

    def first_in_line(self, waiting: Collection[str]) -> Collection[str]:
        """Those among whom the fair clock chooses: all, or those with credit where somebody takes more than a share."""
        if len(waiting) < 2:
            return waiting
        share = self._shares(waiting)
        over = {t for t in waiting if self._over(t, share)}
        if not over:
            return waiting
        kept = [t for t in waiting if t not in over and self._credit_s[t] > 0]
        return kept or waiting

    def longest_batch_s(self, tenant: str, single_s: Mapping[str, float]) -> float:
        """Most seconds that the tenant's next batch may take; `single_s` is each tenant's longest single request."""
        share = self._shares((tenant,))
        if len(share) < 2 or not self._over(tenant, share):
            return math.inf
        return self._limits.residency * max(single_s[t] for t in share)

    def _over(self, tenant: str, share: Mapping[str, float]) -> bool:
        return self._used[tenant] > share[tenant] * (1 + self._limits.margin)

    def _shares(self, waiting: Iterable[str]) -> dict[str, float]:
        """Part of the device of each tenant that waits or used it within the window."""
        present = {t for t, used in self._used.items() if used > _PRESENT} | set(waiting)
        total = sum(self._weight[t] for t in present)
        return {t: self._weight[t] / total for t in present}
