"""Which replica takes a request."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest

from partywall.domain.service_time import ServiceTime
from partywall.errors import Overloaded, Reason
from router.policy.routing import RoutingLimits, choose, predicted_finish_s
from router.policy.worker_load import Turn

LIMITS = RoutingLimits(max_outstanding=10)


@dataclass(slots=True)
class Load:
    outstanding_rows: int = 0
    outstanding_requests: int = 0
    max_batch: int = 1
    service: ServiceTime = field(default_factory=ServiceTime)
    slowdown_factor: float = 1.0
    turn: Turn = field(default_factory=Turn)
    owner: str = "acme"
    earliest_due_s: float = math.inf
    peers: tuple[Load, ...] = ()
    weight: float = 1.0
    foreign_rows: int = 0


def load(service_s: float, waiting: int = 0, max_batch: int = 1, at_s: float = 0.0) -> Load:
    out = Load(waiting, waiting, max_batch)
    out.service.observe(max_batch, service_s, at_s)
    return out


def test_the_least_predicted_finish_wins() -> None:
    near, far = load(0.1, waiting=1), load(0.01, waiting=3)
    assert choose([near, far], 1, 1.0, 0.0, LIMITS) is far


def test_unknown_service_time_admits() -> None:
    fresh = Load()
    assert choose([fresh], 1, 0.001, 0.0, LIMITS) is fresh


def test_a_deadline_out_of_reach_is_refused_with_a_hint() -> None:
    with pytest.raises(Overloaded) as refused:
        choose([load(0.1, waiting=5)], 1, 0.2, 0.0, LIMITS)
    assert refused.value.reason is Reason.DEADLINE_UNREACHABLE
    assert refused.value.retry_after_s == pytest.approx(0.4, abs=0.02)
    assert refused.value.fields == {"budget_ms": "200", "predicted_ms": "600"}


def test_admission_can_be_switched_off() -> None:
    slow = load(0.1, waiting=5)
    assert choose([slow], 1, 0.2, 0.0, RoutingLimits(max_outstanding=10, admission=False)) is slow


def test_a_full_queue_refuses_even_so() -> None:
    limits = RoutingLimits(max_outstanding=2, admission=False)
    with pytest.raises(Overloaded) as refused:
        choose([load(0.1, waiting=2)], 1, 9.0, 0.0, limits)
    assert refused.value.reason is Reason.QUEUE_FULL


def test_refusals_do_not_feed_on_themselves() -> None:
    """An idle replica with an old, bad estimate is tried again; with a fresh one it is not."""
    idle = load(5.0, at_s=0.0)
    assert choose([idle], 1, 0.2, 10.0, LIMITS) is idle
    with pytest.raises(Overloaded):
        choose([idle], 1, 0.2, 0.5, LIMITS)


def test_batches_and_neighbours_of_the_worker_count() -> None:
    batched = load(0.4, waiting=8, max_batch=4)
    assert predicted_finish_s(batched, 1, 0.0) == pytest.approx(2 * 0.4 + 0.4)
    batched.peers = (load(0.5, waiting=2),)
    assert predicted_finish_s(batched, 1, 0.0) == pytest.approx(2.2)


def test_what_the_running_batch_has_behind_it_counts_no_more() -> None:
    busy = load(0.4, waiting=2)
    busy.turn = Turn(0.0, busy, 1, 0.4)
    assert predicted_finish_s(busy, 1, 0.1) == pytest.approx(3 * 0.4 - 0.1)
    assert choose([busy], 1, 1.15, 0.1, LIMITS) is busy
    with pytest.raises(Overloaded):
        choose([busy], 1, 1.15, 0.0, LIMITS)


def test_a_neighbours_running_batch_counts_as_what_is_left_of_it() -> None:
    mine, other = load(0.1), load(0.4, waiting=1)
    mine.peers, mine.turn = (other,), Turn(0.0, other, 1, 0.4)
    assert predicted_finish_s(mine, 1, 0.3) == pytest.approx(0.4 - 0.3 + 0.1)


def test_nobody_joins_the_batch_that_runs() -> None:
    """One row runs and one more comes: not one batch of two, but what is left of one and another."""
    busy = load(0.4, waiting=1, max_batch=4)
    busy.turn = Turn(0.0, busy, 1, 0.4)
    assert predicted_finish_s(busy, 1, 0.35) == pytest.approx(0.05 + 0.4)


def test_a_running_batch_counts_in_full_where_more_than_the_next_one_waits() -> None:
    """Else requests are admitted until the last moment, and no batch can grow."""
    busy = load(0.4, waiting=8, max_batch=4)
    busy.turn = Turn(0.0, busy, 4, 0.4)
    assert predicted_finish_s(busy, 1, 0.1) == pytest.approx(3 * 0.4)
    busy.outstanding_rows = 7
    assert predicted_finish_s(busy, 1, 0.1) == pytest.approx(2 * 0.4 - 0.1)
