"""Rates and concurrency, tried and never waited for."""

from __future__ import annotations

import pytest

from partywall.clock import SystemClock
from partywall.domain.tenants import Quota
from partywall.errors import QuotaExceeded, Reason
from router.gateway.throttle import Throttle


async def test_a_burst_passes_and_the_next_is_refused_with_a_hint() -> None:
    throttle = Throttle(SystemClock())
    quota = Quota(requests_per_s=10.0, burst=3)
    for _ in range(3):
        await throttle.enter("t", quota)
    with pytest.raises(QuotaExceeded) as refused:
        await throttle.enter("t", quota)
    assert refused.value.reason is Reason.RATE_LIMITED
    assert refused.value.retry_after_s is not None
    assert 0.0 < refused.value.retry_after_s <= 0.3
    await throttle.enter("other", quota)


async def test_without_limits_everything_passes() -> None:
    throttle = Throttle(SystemClock())
    for _ in range(500):
        await throttle.enter("t", Quota())
    assert throttle.in_flight("t") == 500


async def test_places_in_flight_are_given_back() -> None:
    throttle = Throttle(SystemClock())
    quota = Quota(max_in_flight=2)
    await throttle.enter("t", quota)
    await throttle.enter("t", quota)
    with pytest.raises(QuotaExceeded) as refused:
        await throttle.enter("t", quota)
    assert refused.value.reason is Reason.TOO_MANY_IN_FLIGHT
    throttle.leave("t")
    await throttle.enter("t", quota)


async def test_a_refusal_takes_no_place() -> None:
    throttle = Throttle(SystemClock())
    quota = Quota(requests_per_s=1.0, burst=1, max_in_flight=5)
    await throttle.enter("t", quota)
    with pytest.raises(QuotaExceeded):
        await throttle.enter("t", quota)
    assert throttle.in_flight("t") == 1


async def test_a_new_quota_counts_at_once_and_keeps_what_is_in_flight() -> None:
    throttle = Throttle(SystemClock())
    await throttle.enter("t", Quota(requests_per_s=1.0, burst=1))
    await throttle.enter("t", Quota(requests_per_s=100.0))
    assert throttle.in_flight("t") == 2
    throttle.forget("t")
    throttle.leave("t")
    assert throttle.in_flight("t") == 0
