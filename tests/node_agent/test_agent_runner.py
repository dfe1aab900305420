"""The agent's runner: what one frame brings is one batch, and nothing is answered twice."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from node_agent.queueing import BatchLimits, Queued
from node_agent.runner import MOST_QUIET_S, Outcome, Runner
from node_agent.settings import QueueDiscipline
from node_agent.work import Batch, BatchDone, WorkResult
from node_agent.workers import WorkerHandle
from partywall.clock import VirtualClock
from partywall.errors import Reason, Unavailable

HANDLE = 1


@dataclass
class Worker:
    """Keeps the batches until the test answers them."""

    batches: list[tuple[Batch, asyncio.Future[BatchDone]]] = field(default_factory=list)

    def submit(self, batch: Batch) -> asyncio.Future[BatchDone]:
        future: asyncio.Future[BatchDone] = asyncio.get_running_loop().create_future()
        self.batches.append((batch, future))
        return future

    def answer(self, index: int) -> None:
        batch, future = self.batches[index]
        future.set_result(BatchDone(batch.handle, [WorkResult(i.id, i.request) for i in batch.items], 1000))

    @property
    def ids(self) -> list[list[int]]:
        return [[item.id for item in batch.items] for batch, _ in self.batches]


@dataclass
class World:
    worker: Worker
    runner: Runner
    replies: list[tuple[int, Outcome]]
    clock: VirtualClock

    def submit(self, *ids: int) -> None:
        now_s = self.clock.monotonic()
        for number in ids:
            self.runner.submit(Queued(number, HANDLE, 1, b"x", now_s, now_s + 10, now_s + 10))


def world(max_rows: int = 8) -> World:
    worker, replies, clock = Worker(), [], VirtualClock()

    def reply(item: Queued, outcome: Outcome) -> None:
        replies.append((item.id, outcome))

    runner = Runner(cast(WorkerHandle, worker), QueueDiscipline.EDF, clock, reply)
    runner.open(HANDLE, BatchLimits(max_rows=max_rows))
    return World(worker, runner, replies, clock)


async def turn() -> None:
    """Two turns of the loop: the pump runs in the next, callbacks of futures in the one after."""
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_requests_of_one_turn_are_one_batch() -> None:
    here = world()
    here.submit(1, 2, 3)
    assert here.worker.ids == []
    await turn()
    assert here.worker.ids == [[1, 2, 3]]
    here.worker.answer(0)
    await turn()
    assert [(number, o.batch_requests, o.error) for number, o in here.replies] == [(n, 3, None) for n in (1, 2, 3)]
    assert here.runner.idle(HANDLE)


async def test_what_comes_while_a_batch_runs_waits_for_it() -> None:
    here = world(max_rows=2)
    here.submit(1, 2, 3)
    await turn()
    here.submit(4)
    await turn()
    # Nothing is known of the service time yet, so nothing is sent ahead.
    assert here.worker.ids == [[1, 2]]
    here.worker.answer(0)
    await turn()
    assert here.worker.ids[1] == [3, 4]


async def test_a_request_cancelled_before_the_pump_is_never_run() -> None:
    here = world()
    here.submit(1, 2)
    here.runner.cancel(1)
    await turn()
    assert here.worker.ids == [[2]]


async def test_a_worker_that_is_gone_fails_what_waits_and_takes_no_more() -> None:
    here = world()
    here.submit(1)
    here.runner.fail(Unavailable("gone", reason=Reason.WORKER_DIED))
    here.submit(2)
    await turn()
    assert here.worker.ids == []
    reasons: list[Any] = [o.error and o.error.reason for _, o in here.replies]
    assert reasons == [Reason.WORKER_DIED, Reason.DRAINING]


async def test_a_failed_batch_answers_each_of_its_requests_once() -> None:
    here = world()
    here.submit(1, 2)
    await turn()
    here.worker.batches[0][1].set_exception(Unavailable("gone", reason=Reason.WORKER_DIED))
    await turn()
    assert [number for number, _ in here.replies] == [1, 2]
    assert all(o.error is not None and o.error.reason is Reason.WORKER_DIED for _, o in here.replies)


async def test_a_replica_is_quiet_since_its_last_request_whatever_link_that_came_by() -> None:
    here = world()
    assert here.runner.quiet_s(HANDLE) == MOST_QUIET_S
    here.submit(1)
    assert here.runner.quiet_s(HANDLE) == 0.0
    await turn()
    assert here.runner.quiet_s(HANDLE) == 0.0
    here.clock.advance(5.0)
    here.worker.answer(0)
    await turn()
    here.clock.advance(2.0)
    assert here.runner.quiet_s(HANDLE) == pytest.approx(2.0)
    here.submit(2)
    here.clock.advance(60.0)
    await turn()
    assert [o.error is not None for _, o in here.replies] == [False, True]
    assert here.runner.quiet_s(HANDLE) == 0.0
