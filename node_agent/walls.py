"""Whether a started worker stands behind the wall it was given: compared before it gets any traffic."""

from __future__ import annotations

from collections.abc import Mapping

from isolation.partition.cpuset import CpusetPartitioner
from isolation.partition.partitioner import Attestation, Observation, Partitioner
from isolation.partition.whole import WholePartitioner
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import Unsupported


def attest(device: Device, partition: Partition, pid: int, seen: Mapping[str, str]) -> Attestation:
    """Compares what a worker read back from the kernel with its partition.

    A GPU as a whole is shared in time only: nothing of it can be read back that would be a wall.

    Raises:
        Unsupported: This agent does not enforce partitions of this kind.
    """
    if device.kind is DeviceKind.GPU and partition.kind is PartitionKind.WHOLE:
        visible = seen.get("cuda_devices", "")
        ok = visible == device.id
        reasons = () if ok else (f"sees CUDA devices {visible!r}, not {device.id}",)
        return Attestation(ok, f"whole GPU {device.id}: shared in time, no wall on compute", reasons)
    return _partitioner(device, partition).attest(partition, _observation(partition, pid, seen))


def _partitioner(device: Device, partition: Partition) -> Partitioner:
    if partition.kind is PartitionKind.CPUSET:
        return CpusetPartitioner(device)
    if partition.kind is PartitionKind.WHOLE:
        return WholePartitioner(device)
    raise Unsupported(f"this agent does not enforce {partition.kind} partitions yet; use cpuset or whole")


def _observation(partition: Partition, pid: int, seen: Mapping[str, str]) -> Observation:
    cores = tuple(int(c) for c in seen.get("cores", "").split(",") if c)
    # The limit is over what the process had before: what counts is whether one is set where one was asked for.
    capped = seen.get("memory_cap_bytes", "0") != "0"
    limit = partition.memory_bytes if capped else None
    return Observation(pid, cores or None, int(seen.get("threads", "0")) or None, limit)
