"""The agent's queue on a virtual time line."""

from __future__ import annotations

import random

import pytest
from fuzzing import examples
from hypothesis import given
from hypothesis import strategies as st

from node_agent.queueing import MOST_CANCELLED, BatchLimits, Queued, WorkQueue
from node_agent.settings import QueueDiscipline


def item(number: int, *, handle: int = 1, rows: int = 1, arrived: float = 0.0, deadline: float = 100.0) -> Queued:
    return Queued(number, handle, rows, b"x" * 10, arrived, deadline, deadline)


def queue(discipline: QueueDiscipline = QueueDiscipline.EDF, **limits: int) -> WorkQueue:
    q = WorkQueue(discipline)
    q.add_replica(1, BatchLimits(**limits) if limits else BatchLimits(max_rows=4))
    return q


def ids(q: WorkQueue, now: float = 0.0) -> list[int]:
    batch, _ = q.take(now)
    return [i.id for i in batch.items] if batch else []


def test_earliest_deadline_goes_first() -> None:
    q = queue(max_rows=1)
    for number, deadline in ((1, 9.0), (2, 5.0), (3, 7.0)):
        q.put(item(number, deadline=deadline))
    assert [ids(q), ids(q), ids(q)] == [[2], [3], [1]]


def test_fifo_keeps_the_order_of_arrival() -> None:
    q = queue(QueueDiscipline.FIFO, max_rows=1)
    for number, deadline in ((1, 9.0), (2, 5.0), (3, 7.0)):
        q.put(item(number, arrived=number, deadline=deadline))
    assert [ids(q), ids(q), ids(q)] == [[1], [2], [3]]


def test_a_batch_holds_one_replica_and_at_most_its_rows() -> None:
    q = queue(max_rows=4)
    q.add_replica(2, BatchLimits(max_rows=4))
    for number, rows, handle in ((1, 2, 1), (2, 2, 1), (3, 1, 1), (4, 1, 2)):
        q.put(item(number, rows=rows, handle=handle))
    assert ids(q) == [1, 2]
    assert q.queued(1) == 1


def test_a_request_larger_than_the_limit_runs_alone() -> None:
    q = queue(max_rows=4)
    q.put(item(1, rows=9))
    q.put(item(2, rows=1))
    assert ids(q) == [1]
    assert ids(q) == [2]


def test_bytes_bound_a_batch() -> None:
    q = queue(max_rows=8, max_bytes=25)
    for number in range(3):
        q.put(item(number))
    assert ids(q) == [0, 1]


def test_expired_requests_are_given_up_unexecuted() -> None:
    q = queue()
    q.put(item(1, deadline=1.0))
    q.put(item(2, deadline=9.0))
    batch, doomed = q.take(2.0)
    assert [i.id for i in doomed] == [1]
    assert batch is not None
    assert [i.id for i in batch.items] == [2]


def test_a_request_that_cannot_finish_in_time_is_given_up() -> None:
    q = queue()
    q.observe(1, rows=1, service_s=2.0, now_s=0.0)
    q.put(item(1, deadline=1.5))
    batch, doomed = q.take(0.0)
    assert batch is None
    assert [i.id for i in doomed] == [1]


def test_a_request_that_would_as_likely_be_late_is_given_up() -> None:
    """Batches of 8 and 12 ms by turns: 10 ms is their mean, and not enough."""
    q = queue(max_rows=1)
    for number in range(40):
        q.observe(1, 1, 0.008 if number % 2 else 0.012, 0.0)
    for number, budget in ((1, 0.0105), (2, 0.02)):
        q.put(item(number, deadline=0.5 + budget))
    batch, doomed = q.take(0.5)
    assert batch is not None
    assert ([i.id for i in batch.items], [i.id for i in doomed]) == ([2], [1])


def test_an_estimate_that_dooms_everything_is_tried_again() -> None:
    """Else a replica that was slow once would answer no short deadline ever after, as nothing would run to tell."""
    q, now, served = queue(max_rows=1), 0.0, 0
    q.observe(1, 1, 5.0, now)
    q.put(item(0, deadline=0.1))
    assert ids(q, 0.05) == []
    for number in range(1, 61):
        now += 1.5
        q.put(item(number, arrived=now, deadline=now + 0.1))
        if ids(q, now):
            q.observe(1, 1, 0.005, now + 0.005)
        q.put(item(100 + number, arrived=now + 0.01, deadline=now + 0.11))
        served += bool(ids(q, now + 0.01))
    assert served > 10, "once it is believed, what follows at once is served too"


