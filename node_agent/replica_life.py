"""One live worker's replicas: loaded, parked, woken, drained and dropped."""

from __future__ import annotations

import asyncio

import structlog

from node_agent.means import Means
from node_agent.queueing import BatchLimits
from node_agent.runner import Runner
from node_agent.slots import ReplicaSlot, WorkerSlot
from node_agent.work import LoadResult, ParkResult
from node_agent.workers import WorkerHandle
from partywall.domain.fleet import ReplicaState
from partywall.errors import DataLoss, InvalidInput, PartywallError, Unavailable, Unsupported
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import worker_pb2

log = structlog.get_logger(__name__)

DEFAULT_MAX_BATCH = 32
RETRY_LOAD_S = 5.0
WEIGHTS_KEPT = "released; the worker keeps its weights"
WEIGHTS_GONE = "released; its weights are gone"


def hopeless(error: PartywallError) -> bool:
    """Whether a load that failed so fails at every further try: the files, their seal or the options are at fault."""
    return isinstance(error, InvalidInput | DataLoss | Unsupported)


class ReplicaLife:
    """Brings the replicas of one worker, while its process lives, to where they are wanted."""

    def __init__(self, worker: WorkerSlot, means: Means, process: WorkerHandle, runner: Runner) -> None:
        self._worker = worker
        self._means = means
        self._process = process
        self._runner = runner

    async def load(self, slot: ReplicaSlot) -> None:
        """Loads a replica, or brings it back from its parked weights; failing leaves those where they are."""
        process = self._process
        self._set(slot, ReplicaState.LOADING, pid=process.pid)
        try:
            await self._means.rooms.rouse(self._worker.worker_id)
            result = await process.load(await self._request(slot))
        except PartywallError as error:
            await self._failed(slot, error)
            return
        self._ready(slot, result)

    async def drop(self, slot: ReplicaSlot) -> None:
        """Drains a replica and frees its memory."""
        if slot.loaded:
            await self._drain(slot)
        if slot.loaded or slot.parked:
            try:
                await self._process.unload(slot.handle)
            except Unavailable as error:
                log.info("worker ended while unloading", worker=self._worker.worker_id, reason=error.message)

    async def park(self, slot: ReplicaSlot) -> None:
        """Takes a replica out of service; the worker keeps its weights in host memory. One that has none says so by
        0 bytes, with the reason."""
        if slot.loaded:
            await self._drain(slot)
            try:
                result = await self._process.park(slot.handle)
            except Unavailable as error:
                log.info("worker ended while parking", worker=self._worker.worker_id, reason=error.message)
                return
            slot.loaded, slot.parked = False, result.kept
            if result.kept:
                await self._parked(slot, result)
            else:
                log.info("not parked but unloaded", placement=slot.spec.placement_id, reason=result.reason)
                reason = f"released and unloaded: {result.reason}"
                self._set(slot, ReplicaState.STOPPED, reason=reason, memory_bytes=0)
        elif slot.status.state is not ReplicaState.STOPPED:
            if slot.parked:
                # It was to come back, could not, and is not wanted any more.
                self._set(slot, ReplicaState.STOPPED, reason=WEIGHTS_KEPT)
            else:
                self._set(slot, ReplicaState.STOPPED, reason=WEIGHTS_GONE, memory_bytes=0)

    async def _parked(self, slot: ReplicaSlot, result: ParkResult) -> None:
        worker = self._worker
        if result.moved_bytes and not result.pinned:
            self._means.pageable.tell(worker.worker_id)
        figures = {"bytes": result.host_bytes, "seconds": round(result.seconds, 3), "left_bytes": result.device_bytes}
        log.info("parked", placement=slot.spec.placement_id, pinned=result.pinned, **figures)
        if all(one.parked for one in worker.replicas.values()):
            await self._means.rooms.rest(worker.worker_id)
        # Until a wake has been measured, the way off the device tells how long the way back takes.
        known = slot.status.wake_seconds if slot.status.wake_bytes == result.moved_bytes else 0.0
        self._set(
            slot,
            ReplicaState.STOPPED,
            reason=WEIGHTS_KEPT,
            memory_bytes=result.host_bytes,
            wake_bytes=result.moved_bytes,
            wake_seconds=known or result.seconds,
        )

    async def _request(self, slot: ReplicaSlot) -> worker_pb2.LoadReplica:
        spec = slot.spec
        # What comes back from parked weights reads no file.
        folder = "" if slot.parked else str(await self._means.artifacts.folder(spec.artifact_id, spec.files))
        return worker_pb2.LoadReplica(
            handle=slot.handle,
            tenant_id=spec.tenant_id,
            model=spec.model,
            version=spec.version,
            manifest=spec.manifest,
            files=spec.files,
            data_key=spec.data_key,
            sealed_dir=folder,
        )

    async def _failed(self, slot: ReplicaSlot, error: PartywallError) -> None:
        process, spec = self._process, slot.spec
        permanent = hopeless(error)
        log.warning("load failed", placement=spec.placement_id, reason=error.reason.value, error=error.message)
        if slot.parked and process.alive:
            await self._means.rooms.rest(self._worker.worker_id)
        self._set(slot, ReplicaState.FAILED, reason=error.message, permanent=permanent)
        if not permanent and process.alive:
            asyncio.get_running_loop().call_later(RETRY_LOAD_S, self._worker.changed.set)

    def _ready(self, slot: ReplicaSlot, result: LoadResult) -> None:
        spec, process = slot.spec, self._process
        self._runner.open(slot.handle, batch_limits(spec, result), spec.tenant_id, spec.weight or 1.0)
        # What a real load takes is what the next one is judged by.
        load_s = slot.status.load_seconds if slot.parked else result.load_seconds
        woken = {"wake_bytes": result.woken_bytes, "wake_seconds": result.wake_seconds} if result.woken_bytes else {}
        if woken:
            log.info("woken", placement=spec.placement_id, bytes=result.woken_bytes, seconds=result.wake_seconds)
        slot.loaded, slot.parked = True, False
        self._set(
            slot,
            ReplicaState.READY,
            pid=process.pid,
            memory_bytes=result.memory_bytes,
            load_seconds=load_s,
            signature=result.signature,
            wall=process.attested.get("wall", ""),
            restarts=self._worker.restarts,
            **woken,
        )

    async def _drain(self, slot: ReplicaSlot) -> None:
        """What was accepted is finished, within the bound."""
        self._set(slot, ReplicaState.DRAINING)
        clock, runner = self._means.clock, self._runner
        limit_s = clock.monotonic() + self._means.drain_s
        # A drain is rare and bounded; an event on the request's road would cost every request.
        while self._process.alive and not runner.idle(slot.handle) and clock.monotonic() < limit_s:  # noqa: ASYNC110
            await asyncio.sleep(0.02)
        runner.close_replica(slot.handle)

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
