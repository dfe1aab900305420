"""Faults of simulated GPUs: told, and acted on as the fault table says."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from worker_support import until

from isolation.devices.facts import DeviceEvent, EventKind
from node_agent.device_watch import DeviceWatch
from node_agent.node import OpenNode, open_node
from node_agent.settings import AgentSettings
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, Partition, PartitionKind
from partywall.errors import NotReady, PermissionDenied
from partywall.v1 import agent_link_pb2 as link


@dataclass
class World:
    node: OpenNode
    events: list[link.AgentEvent] = field(default_factory=list)
    changes: list[tuple[Device, ...]] = field(default_factory=list)
    fenced: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.node.library is not None
        self.watch = DeviceWatch(
            self.node.library, self.node.authority, self.node.devices, self.events.append, self.changes.append,
            lambda device_id, why: self.fenced.append(device_id),
        )  # fmt: skip

    @property
    def gpu(self) -> str:
        return self.node.devices[0].id

    def xid(self, code: int) -> None:
        self.watch.handle(DeviceEvent(EventKind.XID, self.gpu, code))

    def share(self, name: str, percent: int) -> Partition:
        return Partition(name, PartitionKind.MPS, self.gpu, (), percent)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(open_node(AgentSettings(tmp_path, "n", "r:1", simulate_devices=("h100",)), VirtualClock()))


def test_an_application_fault_is_told_and_fences_nothing(world: World) -> None:
    world.node.authority.prepare(world.share("a", 50))
    world.xid(31)
    (event,) = world.events
    assert (event.kind, event.code, event.device_id) == ("device_fault", 31, world.gpu)
    assert "every worker on this GPU is hit" in event.message
    assert (world.changes, world.fenced) == ([], [])


def test_a_double_bit_error_drains_the_device(world: World) -> None:
    world.node.authority.prepare(world.share("a", 50))
    world.watch.handle(DeviceEvent(EventKind.ECC_DOUBLE_BIT, world.gpu))
    assert world.fenced == []
    (devices,) = world.changes
    assert "double-bit ECC" in devices[0].fenced
    assert devices[1].fenced == ""
    assert world.watch.devices == devices
    with pytest.raises(NotReady, match="fenced"):
        world.node.authority.prepare(world.share("b", 25))


def test_a_gpu_off_the_bus_is_fenced_and_its_workers_end(world: World) -> None:
    world.xid(79)
    assert world.fenced == [world.gpu]
    assert world.events[0].kind == "device_lost"


def test_a_corrected_error_is_a_note(world: World) -> None:
    world.watch.handle(DeviceEvent(EventKind.ECC_SINGLE_BIT, world.gpu))
    assert "nothing is lost" in world.events[0].message
    assert world.changes == []


async def test_what_the_driver_announces_arrives(world: World) -> None:
    assert world.node.simulated is not None
    control = world.node.simulated.mps[world.gpu]
    control.start()
    world.node.authority.prepare(world.share("a", 50))
    task = asyncio.create_task(world.watch.run())
    try:
        world.node.simulated.gpus[0].raise_xid(13)
        await until(lambda: len(world.events) == 1, "the Xid")
        control.cuda_process(4711, {"CUDA_MPS_PIPE_DIRECTORY": str(control.pipe_directory)})
        control.fault(4711)
        await until(lambda: len(world.events) == 2, "the MPS fault")
        assert world.events[1].kind == "mps_fault"
        world.node.simulated.gpus[0].raise_xid(79)
        await until(lambda: world.fenced == [world.gpu], "the lost GPU")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def test_a_layout_that_the_operator_changed_is_offered_anew(tmp_path: Path) -> None:
    node = open_node(AgentSettings(tmp_path, "n", "r:1", simulate_devices=("h100-mig",)), VirtualClock())
    assert node.library is not None
    gpu, changes = node.devices[0].id, list[tuple[Device, ...]]()
    watch = DeviceWatch(
        node.library, node.authority, node.devices, lambda event: None, changes.append, lambda device_id, why: None,
        node.offers,
    )  # fmt: skip
    instance = node.library.gpu_instances(gpu)[0]
    for compute in node.library.compute_instances(gpu, instance.id):
        node.library.destroy_compute_instance(gpu, instance.id, compute)
    node.library.destroy_gpu_instance(gpu, instance.id)
    watch.handle(DeviceEvent(EventKind.MIG_CHANGED, gpu))
    assert [(i.profile_id, i.start) for i in changes[-1][0].instances] == [(9, 4)]


def test_an_agent_that_only_observes_offers_what_stands(tmp_path: Path) -> None:
    settings = AgentSettings(tmp_path, "n", "r:1", simulate_devices=("h100", "h100-mig"), observe_only=True)
    node = open_node(settings, VirtualClock())
    plain, cut, cpu = node.devices
    assert (plain.kinds, cut.kinds) == ((PartitionKind.WHOLE,), (PartitionKind.MIG,))
    assert len(cut.instances) == 2
    assert "--observe-only" in plain.observed
    assert cpu.observed == "", "affinity is a process's own matter"
    assert PartitionKind.CPUSET in cpu.kinds
    node.authority.prepare(Partition("w", PartitionKind.WHOLE, plain.id))
    slot = cut.instances[0]
    name = f"p-mig-{slot.profile_id}-{slot.start}"
    node.authority.prepare(Partition(name, PartitionKind.MIG, cut.id))
    node.authority.release(name)
    assert node.offers(cut).instances == cut.instances
    with pytest.raises(PermissionDenied, match="--observe-only"):
        node.authority.prepare(Partition("a", PartitionKind.MPS, plain.id, (), 50))


async def test_a_device_that_turns_out_to_be_forbidden_offers_less_and_says_so(tmp_path: Path) -> None:
    node = open_node(AgentSettings(tmp_path, "n", "r:1", simulate_devices=("h100",)), VirtualClock())
    world = World(node)
    world.watch = DeviceWatch(
        node.library, node.authority, node.devices, world.events.append, world.changes.append,  # type: ignore[arg-type]
        lambda device_id, why: None, node.offers,
    )  # fmt: skip
    assert PartitionKind.MPS in world.watch.devices[0].kinds
    node.authority.observe(world.gpu, "no permission")
    task = asyncio.create_task(world.watch.run())
    try:
        await until(lambda: bool(world.changes), "the report")
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    assert world.changes[0][0].kinds == (PartitionKind.WHOLE,)
    assert (world.changes[0][0].observed, world.events[0].kind) == ("no permission", "device_observed")
    assert len(world.events) == 1
