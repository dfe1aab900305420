"""Closes the gap between what shall stand on this node and what does: workers started, loaded, restarted, drained.

One task per worker owns everything about it, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field, replace

import structlog

from node_agent.artifacts import Artifacts
from node_agent.queueing import BatchLimits, Queued
from node_agent.runner import Outcome, Reply, Runner
from node_agent.settings import QueueDiscipline
from node_agent.workers import LoadResult, WorkerExit, WorkerHandle
from partywall.clock import Clock
from partywall.domain.fleet import Partition, ReplicaState, ReplicaStatus
from partywall.errors import ArtifactRefused, DataLoss, PartywallError, Reason, Unavailable, Unsupported
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import worker_pb2
from partywall.wire import convert

log = structlog.get_logger(__name__)

FIRST_BACKOFF_S, LAST_BACKOFF_S = 0.1, 30.0
STEADY_S = 30.0
"""A worker that lived this long starts over with the first back-off."""
DEFAULT_MAX_BATCH = 32

Spawn = Callable[[str, Partition], Awaitable[WorkerHandle]]
"""Starts a worker in a partition and answers once its wall is attested."""


@dataclass(slots=True)
class ReplicaSlot:
    """One wanted replica. `handle` is this agent's own number for it in its worker."""

    spec: link.PlacementSpec
    handle: int
    status: ReplicaStatus
    loaded: bool = False
    wanted: bool = True


@dataclass(slots=True)
class WorkerSlot:
    """One wanted worker with its replicas; `runner` is there while the process is."""

    worker_id: str
    partition: Partition
    replicas: dict[str, ReplicaSlot] = field(default_factory=dict)
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    runner: Runner | None = None
    restarts: int = 0
    task: asyncio.Task[None] | None = None


