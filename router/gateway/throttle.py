"""Each tenant's request rate and requests in flight: tried, never waited for.

Rates are kept by asyncio-throttle with one `Throttler(rate_limit=burst, period=burst/rate)` per tenant. Its waiters
poll, so nobody waits: `acquire` is driven one step, which grants at once or would wait; then it is closed and the
request refused.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

from asyncio_throttle.throttler import Throttler

from partywall.clock import Clock
from partywall.domain.tenants import Quota
from partywall.errors import QuotaExceeded, Reason


class Limits(Protocol):
    """Keeps tenants within their quotas: `Throttle` in one process, `SharedThrottle` over several."""

    async def enter(self, tenant_id: str, quota: Quota) -> None:
        """Takes one request in; `leave` must follow.

        Raises:
            QuotaExceeded: RATE_LIMITED or TOO_MANY_IN_FLIGHT, with a retry hint.
        """
        ...

    def leave(self, tenant_id: str) -> None:
        """Gives the place of one request back."""
        ...

    def forget(self, tenant_id: str) -> None:
        """Drops the state of a deleted tenant."""
        ...


@dataclass(slots=True)
class _Gate:
    """One tenant's state. `grants` are the last `burst` grant times: they tell when the window frees up."""

    quota: Quota
    throttler: Throttler | None
    period_s: float
    grants: deque[float] = field(default_factory=deque)
    in_flight: int = 0


class Throttle:
    """Rate and concurrency limits by tenant id."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._gates: dict[str, _Gate] = {}

    async def enter(self, tenant_id: str, quota: Quota) -> None:
        """Takes one request in; `leave` must follow.

        Raises:
            QuotaExceeded: RATE_LIMITED or TOO_MANY_IN_FLIGHT, with a retry hint.
        """
        gate = self._gates.get(tenant_id)
        # The same object nearly always: comparing its fields would cost more than the token.
        if gate is None or (gate.quota is not quota and gate.quota != quota):
            gate = self._gates[tenant_id] = _fresh(quota, gate)
        if quota.max_in_flight is not None and gate.in_flight >= quota.max_in_flight:
            raise too_many_in_flight(gate.in_flight, quota.max_in_flight)
        if gate.throttler is not None:
            self._take_token(gate, gate.throttler)
        gate.in_flight += 1

    def leave(self, tenant_id: str) -> None:
        """Gives the place of one request back."""
        gate = self._gates.get(tenant_id)
        if gate is not None and gate.in_flight > 0:
            gate.in_flight -= 1

    def in_flight(self, tenant_id: str) -> int:
        gate = self._gates.get(tenant_id)
        return gate.in_flight if gate else 0

    def forget(self, tenant_id: str) -> None:
        """Drops the state of a deleted tenant."""
        self._gates.pop(tenant_id, None)

    def _take_token(self, gate: _Gate, throttler: Throttler) -> None:
        attempt = throttler.acquire()  # type: ignore[no-untyped-call]
        try:
            attempt.send(None)
        except StopIteration:
            gate.grants.append(self._clock.monotonic())
            if len(gate.grants) > gate.quota.effective_burst:
                gate.grants.popleft()
            return
        attempt.close()
        raise self._over_rate(gate)

    def _over_rate(self, gate: _Gate) -> QuotaExceeded:
        oldest_s = gate.grants[0] if gate.grants else self._clock.monotonic()
        return over_rate(gate.quota, oldest_s + gate.period_s - self._clock.monotonic())


def too_many_in_flight(in_flight: int, limit: int) -> QuotaExceeded:
    """The refusal of a tenant that has `limit` requests under way."""
    return QuotaExceeded(
        f"{in_flight} requests are in flight and the quota allows {limit}; "
        "wait for one to finish, or ask the operator for more (quota set --in-flight)",
        reason=Reason.TOO_MANY_IN_FLIGHT,
        fields={"limit": str(limit)},
        retry_after_s=0.05,
    )


def over_rate(quota: Quota, wait_s: float) -> QuotaExceeded:
    """The refusal of a tenant that sends faster than its rate; `wait_s` is when the next request would pass."""
    return QuotaExceeded(
        f"over the rate of {quota.requests_per_s:g} requests/s (burst {quota.effective_burst}); "
        "send again after the hint, or ask the operator for more (quota set --requests-per-s)",
        reason=Reason.RATE_LIMITED,
        fields={"requests_per_s": f"{quota.requests_per_s:g}", "burst": str(quota.effective_burst)},
        retry_after_s=max(0.001, wait_s),
    )


def _fresh(quota: Quota, old: _Gate | None) -> _Gate:
    in_flight = old.in_flight if old else 0
    if quota.requests_per_s is None:
        return _Gate(quota, None, 0.0, in_flight=in_flight)
    burst = quota.effective_burst
    period_s = burst / quota.requests_per_s
    return _Gate(quota, Throttler(rate_limit=burst, period=period_s), period_s, in_flight=in_flight)
