"""One worker kept busy with one request over and over, and what its batches took."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from node_agent.work import Batch, BatchDone, WorkItem
from node_agent.workers import WorkerHandle

_IN_FLIGHT = 2
"""The worker always has the next batch while the agent reads the last one."""
_MESSAGE_S = 0.01
_MOST_REPEATS = 1000


class Stream:
    """Closed loop on one worker; `start`, `take` as often as wanted, `stop`.

    Short batches are repeated inside the worker (`repeat_for`): this process would otherwise be busy with messages, on
    cores that the neighbour being measured stands on.
    """

    def __init__(self, worker: WorkerHandle, handle: int, request: bytes) -> None:
        self._worker = worker
        self._batch = Batch(handle, (WorkItem(1, request),))
        self._taken: list[BatchDone] = []
        self._stopping = False
        self._task: asyncio.Task[None] | None = None

    def repeat_for(self, batch_s: float) -> None:
        """Repeats batches of this length so often that a message comes every ten milliseconds or less often."""
        repeats = min(max(1, round(_MESSAGE_S / max(batch_s, 1e-6))), _MOST_REPEATS)
        self._batch = replace(self._batch, repeat=repeats)

    def batch_seconds(self, taken: Sequence[BatchDone]) -> list[float]:
        """Mean length of a batch by message."""
        return [done.service_us / 1e6 / self._batch.repeat for done in taken]

    def start(self) -> None:
        """Begins to submit; returns at once."""
        self._stopping = False
        self._taken = []
        self._task = asyncio.create_task(self._run())

    def take(self) -> Sequence[BatchDone]:
        """Batches that ended since `start` or the last `take`."""
        taken, self._taken = self._taken, []
        return taken

    async def stop(self) -> Sequence[BatchDone]:
        """Submits no more, waits for the batches that are out, and answers as `take`.

        Raises:
            PartywallError: What the worker answered, or that it died.
        """
        self._stopping = True
        if self._task is not None:
            await self._task
            self._task = None
        return self.take()

    def abort(self) -> None:
        """Lets go of whatever runs, for a job that was given up; the worker is stopped after it."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def window(self, seconds: float) -> Sequence[BatchDone]:
        """Batches of one window, with nothing out before and after it."""
        self.start()
        await self._last(seconds)
        return await self.stop()

    async def _last(self, seconds: float) -> None:
        """Sleeps, and ends early when the stream fails."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=seconds)

    async def _run(self) -> None:
        out: deque[asyncio.Future[BatchDone]] = deque()
        try:
            while out or not self._stopping:
                while not self._stopping and len(out) < _IN_FLIGHT:
                    out.append(self._worker.submit(self._batch))
                done = await out.popleft()
                if (error := done.results[0].error) is not None:
                    raise error
                self._taken.append(done)
        finally:
            for future in out:
                future.cancel()
