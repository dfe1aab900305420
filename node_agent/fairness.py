"""Start-time fair queueing between tenants on device seconds (Goyal, Vin and Cheng, SIGCOMM'96). Pure.

Each tenant has a finish tag in virtual time. Work starts at max(virtual time, the tenant's last finish) and moves the
finish by cost / weight; the backlogged tenant with the least start is served next; virtual time is the start of
what was served last. A tenant that was away starts at the virtual time of its return: absence earns no credit. The
cost is predicted when work is taken and corrected when it was measured.
"""

from __future__ import annotations

from collections.abc import Iterable


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
