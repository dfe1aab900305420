"""A simulated node, one H100 and a CPU, and its authority."""

from __future__ import annotations

from pathlib import Path

from isolation.devices.geometry import MigModel
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.partition.authority import DeviceAuthority, Partitioners
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.journal import Journal
from isolation.partition.mig import MigPartitioner
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_simulated import SimulatedMps
from isolation.partition.whole import WholePartitioner
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind

GIB = 1 << 30
CPU = Device("cpu", DeviceKind.CPU, "CPU", 16 * GIB, 4, (0, 1, 2, 3))


class Node:
    """A simulated node: one H100 and a CPU. `restart` is a new process over the same disk and devices."""

    def __init__(self, directory: Path, privileged: bool = True) -> None:
        self.directory = directory
        self.clock = VirtualClock()
        self.gpu = SimulatedGpu(0, MigModel.H100_80, self.clock)
        self.mps = SimulatedMps(self.gpu, directory / "pipe")
        self.privileged = privileged
        self.restart()

    def restart(self) -> None:
        device = Device(self.gpu.uuid, DeviceKind.GPU, "H100", 80 * GIB, 132)
        library = SimulatedGpuLibrary([self.gpu], self.clock, self.privileged)
        self.journal = Journal(self.directory / "partitions.json")
        partitioners: Partitioners = {
            (CPU.id, PartitionKind.CPUSET): CpusetPartitioner(CPU),
            (CPU.id, PartitionKind.WHOLE): WholePartitioner(CPU),
            (device.id, PartitionKind.WHOLE): WholePartitioner(device),
            (device.id, PartitionKind.MPS): MpsPartitioner(device, self.mps, library),
            (device.id, PartitionKind.MIG): MigPartitioner(device, library, self.journal),
        }
        self.authority = DeviceAuthority([device, CPU], partitioners, self.journal)

    def root(self) -> SimulatedGpuLibrary:
        return SimulatedGpuLibrary([self.gpu], self.clock)

    def share(self, name: str, percent: int) -> Partition:
        return Partition(name, PartitionKind.MPS, self.gpu.uuid, (), percent)

    def mig(self, slot: str) -> Partition:
        return Partition(f"mig-{slot}", PartitionKind.MIG, self.gpu.uuid)


def cores(name: str, *numbers: int) -> Partition:
    return Partition(name, PartitionKind.CPUSET, "cpu", numbers)
