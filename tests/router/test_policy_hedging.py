"""Retries and hedges: what may be tried again, when, and never more than the budget allows."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from partywall.errors import DeadlineExceeded, Overloaded, Reason, Unavailable
from router.policy.hedging import Failure, HedgeLimits, Lateness, TokenBudget, may_retry, worth_hedging

LIMITS = HedgeLimits()


def failure(
    reason: Reason, *, tries: int = 1, deaths: int = 0, left_s: float = 1.0, repeatable: bool = True
) -> Failure:
    return Failure(Unavailable("gone", reason=reason), tries, deaths, left_s, repeatable)


@pytest.mark.parametrize("reason", [Reason.NO_REPLICA, Reason.DRAINING])
def test_what_was_not_executed_is_always_tried_again(reason: Reason) -> None:
    assert may_retry(failure(reason, repeatable=False), LIMITS)


@pytest.mark.parametrize("reason", [Reason.AGENT_LOST, Reason.WORKER_DIED])
def test_what_may_have_been_executed_only_where_that_does_no_harm(reason: Reason) -> None:
    assert may_retry(failure(reason), LIMITS)
    assert not may_retry(failure(reason, repeatable=False), LIMITS)


def test_a_request_that_kills_workers_is_not_passed_on_for_ever() -> None:
    assert may_retry(failure(Reason.WORKER_DIED, deaths=1), LIMITS)
    assert not may_retry(failure(Reason.WORKER_DIED, tries=2, deaths=2), LIMITS)


def test_no_retry_after_the_deadline_the_last_try_or_a_refusal() -> None:
    assert not may_retry(failure(Reason.DRAINING, left_s=0.0), LIMITS)
    assert not may_retry(failure(Reason.DRAINING, tries=LIMITS.tries), LIMITS)
    assert not may_retry(failure(Reason.STORE_UNAVAILABLE), LIMITS)
    for error in (Overloaded("full"), DeadlineExceeded("late")):
        assert not may_retry(Failure(error, 1, 0, 1.0, True), LIMITS)
    assert not may_retry(failure(Reason.DRAINING), HedgeLimits(retry=False))


@given(st.lists(st.booleans(), max_size=400), st.floats(0.0, 1.0), st.floats(1.0, 50.0))
def test_extra_tries_never_exceed_the_budget(steps: list[bool], ratio: float, burst: float) -> None:
    budget = TokenBudget(HedgeLimits(ratio=ratio, burst=burst))
    requests = granted = 0
    for is_request in steps:
        if is_request:
            budget.deposit()
            requests += 1
        else:
            granted += budget.withdraw()
        assert 0 <= budget.tokens <= burst
        assert granted <= burst / 2 + ratio * requests + 1e-6


def test_hedges_wait_for_the_quantile() -> None:
    rng = random.Random(7)
    lateness = Lateness(HedgeLimits(quantile=0.9, least_samples=100, window=1000))
    assert lateness.delay_s(0.1) is None
    for _ in range(1000):
        lateness.observe(0.1, 0.1 * rng.uniform(0.0, 1.0))
    assert lateness.delay_s(0.1) == pytest.approx(0.09, rel=0.05)
    assert lateness.delay_s(0.001) == HedgeLimits().least_delay_s
    assert lateness.delay_s(0.0) is None


def test_the_quantile_follows_what_changes() -> None:
    lateness = Lateness(HedgeLimits(least_samples=16, window=32))
    for actual_s in [0.1] * 32:
        lateness.observe(0.1, actual_s)
    assert lateness.delay_s(0.1) == pytest.approx(0.1)
    for actual_s in [0.3] * 32:
        lateness.observe(0.1, actual_s)
    assert lateness.delay_s(0.1) == pytest.approx(0.3)
    lateness.observe(0.0, 1.0)
    lateness.observe(0.1, -1.0)
    assert lateness.delay_s(0.1) == pytest.approx(0.3)


def test_a_hedge_must_be_in_time_and_sooner() -> None:
    assert worth_hedging(0.2, 0.1, 0.1, left_s=0.5)
    assert not worth_hedging(0.2, 0.1, 0.1, left_s=0.05)
    assert not worth_hedging(0.2, 0.1, 0.4, left_s=0.5)
    assert not worth_hedging(0.05, 0.1, 0.08, left_s=0.5)
