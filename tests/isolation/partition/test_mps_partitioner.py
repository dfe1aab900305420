"""MPS shares end to end in the simulator: prepare, start with that environment, attest; and every way it can lie."""

from __future__ import annotations

from pathlib import Path

import pytest

from isolation.devices.facts import ProcessKind
from isolation.devices.geometry import MigModel
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.partition.mps import MpsPartitioner
from isolation.partition.mps_simulated import (
    CLIENT_LIMIT,
    INVALID_RESOURCE_CONFIGURATION,
    MAX_CLIENTS,
    SERVER_NOT_READY,
    CudaError,
    SimulatedMps,
)
from isolation.partition.partitioner import Observation
from partywall.clock import VirtualClock
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import InvalidInput, NotReady

GIB = 1 << 30


class Bench:
    """One simulated H100 with its daemon and partitioner."""

    def __init__(self, directory: Path, exclusive_sms: bool = False) -> None:
        clock = VirtualClock()
        self.gpu = SimulatedGpu(0, MigModel.H100_80, clock)
        self.mps = SimulatedMps(self.gpu, directory / "pipe", static=exclusive_sms)
        self.device = Device(self.gpu.uuid, DeviceKind.GPU, "H100", 80 * GIB, 132)
        self.library = SimulatedGpuLibrary([self.gpu], clock)
        self.partitioner = MpsPartitioner(self.device, self.mps, self.library, exclusive_sms)

    def part(self, share: int, memory_bytes: int = 0, name: str = "p") -> Partition:
        return Partition(name, PartitionKind.MPS, self.gpu.uuid, (), share, memory_bytes)

    def start(self, partition: Partition, pid: int = 1) -> Observation:
        environment = self.partitioner.prepare(partition).environment
        return self.mps.cuda_process(pid, {k: v for k, v in environment.items() if v})


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


@pytest.mark.parametrize(("share", "multiprocessors"), [(25, 32), (50, 66), (75, 98), (100, 132)])
def test_shares_show_the_sm_counts_measured_on_an_h100(bench: Bench, share: int, multiprocessors: int) -> None:
    observed = bench.start(bench.part(share))
    assert observed.multiprocessors == multiprocessors
    verdict = bench.partitioner.attest(bench.part(share), observed)
    assert verdict.ok, verdict.reasons
    assert verdict.wall.startswith(f"mps: {multiprocessors} of 132 SMs")


def test_a_silent_fall_through_is_found_out(bench: Bench) -> None:
    partition = bench.part(25)
    bench.partitioner.prepare(partition)
    observed = bench.mps.cuda_process(1, {"CUDA_MPS_PIPE_DIRECTORY": "/elsewhere"})
    verdict = bench.partitioner.attest(partition, observed)
    assert not verdict.ok
    assert "sees all 132 SMs instead of 32: it is not attached to its MPS daemon" in verdict.reasons
    assert bench.partitioner.strangers() == (1,)


def test_a_daemon_that_died_before_the_worker_started_is_found_out(bench: Bench) -> None:
    partition = bench.part(100, name="all")
    bench.partitioner.prepare(partition)
    bench.mps.crash()
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(bench.mps.pipe_directory)}
    verdict = bench.partitioner.attest(partition, bench.mps.cuda_process(1, environment))
    assert verdict.reasons == ("pid 1 is no client of the MPS daemon",)


def test_a_memory_cap_is_probed_and_holds(bench: Bench) -> None:
    partition = bench.part(50, 2 * GIB)
    observed = bench.start(partition)
    assert bench.partitioner.attest(partition, observed).ok
    assert bench.mps.allocate(1, GIB)
    assert not bench.mps.allocate(1, 6 * GIB)
    unprobed = Observation(1, multiprocessors=66, device_uuid=bench.gpu.uuid)
    assert "no allocation probe" in bench.partitioner.attest(partition, unprobed).reasons[0]
    granted = Observation(1, multiprocessors=66, device_uuid=bench.gpu.uuid, probe_refused=False)
    assert "was granted" in bench.partitioner.attest(partition, granted).reasons[0]
    roomy = Observation(
        1, multiprocessors=66, device_uuid=bench.gpu.uuid, probe_refused=True, device_memory_bytes=3 * GIB
    )
    assert "could be had" in bench.partitioner.attest(partition, roomy).reasons[0]


def test_a_slow_control_channel_leaves_the_verdict_to_the_driver(bench: Bench) -> None:
    partition = bench.part(25)
    observed = bench.start(partition)
    with bench.mps.slow_query():
        assert bench.partitioner.attest(partition, observed).ok
        bench.partitioner.before_kill(partition, 1)
        bench.gpu.raise_xid(79)
        verdict = bench.partitioner.attest(partition, observed)
    assert verdict.reasons == ("neither the MPS daemon nor the driver told its clients; ask again",)


