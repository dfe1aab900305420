"""A simulated node that can be killed at any step: two H100s, one in MIG mode and one behind MPS, and a CPU."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from isolation.devices.facts import GpuInstance
from isolation.devices.geometry import MigGeometry, MigModel, Slot
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.partition.authority import DeviceAuthority, Partitioners
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.journal import Journal
from isolation.partition.mig import MigPartitioner, mig_partition_id
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_simulated import SimulatedMps
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind

GIB = 1 << 30
CPU = Device("cpu", DeviceKind.CPU, "CPU", 16 * GIB, 4, (0, 1, 2, 3))
GEOMETRY = MigGeometry(MigModel.H100_80)
# The journal syncs each change to the disk: in memory thousands of them take a second and not minutes.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108
MUTATIONS = (
    "create_gpu_instance",
    "create_compute_instance",
    "destroy_gpu_instance",
    "destroy_compute_instance",
)


class Killed(BaseException):
    """SIGKILL: no handler of ours may run."""


class Fuse:
    """Kills at the n-th step from now; the steps are writes of the journal and changes of the hardware, before and
    after each."""

    def __init__(self) -> None:
        self.left: int | None = None

    def burn(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left < 0:
            self.left = None
            raise Killed


class FusedJournal(Journal):
    def __init__(self, path: Path, fuse: Fuse) -> None:
        self._fuse = fuse
        super().__init__(path)

    def _write(self) -> None:
        self._fuse.burn()
        try:
            self._fuse.burn()
        except Killed:
            self._path.with_suffix(".new").write_text('{"format": 1, "entr')
            raise
        super()._write()
        self._fuse.burn()


class FusedLibrary(SimulatedGpuLibrary):
    def __init__(self, gpu: SimulatedGpu, clock: VirtualClock, fuse: Fuse) -> None:
        super().__init__([gpu], clock)
        for name in MUTATIONS:
            setattr(self, name, self._fused(getattr(self, name), fuse))

    @staticmethod
    def _fused(verb: Callable[..., Any], fuse: Fuse) -> Callable[..., Any]:
        def fused(*arguments: Any) -> Any:
            fuse.burn()
            result = verb(*arguments)
            fuse.burn()
            return result

        return fused


class Node:
    """Two H100s, one in MIG mode and one behind MPS, and a CPU."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clock = VirtualClock()
        self.sliced = SimulatedGpu(0, MigModel.H100_80, self.clock)
        self.shared = SimulatedGpu(1, MigModel.H100_80, self.clock)
        self.mps = SimulatedMps(self.shared, directory / "pipe")
        self.foreign = SimulatedGpuLibrary([self.sliced], self.clock)
        self.foreign.set_mig_mode(self.sliced.uuid, True)
        self.fuse = Fuse()
        self.restart()

    def restart(self) -> None:
        self.fuse.left = None
        sliced = Device(self.sliced.uuid, DeviceKind.GPU, "H100", 80 * GIB, 132)
        shared = Device(self.shared.uuid, DeviceKind.GPU, "H100", 80 * GIB, 132)
        self.journal = FusedJournal(self.directory / "partitions.json", self.fuse)
        library = FusedLibrary(self.sliced, self.clock, self.fuse)
        partitioners: Partitioners = {
            (CPU.id, PartitionKind.CPUSET): CpusetPartitioner(CPU),
            (sliced.id, PartitionKind.MIG): MigPartitioner(sliced, library, self.journal),
            (shared.id, PartitionKind.MPS): MpsPartitioner(
                shared, self.mps, SimulatedGpuLibrary([self.shared], self.clock)
            ),
        }
        self.authority = DeviceAuthority([sliced, shared, CPU], partitioners, self.journal)

    def mig(self, slot: Slot) -> Partition:
        return Partition(mig_partition_id("", slot), PartitionKind.MIG, self.sliced.uuid)

    def share(self, number: int, percent: int, memory_gib: int) -> Partition:
        return Partition(f"mps-{number}", PartitionKind.MPS, self.shared.uuid, (), percent, memory_gib * GIB)

    def instances(self) -> tuple[GpuInstance, ...]:
        return self.foreign.gpu_instances(self.sliced.uuid)

    def try_release_foreign(self, instance: GpuInstance) -> None:
        for compute in self.foreign.compute_instances(self.sliced.uuid, instance.id):
            self.foreign.destroy_compute_instance(self.sliced.uuid, instance.id, compute)
        self.foreign.destroy_gpu_instance(self.sliced.uuid, instance.id)


def cores(number: int, wanted: frozenset[int]) -> Partition:
    return Partition(f"cpu-{number}", PartitionKind.CPUSET, CPU.id, tuple(sorted(wanted)))
