"""Partitions that rest and are roused, in any order: what is given out of a device never exceeds it."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fused_node import MEMORY
from hypothesis import given
from hypothesis import strategies as st

from isolation.devices.geometry import MigModel
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.partition.authority import DeviceAuthority
from isolation.partition.journal import Journal
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_simulated import SimulatedMps
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import PartywallError

GIB = 1 << 30

steps = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.integers(0, 4), st.integers(1, 100), st.integers(1, 60)),
        st.tuples(st.sampled_from(["rest", "rouse", "release"]), st.integers(0, 4), st.just(0), st.just(0)),
    ),
    max_size=25,
)


@given(steps=steps)
def test_what_computes_never_exceeds_the_device(steps: list[tuple[str, int, int, int]]) -> None:
    clock = VirtualClock()
    gpu = SimulatedGpu(0, MigModel.H100_80, clock)
    device = Device(gpu.uuid, DeviceKind.GPU, "H100", 80 * GIB, 132)
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        library = SimulatedGpuLibrary([gpu], clock)
        mps = MpsPartitioner(device, SimulatedMps(gpu, Path(folder) / "pipe"), library)
        journal = Journal(Path(folder) / "partitions.json")
        authority = DeviceAuthority([device], {(gpu.uuid, PartitionKind.MPS): mps}, journal, time_shared=True)
        for what, number, share, gib in steps:
            name = f"p{number}"
            try:
                if what == "make":
                    authority.prepare(Partition(name, PartitionKind.MPS, gpu.uuid, (), share, gib * GIB))
                else:
                    getattr(authority, what)(name)
            except PartywallError:
                continue  # a refusal is fine; what stands afterwards is judged
            finally:
                given_out = authority.account(gpu.uuid)
                assert given_out.share_percent <= 100
                assert given_out.memory_bytes <= device.memory_bytes
