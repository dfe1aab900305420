"""What runs in a worker and since when, as its router knows it."""

from __future__ import annotations

import pytest

from partywall.domain.fleet import Partition, PartitionKind
from partywall.domain.placements import Placement
from router.gateway.replicas import Replica
from router.policy.worker_load import Turn

CPU = Partition("part-1", PartitionKind.WHOLE, "cpu")
SHORT_S, LONG_S = 0.01, 0.05


def pair() -> tuple[Turn, Replica, Replica]:
    """Two tenants' replicas in one worker."""
    turn, made = Turn(), []
    for tenant, took_s in (("acme", SHORT_S), ("globex", LONG_S)):
        placed = Placement(tenant, tenant, "model", 1, "node", CPU, "worker-1", 0, 1)
        one = Replica(placed, 1, turn=turn, max_batch=4)
        one.service.observe(1, took_s, 0.0)
        made.append(one)
    short, long = made
    short.peers, long.peers = (long,), (short,)
    return turn, short, long


def begin(replica: Replica, now_s: float) -> int:
    """One row goes there; the call's name."""
    call = len(replica.due_s)
    replica.begin(call, 1, now_s, now_s + 1.0)
    return call


def end(replica: Replica) -> None:
    replica.end(next(iter(replica.due_s)), 1)


def test_an_idle_worker_runs_nothing() -> None:
    assert pair()[0].done_s(9.0) == 0.0


def test_a_batch_begins_where_an_idle_worker_is_sent_something() -> None:
    turn, short, long = pair()
    begin(long, 5.0)
    begin(short, 5.02)
    assert (turn.replica, turn.rows) == (long, 1)
    assert turn.done_s(5.03) == pytest.approx(0.03), "what comes meanwhile begins nothing"


def test_the_next_one_begins_where_replies_come() -> None:
    turn, short, long = pair()
    begin(long, 5.0)
    for _ in range(5):
        begin(short, 5.01)
    end(long)
    long.answered(5.05)
    assert (turn.replica, turn.rows) == (short, 4), "as many as a batch holds"
    assert turn.done_s(5.055) == pytest.approx(0.005)


def test_whose_it_is_stays_open_where_two_have_work() -> None:
    turn, short, long = pair()
    for one in (long, long, short):
        begin(one, 5.0)
    end(long)
    long.answered(5.05)
    assert turn.replica is None
    assert turn.done_s(5.06) == 0.0
    end(short)
    short.answered(5.07)
    assert turn.replica is long


def test_a_batch_that_overruns_counts_as_what_it_should_take() -> None:
    turn, short, _ = pair()
    begin(short, 5.0)
    assert turn.done_s(7.0) == pytest.approx(SHORT_S)
    assert turn.done_s(4.0) == 0.0, "a clock that disagrees makes nothing of it"


def test_what_was_given_up_runs_no_more() -> None:
    turn, short, long = pair()
    begin(short, 5.0)
    end(short)
    assert turn.done_s(5.005) == 0.0
    begin(long, 6.0)
    assert (turn.replica, turn.since_s) == (long, 6.0)


def test_where_other_routers_have_work_nothing_is_known_to_have_begun() -> None:
    turn, short, long = pair()
    long.foreign_rows = 1
    begin(short, 5.0)
    assert turn.done_s(5.005) == 0.0
    short.answered(5.01)
    assert turn.replica is None