def test_a_batch_grows_only_while_every_deadline_in_it_holds() -> None:
    q = queue(max_rows=8)
    q.observe(1, rows=1, service_s=1.0, now_s=0.0)
    q.put(item(1, deadline=1.5))
    q.put(item(2, deadline=9.0))
    assert ids(q) == [1]
    assert ids(q) == [2]


def test_cancelled_requests_never_run() -> None:
    q = queue(max_rows=1)
    q.put(item(1))
    q.put(item(2))
    assert q.cancel(1)
    assert not q.cancel(1)
    assert len(q) == 1
    assert ids(q) == [2]
    assert q.queued(1) == 0


def test_removing_a_replica_answers_what_waited() -> None:
    q = queue()
    q.put(item(1))
    q.put(item(2))
    q.cancel(2)
    assert [i.id for i in q.remove_replica(1)] == [1]
    assert len(q) == 0
    assert q.take(0.0) == (None, [])


def test_backlog_counts_full_batches() -> None:
    q = queue(max_rows=4)
    q.observe(1, rows=4, service_s=0.4, now_s=0.0)
    q.observe(1, rows=1, service_s=0.1, now_s=0.0)
    for number in range(9):
        q.put(item(number))
    assert q.backlog_s(1) == pytest.approx(0.9)


@examples(60)
@given(st.integers(0, 2**32 - 1))
def test_every_request_leaves_exactly_once(seed: int) -> None:
    """Whatever is put, cancelled and taken: each request is run, given up or cancelled, once."""
    rng = random.Random(seed)
    q = WorkQueue(rng.choice(list(QueueDiscipline)))
    for handle in (1, 2, 3):
        q.add_replica(handle, BatchLimits(max_rows=rng.randint(1, 5)))
    gone: list[int] = []
    now = 0.0
    for number in range(80):
        now += rng.random()
        q.put(
            item(number, handle=rng.randint(1, 3), rows=rng.randint(1, 3), arrived=now, deadline=now + rng.random() * 9)
        )
        if rng.random() < 0.2:
            victim = rng.randrange(number + 1)
            if q.cancel(victim):
                gone.append(victim)
        if rng.random() < 0.5:
            batch, doomed = q.take(now)
            gone += [i.id for i in doomed]
            if batch:
                assert len({i.handle for i in batch.items}) == 1
                gone += [i.id for i in batch.items]
                q.observe(batch.handle, batch.rows, rng.random(), now)
    while len(q):
        batch, doomed = q.take(now)
        gone += [i.id for i in doomed] + ([i.id for i in batch.items] if batch else [])
    assert sorted(gone) == list(range(80))
    assert all(q.queued(h) == 0 for h in (1, 2, 3))


def test_fifo_knows_no_tenants() -> None:
    """The arm for comparison: a flood of one tenant is served before a later request of another."""
    q = WorkQueue(QueueDiscipline.FIFO)
    q.add_replica(1, BatchLimits(max_rows=1), "flood")
    q.add_replica(2, BatchLimits(max_rows=1), "quiet")
    for number in range(3):
        q.put(item(number, handle=1, arrived=number))
    q.put(item(9, handle=2, arrived=9.0))
    assert [ids(q)[0] for _ in range(4)] == [0, 1, 2, 9]


def test_cancelled_requests_that_are_due_late_hold_neither_bytes_nor_places() -> None:
    q = queue(max_rows=1)
    late = [item(number, deadline=1e6) for number in range(500)]
    for one in late:
        q.put(one)
    q.put(item(1000, deadline=1.0))
    for one in late:
        assert q.cancel(one.id)
    assert all(len(one.request) == 0 for one in late)
    # What was in the heap is gone from it too, but for a few.
    (lane,) = q._lanes.values()
    assert len(lane.heap) <= 2 * MOST_CANCELLED
    assert q.queued(1) == 1
    assert ids(q) == [1000]
    assert ids(q) == []
    assert not lane.heap
    assert lane.cancelled == 0
