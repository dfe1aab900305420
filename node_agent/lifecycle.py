"""The life of one worker: started, loaded, restarted with back-off, drained."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from node_agent.artifacts import Artifacts
from node_agent.memory_circuit import FAILURES
from node_agent.queueing import BatchLimits
from node_agent.runner import Reply, Runner
from node_agent.settings import QueueDiscipline
from node_agent.slots import ReplicaSlot, WorkerSlot
from node_agent.watchdog import Stuck, watch
from node_agent.work import LoadResult, WorkerExit
from node_agent.workers import WorkerHandle
from partywall.clock import Clock
from partywall.domain.events import EventName
from partywall.domain.fleet import Partition, ReplicaState, ReplicaStatus
from partywall.errors import DataLoss, InvalidInput, PartywallError, Reason, Unavailable, Unsupported
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import worker_pb2

log = structlog.get_logger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 30.0
STEADY_S = 30.0
"""A worker that lived this long starts over with the first back-off."""
DEFAULT_MAX_BATCH = 32

Spawn = Callable[[str, Partition], Awaitable[WorkerHandle]]
"""Starts a worker in a partition and answers once its wall is attested."""


def hopeless(error: PartywallError) -> bool:
    """Whether a load that failed so fails at every further try: the files, their seal or the options are at fault."""
    return isinstance(error, InvalidInput | DataLoss | Unsupported)


@dataclass(frozen=True, slots=True)
class Means:
    """What every worker's life needs. `report` takes each status that changed."""

    spawn: Spawn
    artifacts: Artifacts
    discipline: QueueDiscipline
    clock: Clock
    reply: Reply
    report: Callable[[ReplicaStatus], None]
    drain_s: float
    watchdog_floor_s: float = 30.0
    on_event: Callable[[link.AgentEvent], None] = lambda event: None


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
            started_s = clock.monotonic()
            why = await self._live_once()
            if not worker.live():
                break
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
            return await self._serve(process, runner, closed)
        finally:
            closed.cancel()
            watching.cancel()
            worker.runner = worker.process = None
            for slot in worker.replicas.values():
                slot.loaded = slot.parked = False

    async def _serve(self, process: WorkerHandle, runner: Runner, closed: asyncio.Future[WorkerExit]) -> str:
        worker = self._worker
        while True:
            worker.changed.clear()
            for slot in list(worker.replicas.values()):
                if not slot.wanted:
                    await self._drop(slot, process, runner)
                elif slot.spec.parked:
                    await self._park(slot, process, runner)
                elif not slot.loaded and not slot.status.permanent and not closed.done():
                    await self._load(slot, process, runner)
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

    async def _load(self, slot: ReplicaSlot, process: WorkerHandle, runner: Runner) -> None:
        worker = self._worker
        self._set(slot, ReplicaState.LOADING, pid=process.pid)
        spec = slot.spec
        try:
            folder = await self._means.artifacts.folder(spec.artifact_id, spec.files)
            result = await process.load(
                worker_pb2.LoadReplica(
                    handle=slot.handle,
                    tenant_id=spec.tenant_id,
                    model=spec.model,
                    version=spec.version,
                    manifest=spec.manifest,
                    files=spec.files,
                    data_key=spec.data_key,
                    sealed_dir=str(folder),
                )
            )
        except PartywallError as error:
            permanent = hopeless(error)
            log.warning("load failed", placement=spec.placement_id, reason=error.reason.value, error=error.message)
            self._set(slot, ReplicaState.FAILED, reason=error.message, permanent=permanent)
            if not permanent and process.alive:
                asyncio.get_running_loop().call_later(LAST_BACKOFF_S / 6, worker.changed.set)
            return
        runner.open(slot.handle, batch_limits(spec, result), spec.tenant_id, spec.weight or 1.0)
        # What a real load takes is what the next one is judged by.
        load_s = slot.status.load_seconds if slot.parked else result.load_seconds
        slot.loaded, slot.parked = True, False
        self._set(
            slot,
            ReplicaState.READY,
            pid=process.pid,
            memory_bytes=result.memory_bytes,
            load_seconds=load_s,
            signature=result.signature,
            wall=process.attested.get("wall", ""),
            restarts=worker.restarts,
        )

    async def _drop(self, slot: ReplicaSlot, process: WorkerHandle, runner: Runner) -> None:
        """Drains a replica and frees its memory."""
        if slot.loaded:
            await self._drain(slot, process, runner)
        if slot.loaded or slot.parked:
            try:
                await process.unload(slot.handle)
            except Unavailable as error:
                log.info("worker ended while unloading", worker=self._worker.worker_id, reason=error.message)
        self._removed(self._worker, slot)

    async def _park(self, slot: ReplicaSlot, process: WorkerHandle, runner: Runner) -> None:
        """Takes a replica out of service; the worker keeps its weights. One that has none says so by 0 bytes."""
        if slot.loaded:
            await self._drain(slot, process, runner)
            try:
                await process.park(slot.handle)
            except Unavailable as error:
                log.info("worker ended while parking", worker=self._worker.worker_id, reason=error.message)
                return
            slot.loaded, slot.parked = False, True
            self._set(slot, ReplicaState.STOPPED, reason="released; the worker keeps its weights")
        elif not slot.parked and slot.status.state is not ReplicaState.STOPPED:
            self._set(slot, ReplicaState.STOPPED, reason="released; its weights are gone", memory_bytes=0)

    async def _drain(self, slot: ReplicaSlot, process: WorkerHandle, runner: Runner) -> None:
        """What was accepted is finished, within the bound."""
        self._set(slot, ReplicaState.DRAINING)
        clock = self._means.clock
        limit_s = clock.monotonic() + self._means.drain_s
        # A drain is rare and bounded; an event on the request's road would cost every request.
        while process.alive and not runner.idle(slot.handle) and clock.monotonic() < limit_s:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        runner.close_replica(slot.handle)

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


def batch_limits(spec: link.PlacementSpec, result: LoadResult) -> BatchLimits:
    """Batching as the signature allows it; an open signature (identity) is answered item by item in one batch."""
    declared = spec.manifest.max_batch
    found = result.signature.max_batch
    if found == 0 and not result.signature.open:
        return BatchLimits(max_rows=1)
    limit = found or DEFAULT_MAX_BATCH
    return BatchLimits(max_rows=min(declared, limit) if declared else limit)


def _died(ended: WorkerExit) -> Unavailable:
    return Unavailable(
        f"the worker died ({ended.message}) before it answered; send the request again",
        reason=Reason.WORKER_DIED,
        retry_after_s=0.5,
    )
