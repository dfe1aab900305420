"""The life of one worker: started, loaded, restarted with back-off, drained."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from node_agent.means import Means
from node_agent.memory_circuit import FAILURES
from node_agent.replica_life import WEIGHTS_GONE, ReplicaLife
from node_agent.runner import Runner
from node_agent.slots import ReplicaSlot, WorkerSlot
from node_agent.watchdog import Stuck, watch
from node_agent.work import WorkerExit
from node_agent.workers import WorkerHandle
from partywall.domain.events import EventName
from partywall.domain.fleet import ReplicaState
from partywall.errors import InvalidInput, PartywallError, Reason, Unavailable, Unsupported
from partywall.v1 import agent_link_pb2 as link

log = structlog.get_logger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 30.0
STEADY_S = 30.0
"""A worker that lived this long starts over with the first back-off."""


class WorkerLife:
    """Owns everything about one worker; one task runs it. `removed` is told of each replica that is gone."""

    def __init__(self, worker: WorkerSlot, means: Means, removed: Callable[[WorkerSlot, ReplicaSlot], None]) -> None:
        self._worker = worker
        self._means = means
        self._removed = removed

    async def run(self) -> None:
        """Starts, serves until the process ends or nobody wants it, starts again with back-off."""
        worker, clock = self._worker, self._means.clock
        backoff_s = FIRST_BACKOFF_S
        while worker.live():
            worker.changed.clear()
            if worker.released():
                await self._wait_released()
                continue
            started_s = clock.monotonic()
            why = await self._live_once()
            if not worker.live():
                break
            if worker.released():
                self._tell(EventName.WORKER_DIED, f"worker {worker.worker_id}: {why}; parked weights went with it")
                continue
            worker.restarts += 1
            if clock.monotonic() - started_s > STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            self._tell(EventName.WORKER_DIED, f"worker {worker.worker_id}: {why}; it starts anew")
            log.warning("worker ended", worker=worker.worker_id, reason=why, restart_in_s=backoff_s)
            for slot in worker.replicas.values():
                if slot.status.state is not ReplicaState.FAILED or not slot.status.permanent:
                    self._set(slot, ReplicaState.STARTING, reason=f"{why}; starting again", pid=0)
            await asyncio.sleep(backoff_s)
            backoff_s = min(LAST_BACKOFF_S, backoff_s * 3)
        for slot in list(worker.replicas.values()):
            self._removed(worker, slot)

    async def _wait_released(self) -> None:
        """Nobody is to be served, and without a process there are no weights to keep: none is started for that."""
        worker = self._worker
        for slot in list(worker.replicas.values()):
            if not slot.wanted:
                self._removed(worker, slot)
            elif slot.status.reason != WEIGHTS_GONE:
                self._set(slot, ReplicaState.STOPPED, reason=WEIGHTS_GONE, memory_bytes=0, pid=0)
        if worker.live():
            await worker.changed.wait()

    async def _live_once(self) -> str:
        """Starts the process and serves until it ends; answers why it ended."""
        worker, means = self._worker, self._means
        try:
            process = await means.spawn(worker.worker_id, worker.partition)
        except (Unsupported, InvalidInput) as error:
            for slot in worker.replicas.values():
                self._set(slot, ReplicaState.FAILED, reason=error.message, permanent=True)
            await worker.changed.wait()
            return error.message
        except (PartywallError, TimeoutError) as error:
            return f"the worker did not start: {error}"
        runner = worker.runner = Runner(process, means.discipline, means.clock, means.reply, self._on_exhausted)
        worker.process = process
        closed = asyncio.ensure_future(asyncio.shield(process.closed))
        watching = asyncio.ensure_future(watch(process, runner, means.clock, means.watchdog_floor_s, self._on_stuck))
        try:
            return await self._serve(ReplicaLife(worker, means, process, runner), process, runner, closed)
        finally:
            closed.cancel()
            watching.cancel()
            worker.runner = worker.process = None
            for slot in worker.replicas.values():
                slot.loaded = slot.parked = False

    async def _serve(
        self, life: ReplicaLife, process: WorkerHandle, runner: Runner, closed: asyncio.Future[WorkerExit]
    ) -> str:
        worker = self._worker
        while True:
            worker.changed.clear()
            for slot in list(worker.replicas.values()):
                if not slot.wanted:
                    await life.drop(slot)
                    self._removed(worker, slot)
                elif slot.spec.parked:
                    await life.park(slot)
                elif not slot.loaded and not slot.status.permanent and not closed.done():
                    await life.load(slot)
            if not worker.replicas:
                await process.stop(self._means.drain_s)
                return "nobody wants it"
            changed = asyncio.ensure_future(worker.changed.wait())
            try:
                await asyncio.wait((changed, closed), return_when=asyncio.FIRST_COMPLETED)
            finally:
                changed.cancel()
            if closed.done():
                ended = closed.result()
                runner.fail(_died(ended))
                return ended.message

    def _on_stuck(self, stuck: Stuck) -> None:
        message = f"{stuck.reason}: the worker is ended and starts anew; its callers get UNAVAILABLE"
        self._tell(EventName.WORKER_STUCK, message, stuck.handle)

    def _on_exhausted(self, handle: int, rows: int, limit: int) -> None:
        message = f"a batch of {rows} row(s) ran out of the partition's memory, {FAILURES} times in a minute: "
        message += f"the replica takes at most {limit} row(s) for ten minutes; give it a larger partition"
        self._tell(EventName.MEMORY_EXHAUSTED, message, handle)

    def _tell(self, kind: EventName, message: str, handle: int = 0) -> None:
        """One event, about the replica of that handle or else the first of the worker's."""
        slots = list(self._worker.replicas.values())
        about = next((s for s in slots if s.handle == handle), slots[0] if slots else None)
        self._means.on_event(
            link.AgentEvent(
                kind=kind,
                placement_id=about.spec.placement_id if about is not None else "",
                device_id=self._worker.partition.device_id,
                message=message,
            )
        )

    def _set(self, slot: ReplicaSlot, state: ReplicaState, **changes: object) -> None:
        self._means.report(slot.advance(state, **changes))


def _died(ended: WorkerExit) -> Unavailable:
    return Unavailable(
        f"the worker died ({ended.message}) before it answered; send the request again",
        reason=Reason.WORKER_DIED,
        retry_after_s=0.5,
    )
