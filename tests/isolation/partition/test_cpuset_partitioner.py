"""Cores by affinity, threads to match, memory by RLIMIT_DATA: taken on by a real process and attested."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from isolation.devices.cpu import cpu_device
from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.partitioner import Observation
from isolation.partition.whole import WholePartitioner
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import InvalidInput

MIB = 1 << 20
CPU = Device("cpu", DeviceKind.CPU, "a CPU", 1 << 34, 4, (0, 1, 2, 3))

CHILD = """
import json, os, sys
from isolation.partition.confine import confine_self, observe_self
from isolation.partition.partitioner import WorkerConfinement
base = confine_self(WorkerConfinement(**json.loads(sys.argv[1])))
seen = observe_self(base, int(os.environ["OMP_NUM_THREADS"]))
refused = False
try:
    block = bytearray(int(sys.argv[2]))
except MemoryError:
    refused = True
print(json.dumps({"cores": seen.cores, "threads": seen.threads, "limit": seen.memory_limit_bytes, "refused": refused}))
"""


def part(cores: tuple[int, ...] = (1,), memory_bytes: int = 0, **changes: object) -> Partition:
    values = {"id": "p", "kind": PartitionKind.CPUSET, "device_id": "cpu", "cores": cores, "memory_bytes": memory_bytes}
    return Partition(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(("asked_bytes", "refused"), [(16 * MIB, False), (256 * MIB, True)])
def test_a_process_under_confinement_sees_its_wall(asked_bytes: int, refused: bool) -> None:
    core = min(os.sched_getaffinity(0))
    partitioner = CpusetPartitioner(cpu_device())
    partition = part((core,), 64 * MIB)
    given = partitioner.prepare(partition)
    argument = json.dumps(
        {
            "cores": list(given.cores),
            "threads": given.threads,
            "memory_bytes": given.memory_bytes,
            "environment": dict(given.environment),
        }
    )
    done = subprocess.run(
        [sys.executable, "-c", CHILD, argument, str(asked_bytes)], capture_output=True, timeout=60, check=True
    )
    seen = json.loads(done.stdout)
    assert seen["refused"] is refused
    observed = Observation(1, tuple(seen["cores"]), seen["threads"], seen["limit"])
    verdict = partitioner.attest(partition, observed)
    assert verdict.ok, verdict.reasons
    assert verdict.wall == f"cpuset: cores {core} by affinity, 64 MiB by RLIMIT_DATA"


@pytest.mark.parametrize(
    ("observed", "reason"),
    [
        (Observation(1, (0, 1), 1, MIB), "affinity is (0, 1), not (1,)"),
        (Observation(1, None, 1, MIB), "affinity is None"),
        (Observation(1, (1,), 2, MIB), "2 threads on 1 cores"),
        (Observation(1, (1,), 1, None), "memory limit is None"),
        (Observation(1, (1,), 1, 2 * MIB), "memory limit is 2097152"),
    ],
)
def test_a_mismatch_is_refused_with_its_reason(observed: Observation, reason: str) -> None:
    verdict = CpusetPartitioner(CPU).attest(part((1,), MIB), observed)
    assert not verdict.ok
    assert reason in verdict.reasons[0]


@pytest.mark.parametrize(
    ("partition", "field"),
    [
        (part((7,)), "partition.cores"),
        (part(()), "partition.cores"),
        (part(kind=PartitionKind.MPS), "partition.kind"),
        (part(device_id="gpu"), "partition.kind"),
    ],
)
def test_what_is_not_on_this_cpu_is_refused(partition: Partition, field: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        CpusetPartitioner(CPU).prepare(partition)
    assert caught.value.fields["field"] == field


def test_cpuset_needs_a_cpu() -> None:
    with pytest.raises(InvalidInput, match="needs a CPU"):
        CpusetPartitioner(Device("g", DeviceKind.GPU, "a GPU", 1, 1))


def test_a_whole_cpu_is_all_its_cores() -> None:
    whole = WholePartitioner(CPU)
    partition = part((), kind=PartitionKind.WHOLE)
    assert whole.prepare(partition).cores == CPU.cores
    assert whole.attest(partition, Observation(1, CPU.cores)).ok
    assert not whole.attest(partition, Observation(1, (0,))).ok
    whole.release(partition)


def test_a_whole_gpu_is_named_by_uuid_and_kept_away_from_mps() -> None:
    whole = WholePartitioner(Device("GPU-1", DeviceKind.GPU, "H100", 1 << 36, 132))
    partition = part((), kind=PartitionKind.WHOLE, device_id="GPU-1")
    environment = whole.prepare(partition).environment
    assert environment["CUDA_VISIBLE_DEVICES"] == "GPU-1"
    assert environment["CUDA_MPS_PIPE_DIRECTORY"] == ""
    assert whole.attest(partition, Observation(1, multiprocessors=132, device_uuid="GPU-1")).ok
    behind_a_share = whole.attest(partition, Observation(1, multiprocessors=32, device_uuid="GPU-1"))
    assert behind_a_share.reasons == ("sees 32 SMs of 132",)
