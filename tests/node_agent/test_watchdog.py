"""A stuck batch: when it counts as one, and what becomes of its worker."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from worker_support import infer_request, is_gone, seal, spawn, until, zygote

from isolation.devices.faults import watchdog_s
from node_agent.queueing import BatchLimits, Queued
from node_agent.runner import Outcome, Runner
from node_agent.settings import QueueDiscipline
from node_agent.watchdog import UNMEASURED_FACTOR, Stuck, overdue, watch
from partywall.clock import SystemClock
from partywall.errors import Reason, Unavailable


class Running:
    """A runner that has one batch."""

    def __init__(self, batch: tuple[int, float, float] | None) -> None:
        self.batch = batch

    def oldest_running(self) -> tuple[int, float, float] | None:
        return self.batch


@pytest.mark.parametrize(
    ("predicted_s", "elapsed_s", "stuck"),
    [(0.1, 0.9, False), (0.1, 1.1, True), (1.0, 2.9, False), (1.0, 3.1, True), (0.0, 9.9, False), (0.0, 10.1, True)],
)
def test_three_times_the_prediction_and_never_below_the_floor(
    predicted_s: float, elapsed_s: float, stuck: bool
) -> None:
    found = overdue(cast(Runner, Running((7, 100.0, predicted_s))), 100.0 + elapsed_s, floor_s=1.0)
    assert (found is not None) == stuck
    if found is not None:
        assert found.handle == 7
        assert found.limit_s == (watchdog_s(predicted_s, 1.0) if predicted_s else UNMEASURED_FACTOR)
        assert "counts as stuck" in found.reason


def test_time_spent_loading_does_not_count() -> None:
    runner = cast(Runner, Running((7, 100.0, 0.1)))
    assert overdue(runner, 150.0, 1.0) is not None
    assert overdue(runner, 150.0, 1.0, since_s=149.5) is None
    assert overdue(cast(Runner, Running(None)), 150.0, 1.0) is None


async def test_a_worker_that_hangs_is_ended_and_its_callers_hear_why(tmp_path: Path) -> None:
    async with zygote() as client:
        worker = await spawn(client, tmp_path)
        await worker.load(seal(tmp_path, {}))
        clock, replies = SystemClock(), list[Outcome]()
        runner = Runner(worker, QueueDiscipline.EDF, clock, lambda item, outcome: replies.append(outcome))
        runner.open(1, BatchLimits(max_rows=4))
        stuck: list[Stuck] = []
        watching = asyncio.create_task(watch(worker, runner, clock, 0.05, stuck.append))
        now_s = clock.monotonic()
        request = infer_request({"x": np.zeros((1, 4), np.float32)}, "r")
        runner.submit(Queued(1, 1, 1, request, now_s, now_s + 60, now_s + 60))
        await until(lambda: len(replies) == 1, "the first answer")
        assert replies[0].error is None
        os.kill(worker.pid, signal.SIGSTOP)
        runner.submit(Queued(2, 1, 1, request, now_s, now_s + 60, now_s + 60))
        await until(lambda: len(replies) == 2, "the refusal")
        error = replies[1].error
        assert isinstance(error, Unavailable)
        assert error.reason is Reason.WORKER_DIED
        assert "counts as stuck" in error.message
        assert [one.handle for one in stuck] == [1]
        await until(lambda: is_gone(worker.pid), "the process is gone")
        await watching
