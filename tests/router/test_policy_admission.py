"""Who is taken, who waits, who is refused; and how often one may ask twice."""

from __future__ import annotations

import pytest

from router.policy.admission import ReplicaView, RetryBudget, Verdict, admit


@pytest.mark.parametrize(
    ("replicas", "budget_s", "verdict", "replica"),
    [
        ([], 1.0, Verdict.REFUSE, None),
        ([ReplicaView(0.0, 0.1)], 0.1, Verdict.RUN, 0),
        ([ReplicaView(0.0, 0.1)], 0.09, Verdict.REFUSE, None),
        ([ReplicaView(0.3, 0.1), ReplicaView(0.2, 0.1)], 0.5, Verdict.QUEUE, 1),
        ([ReplicaView(0.0, 0.1, slowdown_upper=3.0), ReplicaView(0.1, 0.1)], 0.5, Verdict.QUEUE, 1),
        ([ReplicaView(0.0, 0.1, ready_in_s=0.2)], 0.31, Verdict.QUEUE, 0),
        ([ReplicaView(0.0, 0.1, ready_in_s=0.2)], 0.29, Verdict.REFUSE, None),
    ],
)
def test_verdicts(replicas: list[ReplicaView], budget_s: float, verdict: Verdict, replica: int | None) -> None:
    got = admit(replicas, budget_s)
    assert (got.verdict, got.replica) == (verdict, replica)


def test_a_refusal_says_how_much_later() -> None:
    assert admit([ReplicaView(0.2, 0.1)], 0.1).retry_after_s == pytest.approx(0.2)


def test_second_tries_stay_within_their_part() -> None:
    budget = RetryBudget(ratio=0.1, floor_per_s=0.0)
    allowed = 0
    for at in range(1000):
        budget.first_try(at / 100)
        allowed += budget.may_try_again(at / 100)
    assert 95 <= allowed <= 101


def test_quiet_times_do_not_save_up_a_storm() -> None:
    budget = RetryBudget(ratio=0.0, floor_per_s=1.0)
    budget.first_try(0.0)
    assert sum(budget.may_try_again(10_000.0) for _ in range(100)) == 10