def test_a_share_is_fixed_when_the_client_starts(bench: Bench) -> None:
    small = bench.start(bench.part(25, name="small"), pid=1)
    large = bench.start(bench.part(75, name="large"), pid=2)
    assert (small.multiprocessors, large.multiprocessors) == (32, 98)
    assert not bench.partitioner.attest(bench.part(50, name="small"), small).ok


def test_before_a_kill_the_contexts_go(bench: Bench) -> None:
    partition = bench.part(25)
    bench.start(partition)
    bench.partitioner.before_kill(partition, 1)
    assert bench.mps.clients() == ()


def test_the_daemon_ends_with_its_last_partition_and_never_under_clients(bench: Bench) -> None:
    one, two = bench.part(25, name="one"), bench.part(25, name="two")
    bench.start(one)
    bench.partitioner.prepare(two)
    bench.partitioner.release(one)
    bench.partitioner.release(two)
    assert bench.mps.alive(), "pid 1 is still a client"
    bench.mps.end_process(1)
    bench.partitioner.release(two)
    assert not bench.mps.alive()


def test_a_new_process_of_ours_does_not_stop_a_daemon_with_clients(bench: Bench) -> None:
    bench.start(bench.part(25, name="one"))
    successor = MpsPartitioner(bench.device, bench.mps, bench.library)
    successor.release(bench.part(25, name="unknown"))
    assert bench.mps.clients() == (1,)


def test_the_client_limit_and_a_foreign_user_are_cuda_errors(bench: Bench) -> None:
    partition = bench.part(1)
    for pid in range(CLIENT_LIMIT):
        bench.start(partition, pid)
    with pytest.raises(CudaError) as caught:
        bench.start(partition, 999)
    assert caught.value.code == MAX_CLIENTS
    environment = {"CUDA_MPS_PIPE_DIRECTORY": str(bench.mps.pipe_directory)}
    with pytest.raises(CudaError) as caught:
        bench.mps.cuda_process(1000, environment, uid=4711)
    assert caught.value.code == SERVER_NOT_READY


def test_a_documented_fault_hits_everybody_and_refuses_newcomers(bench: Bench) -> None:
    partition = bench.part(25)
    for pid in (1, 2):
        bench.start(partition, pid)
    assert bench.mps.fault(1) == (1, 2)
    with pytest.raises(CudaError) as caught:
        bench.start(partition, 3)
    assert caught.value.code == SERVER_NOT_READY
    bench.mps.end_process(1)
    bench.mps.end_process(2)
    assert bench.start(partition, 3).multiprocessors == 32


def test_a_benign_fault_hits_only_its_cause(bench: Bench) -> None:
    for pid in (1, 2):
        bench.start(bench.part(25), pid)
    assert bench.mps.fault(1, benign=True) == (1,)
    assert bench.start(bench.part(25), 3).multiprocessors == 32


def test_static_partitions_are_disjoint_and_mandatory(tmp_path: Path) -> None:
    bench = Bench(tmp_path, exclusive_sms=True)
    half = bench.part(50, name="half")
    observed = bench.start(half)
    assert observed.multiprocessors == 64
    verdict = bench.partitioner.attest(half, observed)
    assert verdict.ok, verdict.reasons
    with pytest.raises(NotReady, match="8 are free"):
        bench.partitioner.prepare(bench.part(75, name="more"))
    with pytest.raises(CudaError) as caught:
        bench.mps.cuda_process(9, {"CUDA_MPS_PIPE_DIRECTORY": str(bench.mps.pipe_directory)})
    assert caught.value.code == INVALID_RESOURCE_CONFIGURATION
    with pytest.raises(NotReady, match="has clients"):
        bench.partitioner.release(half)
    bench.mps.end_process(1)
    bench.partitioner.release(half)
    assert not bench.mps.alive()


def test_lost_static_partitions_do_not_leak(tmp_path: Path) -> None:
    bench = Bench(tmp_path, exclusive_sms=True)
    bench.partitioner.prepare(bench.part(75))
    successor = MpsPartitioner(bench.device, bench.mps, bench.library, exclusive_sms=True)
    successor.prepare(bench.part(75))


@pytest.mark.parametrize("share", [0, 101])
def test_a_share_is_one_to_a_hundred(bench: Bench, share: int) -> None:
    with pytest.raises(InvalidInput, match="give it 1 to 100"):
        bench.partitioner.prepare(bench.part(share))


def test_mps_needs_a_gpu_and_its_own_kind(bench: Bench) -> None:
    with pytest.raises(InvalidInput, match="needs a GPU"):
        MpsPartitioner(Device("cpu", DeviceKind.CPU, "cpu", 1, 1), bench.mps, bench.library)
    with pytest.raises(InvalidInput, match="shares"):
        bench.partitioner.prepare(Partition("x", PartitionKind.WHOLE, bench.gpu.uuid))


def test_strangers_are_those_past_the_daemon(bench: Bench) -> None:
    bench.start(bench.part(25), pid=1)
    bench.gpu.start_process(66)
    assert bench.partitioner.strangers() == (66,)
    assert bench.library.processes(bench.gpu.uuid)[0].kind is ProcessKind.MPS
