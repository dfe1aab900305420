"""One contract for `Partitioner`, run against every kind."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from isolation.devices.geometry import MigModel
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.journal import Journal
from isolation.partition.mig import MigPartitioner
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_simulated import SimulatedMps
from isolation.partition.partitioner import Observation, Partitioner, WorkerConfinement
from isolation.partition.whole import WholePartitioner
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import InvalidInput

CPU = Device("cpu", DeviceKind.CPU, "CPU", 1 << 34, 4, (0, 1, 2, 3))
PID = 7


@dataclass
class Side:
    """A partitioner, a partition of its kind, and what a worker sees that took the confinement on."""

    partitioner: Partitioner
    partition: Partition
    start: Callable[[WorkerConfinement], Observation]
    end: Callable[[], None] = lambda: None


def cpuset(_: Path) -> Side:
    partition = Partition("p", PartitionKind.CPUSET, "cpu", (1, 2))
    return Side(CpusetPartitioner(CPU), partition, lambda c: Observation(PID, c.cores, c.threads))


def whole_cpu(_: Path) -> Side:
    partition = Partition("p", PartitionKind.WHOLE, "cpu")
    return Side(WholePartitioner(CPU), partition, lambda c: Observation(PID, c.cores, c.threads))


def h100() -> tuple[SimulatedGpu, SimulatedGpuLibrary, Device]:
    clock = VirtualClock()
    gpu = SimulatedGpu(0, MigModel.H100_80, clock)
    return gpu, SimulatedGpuLibrary([gpu], clock), Device(gpu.uuid, DeviceKind.GPU, "H100", 80 << 30, 132)


def whole_gpu(_: Path) -> Side:
    device = h100()[2]

    def start(given: WorkerConfinement) -> Observation:
        return Observation(PID, multiprocessors=132, device_uuid=given.environment["CUDA_VISIBLE_DEVICES"])

    return Side(WholePartitioner(device), Partition("p", PartitionKind.WHOLE, device.id), start)


def mps(tmp_path: Path) -> Side:
    gpu, library, device = h100()
    control = SimulatedMps(gpu, tmp_path / "pipe")

    def start(given: WorkerConfinement) -> Observation:
        return control.cuda_process(PID, given.environment)

    partition = Partition("p", PartitionKind.MPS, device.id, (), 25, 4 << 30)
    return Side(MpsPartitioner(device, control, library), partition, start, lambda: control.end_process(PID))


def mig(tmp_path: Path) -> Side:
    gpu, library, device = h100()
    library.set_mig_mode(gpu.uuid, True)

    def start(given: WorkerConfinement) -> Observation:
        uuid = given.environment["CUDA_VISIBLE_DEVICES"]
        (found,) = (shown for shown in library.mig_devices(gpu.uuid) if shown.uuid == uuid)
        gpu.start_process(PID, 0, gpu_instance=found.gpu_instance, compute_instance=found.compute_instance)
        return Observation(PID, multiprocessors=found.multiprocessors, device_uuid=uuid)

    partitioner = MigPartitioner(device, library, Journal(tmp_path / "partitions.json"))
    return Side(partitioner, Partition("mig-9-4", PartitionKind.MIG, device.id), start, lambda: gpu.end_process(PID))


@pytest.fixture(params=[cpuset, whole_cpu, whole_gpu, mps, mig])
def side(request: pytest.FixtureRequest, tmp_path: Path) -> Side:
    made: Side = request.param(tmp_path)
    return made


def test_a_worker_that_took_its_confinement_on_is_attested(side: Side) -> None:
    observed = side.start(side.partitioner.prepare(side.partition))
    verdict = side.partitioner.attest(side.partition, observed)
    assert verdict.ok, verdict.reasons
    assert verdict.reasons == ()
    assert verdict.wall


def test_a_worker_that_saw_nothing_is_not(side: Side) -> None:
    side.partitioner.prepare(side.partition)
    verdict = side.partitioner.attest(side.partition, Observation(PID))
    assert not verdict.ok
    assert verdict.reasons


def test_preparing_twice_is_preparing_once(side: Side) -> None:
    assert side.partitioner.prepare(side.partition) == side.partitioner.prepare(side.partition)


def test_attesting_changes_nothing(side: Side) -> None:
    observed = side.start(side.partitioner.prepare(side.partition))
    first = side.partitioner.attest(side.partition, observed)
    assert side.partitioner.attest(side.partition, observed) == first


def test_the_life_of_a_partition_can_be_lived_twice(side: Side) -> None:
    for _ in range(2):
        side.start(side.partitioner.prepare(side.partition))
        side.partitioner.before_kill(side.partition, PID)
        side.end()
        side.partitioner.release(side.partition)
        side.partitioner.release(side.partition)


def test_before_kill_never_raises(side: Side) -> None:
    side.partitioner.before_kill(side.partition, 999_999)


@pytest.mark.parametrize("change", [{"device_id": "elsewhere"}, {"kind": None}])
def test_another_kind_or_device_is_refused(side: Side, change: dict[str, object]) -> None:
    if "kind" in change:
        mine = side.partition.kind
        change = {"kind": next(kind for kind in PartitionKind if kind is not mine)}
    other = dataclasses.replace(side.partition, **change)  # type: ignore[arg-type]
    for verb in (side.partitioner.prepare, side.partitioner.release):
        with pytest.raises(InvalidInput) as caught:
            verb(other)
        assert caught.value.fields["field"] == "partition.kind"
    with pytest.raises(InvalidInput):
        side.partitioner.attest(other, Observation(PID))
