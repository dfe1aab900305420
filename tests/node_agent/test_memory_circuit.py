"""Batches that run out of memory: after three in a minute they are made smaller, and it is said."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from safetensors.torch import save
from worker_support import infer_request, response_arrays, seal, spawn, zygote

from isolation.engine import MemoryArtifact
from isolation.engine_simulated import LatencyLaw, SimulatedEngine
from node_agent.memory_circuit import FAILURES, OPEN_S, WINDOW_S, MemoryCircuit
from node_agent.queueing import BatchLimits, Queued
from node_agent.runner import Outcome, Runner
from node_agent.settings import QueueDiscipline
from node_agent.work import Batch, BatchDone, WorkItem, WorkResult
from node_agent.worker.batch import Item, Replica
from node_agent.workers import WorkerHandle
from partywall.clock import VirtualClock
from partywall.errors import Reason

HANDLE = 1


def test_it_opens_below_the_least_size_that_failed_three_times_in_a_minute() -> None:
    circuit = MemoryCircuit()
    assert not circuit.failed(16, 0.0)
    assert not circuit.failed(8, 1.0)
    assert circuit.refusal(100) is None
    assert circuit.failed(12, 2.0)
    assert circuit.limit_rows == 7
    refusal = circuit.refusal(8)
    assert refusal is not None
    assert refusal.reason is Reason.OUT_OF_MEMORY
    assert refusal.fields == {"most_rows": "7", "executed": "false"}
    assert circuit.refusal(7) is None


def test_failures_far_apart_are_bad_luck() -> None:
    circuit = MemoryCircuit()
    assert not any(circuit.failed(8, n * WINDOW_S / 2) for n in range(10))


def test_after_a_while_the_full_size_is_tried_and_one_failure_is_enough() -> None:
    circuit = MemoryCircuit()
    assert [circuit.failed(8, 0.0) for _ in range(FAILURES)] == [False, False, True]
    assert not circuit.lifted(OPEN_S - 1)
    assert circuit.lifted(OPEN_S)
    assert circuit.refusal(8) is None
    assert circuit.failed(10, OPEN_S + 100.0)
    assert circuit.limit_rows == 9
    assert circuit.lifted(2 * OPEN_S + 100.0)
    assert not circuit.failed(10, 4 * OPEN_S)


def test_single_rows_are_always_tried() -> None:
    circuit = MemoryCircuit()
    assert [circuit.failed(1, 0.0) for _ in range(4)] == [False, False, True, False]
    assert circuit.refusal(1) is None


class SimulatedWorker:
    """The worker's own batch code on a simulated engine, answering at once."""

    def __init__(self, fitting_rows: int, clock: VirtualClock) -> None:
        engine = SimulatedEngine(clock.advance, LatencyLaw(1, 1))
        model = engine.load(MemoryArtifact({}), {"width": "1", "fitting_rows": str(fitting_rows)}, 8)
        self._replica = Replica(model, "m", "1")
        self.sizes: list[int] = []

    def submit(self, batch: Batch) -> asyncio.Future[BatchDone]:
        outcomes = self._replica.run([Item(i.id, i.request, i.deadline_us) for i in batch.items], 0)
        self.sizes.append(len(batch.items))
        results = [WorkResult(o.id, b"".join(o.parts), o.error) for o in outcomes]
        future: asyncio.Future[BatchDone] = asyncio.get_running_loop().create_future()
        future.set_result(BatchDone(batch.handle, results, 1000, self._replica.exhausted_rows))
        return future


