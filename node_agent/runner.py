"""One worker's road on the agent: queue, batches, replies."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from node_agent.memory_circuit import MemoryCircuit
from node_agent.queueing import Batch, BatchLimits, Queued, WorkQueue
from node_agent.settings import QueueDiscipline
from node_agent.work import Batch as WorkerBatch
from node_agent.work import BatchDone, WorkItem
from node_agent.workers import WorkerHandle
from partywall.clock import Clock
from partywall.errors import DeadlineExceeded, InternalError, PartywallError, Reason, Unavailable

OVERLAP_BELOW_S = 0.002
"""A worker gets its next batch ahead only when batches are this short: ahead means out of the queue's reach."""
MOST_QUIET_S = 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one request. Exactly one of `response` and `error` counts; times in microseconds."""

    response: bytes = b""
    error: PartywallError | None = None
    queue_us: int = 0
    service_us: int = 0
    batch_requests: int = 0
    batch_rows: int = 0


Reply = Callable[[Queued, Outcome], None]


class Runner:
    """Feeds one live worker from one queue. A new worker process gets a new runner."""

    def __init__(
        self,
        worker: WorkerHandle,
        discipline: QueueDiscipline,
        clock: Clock,
        reply: Reply,
        on_exhausted: Callable[[int, int, int], None] = lambda handle, rows, limit: None,
    ) -> None:
        """`on_exhausted` gets (handle, rows, limit) when batches of a replica are made smaller for lack of memory."""
        self._on_exhausted = on_exhausted
        self._circuits: dict[int, MemoryCircuit] = {}
        self._limits: dict[int, BatchLimits] = {}
        self._worker = worker
        self._queue = WorkQueue(discipline)
        self._clock = clock
        self._reply = reply
        self._running: dict[asyncio.Future[BatchDone], tuple[Batch, float]] = {}
        self._ended_s: dict[int, float] = {}
        self._closed = False
        self._woken = False

    def open(self, handle: int, limits: BatchLimits, tenant: str = "", weight: float = 1.0) -> None:
        """Takes requests for a replica from now on; tenants of one worker share it by weight."""
        self._limits[handle] = limits
        self._queue.add_replica(handle, limits, tenant, weight)

    def close_replica(self, handle: int) -> None:
        """Refuses what still waits for a replica and takes no more."""
        self._ended_s.pop(handle, None)
        self._circuits.pop(handle, None)
        self._limits.pop(handle, None)
        for item in self._queue.remove_replica(handle):
            self._reply(item, Outcome(error=_draining()))

    def submit(self, item: Queued) -> None:
        """Queues a request; refuses it when its replica is not open here."""
        if self._closed or not self._queue.has_replica(item.handle):
            self._reply(item, Outcome(error=_draining()))
            return
        if self._circuits and (refusal := self._circuit_refuses(item)) is not None:
            self._reply(item, Outcome(error=refusal))
            return
        self._queue.put(item)
        if not self._woken:
            # What arrives in one frame of the link is one batch: the pump waits for the rest of the frame.
            self._woken = True
            asyncio.get_running_loop().call_soon(self._wake)

    def cancel(self, request_id: int) -> None:
        """Drops a request that still waits; one that runs is not interrupted."""
        self._queue.cancel(request_id)

    def idle(self, handle: int) -> bool:
        """Whether nothing waits or runs for a replica."""
        return not self._queue.queued(handle) and all(b.handle != handle for b, _ in self._running.values())

    def quiet_s(self, handle: int) -> float:
        """Seconds since the last request for a replica ended, by whatever link it came, an hour at the most; 0.0 while
        there is one."""
        if not self.idle(handle):
            return 0.0
        return min(MOST_QUIET_S, self._clock.monotonic() - self._ended_s.get(handle, float("-inf")))

    def oldest_running(self) -> tuple[int, float, float] | None:
        """(handle, start, predicted seconds or 0.0) of the batch that the worker has had longest."""
        for batch, started_s in self._running.values():
            return batch.handle, started_s, self._queue.service_s(batch.handle, batch.rows)
        return None

    def load(self, handle: int) -> tuple[int, int, float]:
        """(rows waiting, rows running, predicted seconds until a new request would start)."""
        running = sum(b.rows for b, _ in self._running.values() if b.handle == handle)
        return self._queue.queued(handle), running, self._queue.backlog_s(handle)

    def fail(self, error: PartywallError) -> None:
        """The worker is gone: everything that waits is refused; running batches fail by their futures."""
        self._closed = True
        while True:
            batch, doomed = self._queue.take(float("-inf"))
            for item in (*doomed, *(batch.items if batch else ())):
                self._reply(item, Outcome(error=error))
            if batch is None:
                return

    def _wake(self) -> None:
        self._woken = False
        self._pump()

    def _pump(self) -> None:
        """Starts batches as long as the worker may have one more."""
        while self._may_start():
            now_s = self._clock.monotonic()
            batch, doomed = self._queue.take(now_s)
            for item in doomed:
                self._end(item.handle, now_s)
                self._reply(item, Outcome(error=_doomed(), queue_us=_us(now_s - item.arrived_s)))
            if batch is None:
                return
            work = [WorkItem(i.id, i.request, int(i.deadline_s * 1e6)) for i in batch.items]
            future = self._worker.submit(WorkerBatch(batch.handle, work))
            self._running[future] = (batch, now_s)
            future.add_done_callback(self._done)

    def _may_start(self) -> bool:
        if self._closed or not len(self._queue):
            return False
        running = self._running
        if not running:
            return True
        if len(running) > 1:
            return False
        batch, _ = next(iter(running.values()))
        expected_s = self._queue.service_s(batch.handle, batch.rows)
        return 0.0 < expected_s < OVERLAP_BELOW_S

    def _done(self, future: asyncio.Future[BatchDone]) -> None:
        batch, started_s = self._running.pop(future)
        self._end(batch.handle, self._clock.monotonic())
        failure = None if future.cancelled() else future.exception()
        if future.cancelled() or failure is not None:
            error = failure if isinstance(failure, PartywallError) else InternalError(f"the batch failed: {failure!r}")
            for item in batch.items:
                self._reply(item, Outcome(error=error, queue_us=_us(started_s - item.arrived_s)))
        else:
            done = future.result()
            if done.exhausted_rows:
                self._exhausted(batch.handle, done.exhausted_rows)
            self._answer(batch, started_s, done)
        self._pump()

    def _exhausted(self, handle: int, rows: int) -> None:
        limits = self._limits.get(handle)
        circuit = self._circuits.setdefault(handle, MemoryCircuit())
        if limits is not None and circuit.failed(rows, self._clock.monotonic()):
            self._queue.limit_rows(handle, min(limits.max_rows, circuit.limit_rows))
            self._on_exhausted(handle, rows, circuit.limit_rows)

    def _circuit_refuses(self, item: Queued) -> PartywallError | None:
        circuit = self._circuits.get(item.handle)
        if circuit is None:
            return None
        if circuit.lifted(self._clock.monotonic()):
            self._queue.limit_rows(item.handle, self._limits[item.handle].max_rows)
        return circuit.refusal(item.rows)

    def _end(self, handle: int, now_s: float) -> None:
        if self._queue.has_replica(handle):
            self._ended_s[handle] = now_s

    def _answer(self, batch: Batch, started_s: float, done: BatchDone) -> None:
        service_us = max(1, done.service_us)
        executed = sum(1 for r in done.results if r.error is None)
        if executed:
            self._queue.observe(batch.handle, batch.rows, service_us / 1e6, self._clock.monotonic())
        for item, result in zip(batch.items, done.results, strict=True):
            self._reply(
                item,
                Outcome(
                    result.response,
                    result.error,
                    queue_us=_us(started_s - item.arrived_s),
                    service_us=service_us if result.error is None else 0,
                    batch_requests=len(batch.items),
                    batch_rows=batch.rows,
                ),
            )


def _us(seconds: float) -> int:
    return max(0, int(seconds * 1e6))


def _doomed() -> DeadlineExceeded:
    return DeadlineExceeded("the deadline could no longer be met; nothing was executed")


def _draining() -> Unavailable:
    return Unavailable(
        "the replica is being stopped; send the request again", reason=Reason.DRAINING, retry_after_s=0.1
    )