class Supervisor:
    """All workers of this node. `report` is called with each status that changed."""

    def __init__(
        self,
        spawn: Spawn,
        artifacts: Artifacts,
        discipline: QueueDiscipline,
        clock: Clock,
        reply: Reply,
        report: Callable[[ReplicaStatus], None],
        *,
        drain_s: float = 10.0,
    ) -> None:
        self._spawn = spawn
        self._artifacts = artifacts
        self._discipline = discipline
        self._clock = clock
        self._reply = reply
        self._report = report
        self._drain_s = drain_s
        self._workers: dict[str, WorkerSlot] = {}
        self._slots: dict[str, tuple[WorkerSlot, ReplicaSlot]] = {}
        self._handles = itertools.count(1)

    def statuses(self) -> list[ReplicaStatus]:
        return [slot.status for _, slot in self._slots.values()]

    def apply(self, placements: Iterable[link.PlacementSpec]) -> None:
        """Takes the whole desired state; returns at once."""
        wanted = {spec.placement_id: spec for spec in placements}
        for placement_id, (worker, slot) in self._slots.items():
            if placement_id not in wanted and slot.wanted:
                slot.wanted = False
                worker.changed.set()
        for spec in wanted.values():
            known = self._slots.get(spec.placement_id)
            if known is None or not known[1].wanted:
                self._add(spec)

    def submit(self, placement_id: str, item: Queued) -> None:
        """Queues a request for a placement; `item.handle` is set here. Refused when it is not standing here."""
        known = self._slots.get(placement_id)
        runner = known[0].runner if known is not None else None
        if known is None or runner is None:
            self._reply_gone(item)
            return
        item.handle = known[1].handle
        objective_ms = known[1].spec.manifest.slo_ms
        if objective_ms:
            item.due_s = min(item.due_s, item.arrived_s + objective_ms / 1e3)
        runner.submit(item)

    def cancel(self, placement_id: str, request_id: int) -> None:
        known = self._slots.get(placement_id)
        if known is not None and known[0].runner is not None:
            known[0].runner.cancel(request_id)

    def loads(self) -> list[tuple[str, int, int, float]]:
        """(placement, rows queued, rows running, backlog in seconds) of each replica that is ready."""
        out = []
        for placement_id, (worker, slot) in self._slots.items():
            if slot.loaded and worker.runner is not None:
                out.append((placement_id, *worker.runner.load(slot.handle)))
        return out

    async def close(self) -> None:
        """Stops everything; workers finish the batches they have."""
        self.apply(())
        tasks = [w.task for w in self._workers.values() if w.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._drain_s + 5.0)
            for task in late:
                task.cancel()

    def _add(self, spec: link.PlacementSpec) -> None:
        worker = self._workers.get(spec.worker_id)
        if worker is None:
            partition = convert.partition_from_proto(spec.partition)
            worker = self._workers[spec.worker_id] = WorkerSlot(spec.worker_id, partition)
            worker.task = asyncio.create_task(self._tend(worker))
        status = ReplicaStatus(spec.placement_id, ReplicaState.STARTING)
        slot = ReplicaSlot(spec, next(self._handles), status)
        worker.replicas[spec.placement_id] = slot
        self._slots[spec.placement_id] = (worker, slot)
        worker.changed.set()
        self._set(slot, ReplicaState.STARTING)

    async def _tend(self, worker: WorkerSlot) -> None:
        """The life of one worker: start, serve until it ends or nobody wants it, start again with back-off."""
        backoff_s = FIRST_BACKOFF_S
        while self._live(worker):
            started_s = self._clock.monotonic()
            why = await self._live_once(worker)
            if not self._live(worker):
                break
            worker.restarts += 1
            if self._clock.monotonic() - started_s > STEADY_S:
                backoff_s = FIRST_BACKOFF_S
            log.warning("worker ended", worker=worker.worker_id, reason=why, restart_in_s=backoff_s)
            for slot in worker.replicas.values():
                if slot.status.state is not ReplicaState.FAILED or not slot.status.permanent:
                    self._set(slot, ReplicaState.STARTING, reason=f"{why}; starting again", pid=0)
            await asyncio.sleep(backoff_s)
            backoff_s = min(LAST_BACKOFF_S, backoff_s * 3)
        self._forget(worker)

    async def _live_once(self, worker: WorkerSlot) -> str:
        """Starts the process and serves until it ends; answers why it ended."""
        try:
            process = await self._spawn(worker.worker_id, worker.partition)
        except Unsupported as error:
            for slot in worker.replicas.values():
                self._set(slot, ReplicaState.FAILED, reason=error.message, permanent=True)
            await worker.changed.wait()
            return error.message
        except (PartywallError, TimeoutError) as error:
            return f"the worker did not start: {error}"
        runner = worker.runner = Runner(process, self._discipline, self._clock, self._reply)
        closed = asyncio.ensure_future(asyncio.shield(process.closed))
        try:
            return await self._serve(worker, process, runner, closed)
        finally:
            closed.cancel()
            worker.runner = None
            for slot in worker.replicas.values():
                slot.loaded = False

    async def _serve(
        self, worker: WorkerSlot, process: WorkerHandle, runner: Runner, closed: asyncio.Future[WorkerExit]
    ) -> str:
        while True:
            worker.changed.clear()
            for slot in list(worker.replicas.values()):
                if not slot.wanted:
                    await self._drop(worker, slot, process, runner)
                elif not slot.loaded and not slot.status.permanent and not closed.done():
                    await self._load(worker, slot, process, runner)
            if not worker.replicas:
                await process.stop(self._drain_s)
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

    async def _load(self, worker: WorkerSlot, slot: ReplicaSlot, process: WorkerHandle, runner: Runner) -> None:
        self._set(slot, ReplicaState.LOADING, pid=process.pid)
        spec = slot.spec
        try:
            folder = await self._artifacts.folder(spec.artifact_id, spec.files)
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
            permanent = isinstance(error, ArtifactRefused | DataLoss | Unsupported)
            log.warning("load failed", placement=spec.placement_id, reason=error.reason.value, error=error.message)
            self._set(slot, ReplicaState.FAILED, reason=error.message, permanent=permanent)
            if not permanent and process.alive:
                asyncio.get_running_loop().call_later(LAST_BACKOFF_S / 6, worker.changed.set)
            return
        runner.open(slot.handle, _limits(spec, result))
        slot.loaded = True
        self._set(
            slot,
            ReplicaState.READY,
            pid=process.pid,
            memory_bytes=result.memory_bytes,
            load_seconds=result.load_seconds,
            signature=result.signature,
            wall=process.attested.get("wall", ""),
            restarts=worker.restarts,
        )

    async def _drop(self, worker: WorkerSlot, slot: ReplicaSlot, process: WorkerHandle, runner: Runner) -> None:
        """Drains a replica: what was accepted is finished, within the bound."""
        if slot.loaded:
            self._set(slot, ReplicaState.DRAINING)
            limit_s = self._clock.monotonic() + self._drain_s
            # A drain is rare and bounded; an event on the request's road would cost every request.
            while process.alive and not runner.idle(slot.handle) and self._clock.monotonic() < limit_s:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
            runner.close_replica(slot.handle)
            try:
                await process.unload(slot.handle)
            except Unavailable as error:
                log.info("worker ended while unloading", worker=worker.worker_id, reason=error.message)
        self._remove(worker, slot)

    def _remove(self, worker: WorkerSlot, slot: ReplicaSlot) -> None:
        placement_id = slot.spec.placement_id
        if worker.replicas.get(placement_id) is slot:
            del worker.replicas[placement_id]
        known = self._slots.get(placement_id)
        if known is not None and known[1] is slot:
            del self._slots[placement_id]
        self._set(slot, ReplicaState.STOPPED)

    def _forget(self, worker: WorkerSlot) -> None:
        for slot in list(worker.replicas.values()):
            self._remove(worker, slot)
        if self._workers.get(worker.worker_id) is worker:
            del self._workers[worker.worker_id]

    @staticmethod
    def _live(worker: WorkerSlot) -> bool:
        return any(slot.wanted for slot in worker.replicas.values())

    def _set(self, slot: ReplicaSlot, state: ReplicaState, **changes: object) -> None:
        base = replace(slot.status, reason="") if "reason" not in changes else slot.status
        slot.status = replace(base, state=state, **changes)  # type: ignore[arg-type]
        self._report(slot.status)

    def _reply_gone(self, item: Queued) -> None:
        self._reply(item, Outcome(error=Unavailable("the replica is not standing; send the request again")))


def _limits(spec: link.PlacementSpec, result: LoadResult) -> BatchLimits:
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
