"""A request that would be refused behind its tenant's later ones passes them, as the agent's queue lets it."""

from __future__ import annotations

import math

import pytest

from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.errors import Overloaded, Reason
from router.gateway.replicas import Replica
from router.policy.routing import RoutingLimits, decide, passing_finish_s
from router.policy.worker_load import Turn

CPU = Partition("part-1", PartitionKind.WHOLE, "cpu")
SMALL_S, LARGE_S = 0.004, 0.1
LIMITS = RoutingLimits()


def worker(*kinds: tuple[str, float]) -> list[Replica]:
    """Replicas of one worker, of these tenants and seconds a request."""
    turn, made = Turn(), []
    for at, (tenant, took_s) in enumerate(kinds):
        one = Replica(Placement(f"p{at}", tenant, "m", 1, "node", CPU, "worker-1", 0, 1), at, turn=turn)
        one.service.observe(1, took_s, 0.0)
        made.append(one)
    for one in made:
        one.peers = tuple(other for other in made if other is not one)
    return made


def send(replica: Replica, count: int, due_s: float, now_s: float = 0.0) -> None:
    for _ in range(count):
        replica.begin(object(), 1, now_s, due_s)


def test_what_is_due_later_is_passed_but_for_what_runs() -> None:
    small, large = worker(("acme", SMALL_S), ("acme", LARGE_S))
    send(large, 5, due_s=1.5)
    assert passing_finish_s(small, 1, 0.17, 0.05) == pytest.approx(LARGE_S - 0.05 + SMALL_S)
    chosen, finish_s = decide([small], 1, 0.12, 0.05, LIMITS)
    assert chosen is small
    assert finish_s == pytest.approx(LARGE_S - 0.05 + SMALL_S)
    with pytest.raises(Overloaded) as refused:
        decide([small], 1, 0.05, 0.05, LIMITS)
    assert refused.value.reason is Reason.DEADLINE_UNREACHABLE


def test_nobody_passes_a_promise_that_would_then_be_late() -> None:
    small, large = worker(("acme", SMALL_S), ("acme", LARGE_S))
    send(large, 5, due_s=5 * LARGE_S + 0.5 * SMALL_S)
    assert passing_finish_s(small, 1, 0.2, 0.0) == math.inf
    with pytest.raises(Overloaded):
        decide([small], 1, 0.2, 0.0, LIMITS)


def test_what_is_due_earlier_is_not_passed() -> None:
    small, middle, large = worker(("acme", SMALL_S), ("acme", 0.05), ("acme", LARGE_S))
    send(large, 3, due_s=1.5)
    send(middle, 1, due_s=0.18)
    assert passing_finish_s(small, 1, 0.19, 0.09) == pytest.approx(0.01 + 0.05 + SMALL_S)


def test_another_tenants_work_is_not_passed() -> None:
    small, _, large = worker(("acme", SMALL_S), ("acme", LARGE_S), ("globex", LARGE_S))
    send(large, 5, due_s=1.5)
    assert passing_finish_s(small, 1, 0.3, 0.0) == math.inf


def test_where_nobody_knows_what_runs_the_longest_is_taken() -> None:
    small, other, large = worker(("acme", SMALL_S), ("acme", 0.02), ("acme", LARGE_S))
    send(large, 2, due_s=1.5)
    send(other, 2, due_s=1.5)
    small.turn.replica = None
    assert passing_finish_s(small, 1, 0.3, 0.05) == pytest.approx(LARGE_S + SMALL_S)


def test_work_that_other_routers_sent_there_has_no_known_deadlines() -> None:
    small, large = worker(("acme", SMALL_S), ("acme", LARGE_S))
    send(large, 5, due_s=1.5)
    large.foreign_rows = 1
    assert passing_finish_s(small, 1, 0.3, 0.0) == math.inf


def test_the_first_of_what_is_outstanding_counts() -> None:
    small, large = worker(("acme", SMALL_S), ("acme", LARGE_S))
    assert large.earliest_due_s == math.inf
    send(large, 1, due_s=0.15)
    send(large, 3, due_s=9.0)
    assert large.earliest_due_s == 0.15
    assert passing_finish_s(small, 1, 0.3, 0.0) == math.inf, "one of them is due before us"
