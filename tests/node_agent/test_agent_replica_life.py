"""A released replica as the agent sees it: parked and woken in its worker, with the account of its device kept true."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import structlog

from node_agent.artifacts import Artifacts
from node_agent.lifecycle import WorkerLife
from node_agent.means import Means
from node_agent.replica_life import WEIGHTS_GONE, WEIGHTS_KEPT, ReplicaLife
from node_agent.runner import Runner
from node_agent.sealed_memory import SealedMemory
from node_agent.settings import QueueDiscipline
from node_agent.slots import ReplicaSlot, WorkerSlot
from node_agent.work import LoadResult, ParkResult, WorkerExit
from partywall.clock import SystemClock
from partywall.domain.fleet import Partition, PartitionKind, ReplicaState, ReplicaStatus
from partywall.domain.models import Signature
from partywall.errors import NotReady, PartywallError, QuotaExceeded, Reason, Unavailable
from partywall.v1 import agent_link_pb2 as link
from partywall.v1 import worker_pb2

SHARE = Partition("p", PartitionKind.MPS, "GPU-1", share_percent=25)
KEPT = ParkResult(True, host_bytes=100, moved_bytes=100, seconds=0.5, pinned=True)


@dataclass
class Process:
    """A worker that answers as it is told."""

    parks: ParkResult | PartywallError = KEPT
    loads: list[LoadResult | PartywallError] = field(default_factory=list)
    requests: list[worker_pb2.LoadReplica] = field(default_factory=list)
    unloaded: list[int] = field(default_factory=list)
    alive: bool = True
    pid: int = 7
    attested: dict[str, str] = field(default_factory=dict)
    closed: asyncio.Future[WorkerExit] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def load(self, request: worker_pb2.LoadReplica) -> LoadResult:
        self.requests.append(request)
        found = self.loads.pop(0) if self.loads else LoadResult(request.handle, Signature(open=True), 100, 2.0)
        if isinstance(found, PartywallError):
            raise found
        return found

    async def park(self, handle: int) -> ParkResult:
        if isinstance(self.parks, PartywallError):
            raise self.parks
        return self.parks

    async def unload(self, handle: int) -> None:
        self.unloaded.append(handle)


@dataclass
class Account:
    """Who rests and who was roused; `full`: others have the room."""

    said: list[str] = field(default_factory=list)
    full: bool = False

    async def rest(self, worker_id: str) -> None:
        self.said.append("rest")

    async def rouse(self, worker_id: str) -> None:
        self.said.append("rouse")
        if self.full:
            raise NotReady("shares would add up to 125 %", reason=Reason.NO_PLACE)


class Road:
    """One worker with one replica and everything around them."""

    def __init__(self, folder: Path) -> None:
        self.process, self.account = Process(), Account()
        self.reported: list[ReplicaStatus] = []
        artifacts = Artifacts(folder, folder, None, SealedMemory(0))  # type: ignore[arg-type]
        self.means = Means(
            self.spawn,  # type: ignore[arg-type]
            artifacts,
            QueueDiscipline.EDF,
            SystemClock(),
            lambda item, outcome: None,
            self.reported.append,
            0.0,
            rooms=self.account,
        )
        self.slot = ReplicaSlot(
            link.PlacementSpec(placement_id="place", artifact_id="a"), 1, ReplicaStatus("place", ReplicaState.STARTING)
        )
        self.worker = WorkerSlot("w", SHARE, {"place": self.slot})
        self.spawned = 0
        (folder / "a").mkdir()
        runner = Runner(self.process, self.means.discipline, self.means.clock, self.means.reply)  # type: ignore[arg-type]
        self.life = ReplicaLife(self.worker, self.means, self.process, runner)  # type: ignore[arg-type]

    async def spawn(self, worker_id: str, partition: Partition) -> Process:
        self.spawned += 1
        return self.process

    @property
    def status(self) -> ReplicaStatus:
        return self.slot.status


@pytest.fixture
async def road(tmp_path: Path) -> Road:
    return Road(tmp_path)


async def test_parked_weights_are_reported_with_what_they_hold_and_the_partition_rests(road: Road) -> None:
    await road.life.load(road.slot)
    assert road.status.load_seconds == 2.0
    await road.life.park(road.slot)
    assert (road.status.state, road.status.reason) == (ReplicaState.STOPPED, WEIGHTS_KEPT)
    assert (road.status.memory_bytes, road.status.wake_bytes, road.status.wake_seconds) == (100, 100, 0.5)
    assert road.account.said == ["rouse", "rest"]


async def test_waking_is_measured_apart_from_loading_and_reads_no_file(road: Road) -> None:
    await road.life.load(road.slot)
    await road.life.park(road.slot)
    road.process.loads = [LoadResult(1, Signature(open=True), 100, 0.01, woken_bytes=100, wake_seconds=0.004)]
    await road.life.load(road.slot)
    assert road.status.state is ReplicaState.READY
    assert (road.status.load_seconds, road.status.wake_seconds, road.status.wake_bytes) == (2.0, 0.004, 100)
    assert road.process.requests[0].sealed_dir
    assert not road.process.requests[1].sealed_dir
    await road.life.park(road.slot)
    assert road.status.wake_seconds == 0.004, "a measured way back counts more than the way there"


async def test_weights_wait_while_others_have_the_room(road: Road) -> None:
    await road.life.load(road.slot)
    await road.life.park(road.slot)
    road.account.full = True
    await road.life.load(road.slot)
    assert (road.status.state, road.status.permanent) == (ReplicaState.FAILED, False)
    assert "125 %" in road.status.reason
    assert road.slot.parked
    assert len(road.process.requests) == 1, "the worker was not asked"
    road.account.full = False
    await road.life.load(road.slot)
    assert road.status.state is ReplicaState.READY


async def test_a_device_without_room_leaves_the_weights_parked_and_the_partition_at_rest(road: Road) -> None:
    await road.life.load(road.slot)
    await road.life.park(road.slot)
    road.process.loads = [QuotaExceeded("the partition's memory is full", reason=Reason.OUT_OF_MEMORY)]
    await road.life.load(road.slot)
    assert road.status.state is ReplicaState.FAILED
    assert road.slot.parked
    assert road.account.said[-2:] == ["rouse", "rest"]
    await road.life.park(road.slot)
    assert (road.status.state, road.status.reason, road.status.memory_bytes) == (
        ReplicaState.STOPPED,
        WEIGHTS_KEPT,
        100,
    )


async def test_what_cannot_be_parked_is_unloaded_with_the_reason(road: Road) -> None:
    await road.life.load(road.slot)
    road.process.parks = ParkResult(False, "ProbeModel does not move its weights off a device")
    await road.life.park(road.slot)
    assert (road.status.state, road.status.memory_bytes) == (ReplicaState.STOPPED, 0)
    assert road.status.reason.startswith("released and unloaded: ProbeModel does not move")
    assert "rest" not in road.account.said
    await road.life.park(road.slot)
    assert "ProbeModel" in road.status.reason, "the reason stays"
    await road.life.drop(road.slot)
    assert road.process.unloaded == []


async def test_a_worker_that_ends_while_parking_is_no_error(road: Road) -> None:
    await road.life.load(road.slot)
    road.process.parks = Unavailable("worker w ended", reason=Reason.WORKER_DIED)
    await road.life.park(road.slot)
    assert road.status.state is ReplicaState.DRAINING
    assert road.slot.loaded


async def test_pageable_memory_is_said_once_on_a_node(road: Road) -> None:
    road.process.parks = ParkResult(True, host_bytes=5, moved_bytes=5, seconds=0.1)
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            await road.life.load(road.slot)
            await road.life.park(road.slot)
    assert len([one for one in logs if "pageable" in one["event"]]) == 1


async def test_nothing_moves_on_a_cpu_and_nothing_is_said_of_a_way_back(road: Road) -> None:
    road.process.parks = ParkResult(True, host_bytes=5)
    with structlog.testing.capture_logs() as logs:
        await road.life.load(road.slot)
        await road.life.park(road.slot)
    assert (road.status.wake_bytes, road.status.wake_seconds, road.status.memory_bytes) == (0, 0.0, 5)
    assert not [one for one in logs if "pageable" in one["event"]]


async def test_without_a_process_there_is_nothing_to_park_and_none_is_started_for_it(road: Road) -> None:
    road.slot.spec.parked = True
    removed: list[ReplicaSlot] = []

    def gone(worker: WorkerSlot, slot: ReplicaSlot) -> None:
        removed.append(slot)
        worker.replicas.pop(slot.spec.placement_id, None)

    task = asyncio.create_task(WorkerLife(road.worker, road.means, gone).run())
    await _turns()
    assert (road.status.state, road.status.reason, road.status.memory_bytes) == (ReplicaState.STOPPED, WEIGHTS_GONE, 0)
    road.slot.wanted = False
    road.worker.changed.set()
    await asyncio.wait_for(task, 5)
    assert removed == [road.slot]
    assert road.spawned == 0


async def test_a_worker_that_dies_with_parked_weights_is_not_started_again(road: Road) -> None:
    def gone(worker: WorkerSlot, slot: ReplicaSlot) -> None:
        worker.replicas.pop(slot.spec.placement_id, None)

    task = asyncio.create_task(WorkerLife(road.worker, road.means, gone).run())
    await _turns()
    assert road.status.state is ReplicaState.READY
    road.slot.spec.parked = True
    road.worker.changed.set()
    await _turns()
    assert road.status.memory_bytes == 100
    road.process.closed.set_result(WorkerExit("w", 7, -9, "killed by signal 9"))
    await _turns()
    assert (road.status.state, road.status.reason, road.status.memory_bytes) == (ReplicaState.STOPPED, WEIGHTS_GONE, 0)
    assert road.spawned == 1
    road.slot.wanted = False
    road.worker.changed.set()
    await asyncio.wait_for(task, 5)


async def _turns(count: int = 10) -> None:
    for _ in range(count):
        await asyncio.sleep(0)
