"""The retry policy and the retry budget on a virtual clock."""

from __future__ import annotations

import random

import pytest

from partywall import errors
from partywall.client.retry import EXECUTED_FIELD, RetryBudget, RetryPolicy, never_executed
from partywall.clock import VirtualClock
from partywall.errors import Reason

UNSENT = errors.Unavailable("x", reason=Reason.UNREACHABLE, fields={EXECUTED_FIELD: "no"})
BROKEN = errors.Unavailable("x", reason=Reason.UNREACHABLE, fields={EXECUTED_FIELD: "unknown"})


def delay(
    error: errors.PartywallError, *, tries: int = 1, left: float = 10.0, idempotent: bool = False
) -> float | None:
    rng = random.Random(7)
    return RetryPolicy().delay_s(error, tries=tries, time_left_s=left, idempotent=idempotent, rng=rng)


@pytest.mark.parametrize(
    ("error", "retried"),
    [
        (UNSENT, True),
        (BROKEN, False),
        (errors.Unavailable("x", reason=Reason.NO_REPLICA), True),
        (errors.Unavailable("x", reason=Reason.DRAINING), True),
        (errors.Unavailable("x", reason=Reason.WORKER_DIED), False),
        (errors.Unavailable("x", reason=Reason.STORAGE_FULL), False),
        (errors.Overloaded("x"), False),
        (errors.Overloaded("x", retry_after_s=0.1), True),
        (errors.QuotaExceeded("x"), False),
        (errors.QuotaExceeded("x", retry_after_s=0.1), True),
        (errors.DeadlineExceeded("x"), False),
        (errors.InvalidInput("x"), False),
        (errors.Conflict("x"), False),
    ],
)
def test_only_what_was_not_executed_is_retried(error: errors.PartywallError, retried: bool) -> None:
    assert (delay(error) is not None) is retried


def test_an_idempotent_call_is_repeated_after_a_broken_connection() -> None:
    assert delay(BROKEN, idempotent=True) is not None
    assert delay(errors.DeadlineExceeded("x"), idempotent=True) is None
    assert delay(errors.Unavailable("x", reason=Reason.STORAGE_FULL), idempotent=True) is None


def test_at_most_three_tries() -> None:
    assert delay(UNSENT, tries=2) is not None
    assert delay(UNSENT, tries=3) is None


def test_a_hint_is_kept_with_jitter_and_must_fit_the_deadline() -> None:
    hinted = errors.Overloaded("x", retry_after_s=2.0)
    found = delay(hinted)
    assert found is not None
    assert 2.0 <= found <= 2.5
    assert delay(hinted, left=1.9) is None


def test_backoff_grows_and_is_jittered() -> None:
    policy, rng = RetryPolicy(max_tries=10), random.Random(1)
    longest = []
    for tries in (1, 2, 3, 8):
        delays = [
            policy.delay_s(UNSENT, tries=tries, time_left_s=99, idempotent=False, rng=rng) or 0.0 for _ in range(200)
        ]
        assert len(set(delays)) > 100
        longest.append(max(delays))
    assert longest == sorted(longest)
    assert longest[-1] <= policy.max_backoff_s


def test_never_executed() -> None:
    assert never_executed(UNSENT)
    assert not never_executed(BROKEN)
    assert not never_executed(errors.InternalError("x"))


def test_the_budget_is_the_minimum_plus_a_share_of_the_requests() -> None:
    clock = VirtualClock()
    budget = RetryBudget(clock, ratio=0.2, min_per_s=1.0, window_s=10.0)
    for _ in range(50):
        budget.deposit()
    granted = sum(budget.try_withdraw() for _ in range(100))
    # 10 s x 1/s + 20 % of 50.
    assert granted == 20


def test_the_budget_comes_back_as_the_window_moves() -> None:
    clock = VirtualClock()
    budget = RetryBudget(clock, ratio=0.2, min_per_s=0.5, window_s=10.0)
    assert sum(budget.try_withdraw() for _ in range(100)) == 5
    clock.advance(9.0)
    assert not budget.try_withdraw()
    clock.advance(1.5)
    assert budget.try_withdraw()
