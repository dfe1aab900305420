"""The authority of a real machine, put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolation.devices.geometry import MigModel
from isolation.devices.inventory import inventory
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.devices.simulated_traits import GpuTraits
from isolation.partition.assembly import node_authority
from partywall.clock import VirtualClock
from partywall.domain.fleet import Partition, PartitionKind
from partywall.errors import InvalidInput, NotReady


def test_this_machines_cpu_can_be_shared(tmp_path: Path) -> None:
    (cpu,) = inventory(None)
    authority = node_authority([cpu], None, tmp_path)
    partition = Partition("p", PartitionKind.CPUSET, cpu.id, cpu.cores[:1])
    assert authority.prepare(partition).cores == cpu.cores[:1]
    assert node_authority([cpu], None, tmp_path).partitions() == (partition,)


@pytest.mark.parametrize("mig_capable", [True, False])
def test_a_gpu_gets_mig_only_where_it_has_it(tmp_path: Path, mig_capable: bool) -> None:
    clock = VirtualClock()
    gpu = SimulatedGpu(0, MigModel.H100_80, clock, GpuTraits(mig_capable=mig_capable))
    library = SimulatedGpuLibrary([gpu], clock)
    authority = node_authority(inventory(library), library, tmp_path, run_directory=Path("/tmp/pw"))  # noqa: S108
    expected = "MIG is off" if mig_capable else "nothing on this node makes mig"
    with pytest.raises((NotReady, InvalidInput), match=expected):
        authority.prepare(Partition("mig-9-4", PartitionKind.MIG, gpu.uuid))
