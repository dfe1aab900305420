"""MIG partitions in the simulator: placed, adopted, rolled back, diagnosed, never destroyed when foreign."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolation.devices.errors import DeviceForbidden, DeviceFull, DeviceLost, NvmlCode
from isolation.devices.facts import GpuInstance, MigDevice, MigPlacement
from isolation.devices.geometry import MigModel, Slot
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.devices.simulated_traits import GpuTraits
from isolation.partition.journal import Journal
from isolation.partition.mig import MigPartitioner, mig_partition_id, slot_of
from isolation.partition.partitioner import Observation
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import InvalidInput, NotReady

THREE_G_AT_4 = Slot(start=4, profile_id=9)


class Bench:
    def __init__(self, directory: Path, privileged: bool = True, traits: GpuTraits | None = None) -> None:
        self.clock = VirtualClock()
        self.gpu = SimulatedGpu(0, MigModel.H100_80, self.clock, traits)
        self.device = Device(self.gpu.uuid, DeviceKind.GPU, "H100", 80 << 30, 132)
        self.journal = Journal(directory / "partitions.json")
        self.library = SimulatedGpuLibrary([self.gpu], self.clock, privileged)
        self.partitioner = MigPartitioner(self.device, self.library, self.journal)

    def part(self, slot: Slot = THREE_G_AT_4, prefix: str = "") -> Partition:
        return Partition(mig_partition_id(prefix, slot), PartitionKind.MIG, self.gpu.uuid)

    def standing(self) -> tuple[GpuInstance, ...]:
        return self.library.gpu_instances(self.gpu.uuid)

    def devices(self) -> tuple[MigDevice, ...]:
        return self.library.mig_devices(self.gpu.uuid)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    made = Bench(tmp_path)
    made.partitioner.set_mode(True)
    return made


def test_a_partition_is_made_where_its_id_says_and_attested_by_uuid(bench: Bench) -> None:
    environment = bench.partitioner.prepare(bench.part()).environment
    (instance,), (device,) = bench.standing(), bench.devices()
    assert instance.placement == MigPlacement(4, 4)
    assert environment["CUDA_VISIBLE_DEVICES"] == device.uuid
    good = Observation(1, multiprocessors=60, device_uuid=device.uuid)
    assert bench.partitioner.attest(bench.part(), good).ok
    whole = Observation(1, multiprocessors=132, device_uuid=bench.gpu.uuid)
    assert len(bench.partitioner.attest(bench.part(), whole).reasons) == 2


def test_preparing_and_releasing_can_be_repeated(bench: Bench) -> None:
    first = bench.partitioner.prepare(bench.part())
    assert bench.partitioner.prepare(bench.part()) == first
    bench.partitioner.release(bench.part())
    bench.partitioner.release(bench.part())
    assert bench.standing() == ()
    assert bench.partitioner.attest(bench.part(), Observation(1)).reasons[0].startswith("no MIG device stands")


def test_a_foreign_instance_is_used_and_left_alone(bench: Bench) -> None:
    foreign = bench.library.create_gpu_instance(bench.gpu.uuid, 9, MigPlacement(4, 4))
    bench.library.create_compute_instance(bench.gpu.uuid, foreign.id)
    bench.partitioner.prepare(bench.part())
    bench.partitioner.release(bench.part())
    assert bench.standing() == (foreign,)


def test_a_foreign_instance_without_a_compute_instance_is_not_touched(bench: Bench) -> None:
    bench.library.create_gpu_instance(bench.gpu.uuid, 9, MigPlacement(4, 4))
    with pytest.raises(NotReady, match="somebody else's GPU instance"):
        bench.partitioner.prepare(bench.part())
    assert bench.devices() == ()


def test_a_foreign_instance_in_the_way_is_no_place(bench: Bench) -> None:
    bench.library.create_gpu_instance(bench.gpu.uuid, 19, MigPlacement(5, 1))
    with pytest.raises(DeviceFull):
        bench.partitioner.prepare(bench.part())
    assert not bench.journal.owns(f"{bench.gpu.uuid}/9@4")


class NoComputeInstances(SimulatedGpuLibrary):
    """A driver that makes GPU instances and then fails."""

    def create_compute_instance(self, gpu_uuid: str, gpu_instance: int) -> int:
        raise self.gpu(gpu_uuid).error(NvmlCode.INSUFFICIENT_RESOURCES, "create_compute_instance")


def test_a_half_made_instance_is_rolled_back(bench: Bench) -> None:
    failing = MigPartitioner(bench.device, NoComputeInstances([bench.gpu], bench.clock), bench.journal)
    with pytest.raises(DeviceFull):
        failing.prepare(bench.part())
    assert bench.standing() == ()
    assert not bench.journal.owns(f"{bench.gpu.uuid}/9@4")


def test_an_own_half_made_instance_is_completed_after_a_restart(bench: Bench) -> None:
    bench.journal.claim(f"{bench.gpu.uuid}/9@4")
    bench.library.create_gpu_instance(bench.gpu.uuid, 9, MigPlacement(4, 4))
    bench.partitioner.prepare(bench.part())
    assert len(bench.devices()) == 1


@pytest.mark.parametrize(("holder", "named"), [("process", "pids 77"), ("leak", "a monitor's open handle")])
def test_in_use_names_the_holders_and_keeps_the_state(bench: Bench, holder: str, named: str) -> None:
    bench.partitioner.prepare(bench.part())
    number = bench.standing()[0].id
    if holder == "process":
        bench.gpu.start_process(77, gpu_instance=number)
    else:
        bench.gpu.leak_handle(number)
    with pytest.raises(NotReady, match=named):
        bench.partitioner.release(bench.part())
    assert len(bench.devices()) == 1
    bench.gpu.end_process(77)
    bench.gpu.free_leaks()
    bench.partitioner.release(bench.part())
    assert bench.standing() == ()


def test_what_a_foreign_actor_destroyed_is_no_longer_ours(bench: Bench) -> None:
    bench.partitioner.prepare(bench.part())
    number = bench.standing()[0].id
    bench.library.destroy_compute_instance(bench.gpu.uuid, number, 0)
    bench.library.destroy_gpu_instance(bench.gpu.uuid, number)
    name = f"{bench.gpu.uuid}/9@4"
    assert bench.partitioner.forget_vanished() == (name,)
    assert bench.partitioner.forget_vanished() == ()
    foreign = bench.library.create_gpu_instance(bench.gpu.uuid, 9, MigPlacement(4, 4))
    bench.partitioner.release(bench.part())
    assert bench.standing() == (foreign,)


def test_mig_must_be_on(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    with pytest.raises(NotReady, match="MIG is off"):
        bench.partitioner.prepare(bench.part())


def test_the_mode_names_holders_or_asks_for_a_reset(tmp_path: Path) -> None:
    bench = Bench(tmp_path, traits=GpuTraits(needs_reset=True))
    with pytest.raises(NotReady, match="next reset"):
        bench.partitioner.set_mode(True)
    bench.gpu.start_process(5)
    with pytest.raises(NotReady, match="in use by pids 5"):
        bench.partitioner.set_mode(True)
    with pytest.raises(NotReady, match="a change is pending"):
        bench.partitioner.prepare(bench.part())


def test_without_privileges_what_stands_is_still_used(tmp_path: Path) -> None:
    bench = Bench(tmp_path, privileged=False)
    root = SimulatedGpuLibrary([bench.gpu], bench.clock)
    root.set_mig_mode(bench.gpu.uuid, True)
    with pytest.raises(DeviceForbidden):
        bench.partitioner.prepare(bench.part())
    made = root.create_gpu_instance(bench.gpu.uuid, 9, MigPlacement(4, 4))
    root.create_compute_instance(bench.gpu.uuid, made.id)
    assert bench.partitioner.prepare(bench.part()).environment["CUDA_VISIBLE_DEVICES"].startswith("MIG-")


def test_a_lost_gpu_is_told_apart(bench: Bench) -> None:
    bench.gpu.raise_xid(79)
    with pytest.raises(DeviceLost):
        bench.partitioner.prepare(bench.part())


@pytest.mark.parametrize(("partition_id", "message"), [("gpu0", "names no MIG slot"), ("mig-9-1", "cannot start at 1")])
def test_ids_that_name_no_slot(bench: Bench, partition_id: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        bench.partitioner.prepare(Partition(partition_id, PartitionKind.MIG, bench.gpu.uuid))


def test_ids_and_slots_round_trip(bench: Bench) -> None:
    assert slot_of(bench.part(prefix="node1/gpu0/")) == THREE_G_AT_4
    with pytest.raises(InvalidInput, match="makes MIG instances"):
        bench.partitioner.prepare(Partition("mig-9-4", PartitionKind.MPS, bench.gpu.uuid))
