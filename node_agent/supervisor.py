"""Closes the gap between what shall stand on this node and what does.

One task per worker owns everything about it (`node_agent.lifecycle`), so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import structlog

from node_agent.artifacts import Artifacts
from node_agent.lifecycle import WorkerLife
from node_agent.link_seams import Load
from node_agent.means import Means, NoRooms, Rooms, Spawn
from node_agent.queueing import Queued
from node_agent.runner import Outcome, Reply
from node_agent.settings import QueueDiscipline
from node_agent.slots import ReplicaSlot, WorkerSlot
from node_agent.walls import Reattested
from node_agent.work import WorkerExit
from node_agent.workers import WorkerHandle
from partywall.clock import Clock
from partywall.domain.events import EventName
from partywall.domain.fleet import ReplicaState, ReplicaStatus
from partywall.errors import Unavailable
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import fleet_pb2
from partywall.wire import convert

log = structlog.get_logger(__name__)

OnEvent = Callable[[link.AgentEvent], None]


class Reader(Rooms, Protocol):
    """Who keeps the walls; `node_agent.walls.Walls` satisfies it."""

    def desired(self, partitions: Mapping[str, str]) -> None: ...

    async def again(self, worker_id: str) -> Reattested | None: ...


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
        watchdog_floor_s: float = 30.0,
        walls: Reader | None = None,
        on_event: OnEvent = lambda event: None,
    ) -> None:
        """`walls` reads walls again and is told which partitions are wanted; None: nothing is read again."""
        rooms = walls or NoRooms()
        self._means = Means(
            spawn, artifacts, discipline, clock, reply, report, drain_s, watchdog_floor_s, on_event, rooms
        )
        self._workers: dict[str, WorkerSlot] = {}
        self._slots: dict[str, tuple[WorkerSlot, ReplicaSlot]] = {}
        self._handles = itertools.count(1)
        self._walls = walls
        self._on_event = on_event
        self._ending: set[asyncio.Future[WorkerExit]] = set()

    def statuses(self) -> list[ReplicaStatus]:
        return [slot.status for _, slot in self._slots.values()]

    def apply(self, placements: Iterable[link.PlacementSpec]) -> None:
        """Takes the whole desired state; returns at once."""
        wanted = {spec.placement_id: spec for spec in placements}
        self._means.artifacts.wanted({spec.artifact_id for spec in wanted.values()})
        if self._walls is not None:
            self._walls.desired({s.partition.id: s.replaces_partition for s in wanted.values()})
        for placement_id, (worker, slot) in self._slots.items():
            if placement_id not in wanted and slot.wanted:
                slot.wanted = False
                worker.changed.set()
        for spec in wanted.values():
            known = self._slots.get(spec.placement_id)
            if known is None or not known[1].wanted:
                self._add(spec)
            elif known[1].spec.parked != spec.parked:
                known[1].spec = spec
                known[0].changed.set()

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

    def loads(self) -> list[Load]:
        """The load of each replica that is ready."""
        out = []
        for placement_id, (worker, slot) in self._slots.items():
            if slot.loaded and (runner := worker.runner) is not None:
                out.append(Load(placement_id, *runner.load(slot.handle), runner.quiet_s(slot.handle)))
        return out

    async def attest(self) -> list[fleet_pb2.ReplicaAttestation]:
        """Reads the wall of every worker again; one whose wall does not stand any more ends, and starts anew."""
        answers: list[fleet_pb2.ReplicaAttestation] = []
        for worker in list(self._workers.values()):
            process = worker.process
            read = await self._walls.again(worker.worker_id) if self._walls is not None else None
            if read is None or process is None or worker.process is not process:
                continue
            answers += [attestation_of(slot.spec, read) for slot in worker.replicas.values()]
            if not read.attestation.ok and process.alive:
                self._breach(worker, process, "; ".join(read.attestation.reasons))
        return answers

    def abort(self, device_id: str, why: str) -> None:
        """Ends every worker on a device that is gone; what they had fails, and they wait for another place."""
        for worker in self._workers.values():
            if worker.partition.device_id == device_id and worker.process is not None:
                worker.process.abort(why)

    async def watch_walls(self, every_s: float) -> None:
        """Attests again and again, until cancelled."""
        while True:
            await asyncio.sleep(every_s)
            await self.attest()

    def _breach(self, worker: WorkerSlot, process: WorkerHandle, why: str) -> None:
        """No traffic behind a wall that does not stand: what runs is finished, what waits is refused."""
        log.warning("wall lost", worker=worker.worker_id, reason=why)
        message = f"the wall of partition {worker.partition.id} does not stand: {why}; the worker starts anew"
        for slot in worker.replicas.values():
            self._on_event(
                link.AgentEvent(
                    kind=EventName.WALL_MISMATCH,
                    placement_id=slot.spec.placement_id,
                    device_id=worker.partition.device_id,
                    message=message,
                )
            )
            self._means.report(slot.advance(ReplicaState.STARTING, reason=f"its wall does not stand: {why}", pid=0))
        ending = asyncio.ensure_future(process.stop(self._means.drain_s))
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    async def close(self) -> None:
        """Stops everything; workers finish the batches they have."""
        self.apply(())
        tasks = [w.task for w in self._workers.values() if w.task is not None]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=self._means.drain_s + 5.0)
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
        self._means.report(slot.advance(ReplicaState.STARTING))

    async def _tend(self, worker: WorkerSlot) -> None:
        await WorkerLife(worker, self._means, self._remove).run()
        if self._workers.get(worker.worker_id) is worker:
            del self._workers[worker.worker_id]

    def _remove(self, worker: WorkerSlot, slot: ReplicaSlot) -> None:
        placement_id = slot.spec.placement_id
        if worker.replicas.get(placement_id) is slot:
            del worker.replicas[placement_id]
        known = self._slots.get(placement_id)
        if known is not None and known[1] is slot:
            del self._slots[placement_id]
        self._means.report(slot.advance(ReplicaState.STOPPED, memory_bytes=0))

    def _reply_gone(self, item: Queued) -> None:
        self._means.reply(item, Outcome(error=Unavailable("the replica is not standing; send the request again")))


def attestation_of(spec: link.PlacementSpec, read: Reattested) -> fleet_pb2.ReplicaAttestation:
    """A wall read again, as the wire has it."""
    return fleet_pb2.ReplicaAttestation(
        placement_id=spec.placement_id,
        tenant=spec.tenant,
        model=spec.model,
        version=spec.version,
        pid=read.pid,
        partition=convert.partition_to_proto(read.partition),
        ok=read.attestation.ok,
        wall=read.attestation.wall,
        reasons=read.attestation.reasons,
        checks=[fleet_pb2.WallCheck(what=c.what, expected=c.expected, seen=c.seen, ok=c.ok) for c in read.checks],
    )