class World:
    def __init__(self, fitting_rows: int) -> None:
        self.clock = VirtualClock()
        self.worker = SimulatedWorker(fitting_rows, self.clock)
        self.replies: list[Outcome] = []
        self.said: list[tuple[int, int, int]] = []
        self.runner = Runner(
            cast(WorkerHandle, self.worker),
            QueueDiscipline.EDF,
            self.clock,
            lambda item, outcome: self.replies.append(outcome),
            lambda handle, rows, limit: self.said.append((handle, rows, limit)),
        )
        self.runner.open(HANDLE, BatchLimits(max_rows=8))

    async def send(self, *rows: int) -> list[Outcome]:
        """One frame with requests of so many rows; their outcomes."""
        self.replies.clear()
        now_s = self.clock.monotonic()
        for number, count in enumerate(rows):
            request = infer_request({"x": np.ones((count, 1), np.float32)})
            self.runner.submit(Queued(number, HANDLE, count, request, now_s, now_s + 1e6, now_s + 1e6))
        async with asyncio.timeout(10.0):
            while len(self.replies) < len(rows):
                await asyncio.sleep(0)
        return list(self.replies)


async def test_batches_that_fail_together_become_smaller_and_nobody_pays_for_it() -> None:
    here = World(fitting_rows=5)
    for _ in range(FAILURES):
        outcomes = await here.send(*[1] * 8)
        assert all(o.error is None for o in outcomes)
    assert here.said == [(HANDLE, 8, 7)]
    for expected in (6, 5):
        assert all(o.error is None for o in await here.send(*[1] * 8))
        assert here.said[-1] == (HANDLE, expected + 1, expected)
    here.worker.sizes.clear()
    outcomes = await here.send(*[1] * 8)
    assert max(here.worker.sizes) == 5
    assert response_arrays(outcomes[0].response)["y"].tolist() == [1.0]


async def test_a_request_above_the_size_that_failed_is_refused_unexecuted_until_the_time_is_over() -> None:
    here = World(fitting_rows=4)
    for _ in range(FAILURES):
        (outcome,) = await here.send(6)
        assert outcome.error is not None
        assert outcome.error.reason is Reason.OUT_OF_MEMORY
    here.worker.sizes.clear()
    (outcome,) = await here.send(6)
    assert outcome.error is not None
    assert outcome.error.fields["most_rows"] == "5"
    assert here.worker.sizes == []
    (fits,) = await here.send(4)
    assert fits.error is None
    here.clock.advance(OPEN_S)
    await here.send(6)
    assert here.worker.sizes == [1, 1]


@pytest.mark.parametrize("fitting_rows", [0, 7])
async def test_what_fits_or_never_fits_keeps_its_way(fitting_rows: int) -> None:
    here = World(fitting_rows)
    for _ in range(4):
        outcomes = await here.send(1)
        assert [o.error is None for o in outcomes] == [fitting_rows > 0]
    assert here.said == ([(HANDLE, 1, 1)] if not fitting_rows else [])


async def test_a_real_worker_says_which_size_ran_out_of_memory(tmp_path: Path) -> None:
    (tmp_path / "tight.py").write_text(
        "import torch\nfrom torch import nn\nfrom node_agent.worker.modules import Architecture\n"
        "from partywall.domain.models import TensorSpec\n"
        "class Tight(nn.Linear):\n"
        "    def forward(self, x):\n"
        "        if len(x) > 2:\n"
        "            raise torch.cuda.OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB')\n"
        "        return super().forward(x)\n"
        "ARCHITECTURES = {'tight': Architecture(lambda _: Tight(1, 1), (TensorSpec('x', 'FP32', (-1, 1)),), "
        "(TensorSpec('y', 'FP32', (-1, 1)),), max_batch=8)}\n"
    )
    files = {"m.safetensors": save({"weight": torch.ones(1, 1), "bias": torch.zeros(1)})}
    async with zygote(("torch",)) as client, asyncio.timeout(120.0):
        worker = await spawn(client, tmp_path, modules=[str(tmp_path / "tight.py")])
        await worker.load(seal(tmp_path, files, "module", {"architecture": "tight"}))
        one = infer_request({"x": np.ones((1, 1), np.float32)})
        done = await worker.submit(Batch(1, [WorkItem(n, one) for n in range(4)]))
        assert done.exhausted_rows == 4
        assert [r.error for r in done.results] == [None] * 4
        assert (await worker.submit(Batch(1, [WorkItem(n, one) for n in range(2)]))).exhausted_rows == 0
