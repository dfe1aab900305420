"""Cores by affinity, threads to match, memory by a limit on private data."""

from __future__ import annotations

from isolation.partition.partitioner import Attestation, Observation, WorkerConfinement
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import InvalidInput

THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class CpusetPartitioner:
    """Partitions of kind `cpuset` on one CPU. Whether cores may be given out twice is the authority's decision."""

    def __init__(self, device: Device) -> None:
        if device.kind is not DeviceKind.CPU:
            raise InvalidInput(f"device {device.id} is a {device.kind}; cpuset needs a CPU", fields={"field": "device"})
        self._device = device

    def prepare(self, partition: Partition) -> WorkerConfinement:
        self._check(partition)
        threads = len(partition.cores)
        # More threads than cores wait for each other at every barrier: one for each core, whatever library counts.
        environment = dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"CUDA_VISIBLE_DEVICES": "-1"}
        return WorkerConfinement(tuple(sorted(partition.cores)), threads, partition.memory_bytes, environment)

    def attest(self, partition: Partition, observed: Observation) -> Attestation:
        self._check(partition)
        reasons = []
        wanted = tuple(sorted(partition.cores))
        if observed.cores != wanted:
            reasons.append(f"affinity is {observed.cores}, not {wanted}")
        if observed.threads is not None and observed.threads > len(wanted):
            reasons.append(f"{observed.threads} threads on {len(wanted)} cores")
        cap = partition.memory_bytes
        if cap and (observed.memory_limit_bytes is None or observed.memory_limit_bytes > cap):
            reasons.append(f"memory limit is {observed.memory_limit_bytes}, not {cap} bytes")
        return Attestation(not reasons, self._wall(partition), tuple(reasons))

    def before_kill(self, partition: Partition, pid: int) -> None:
        """A signal is enough."""

    def release(self, partition: Partition) -> None:
        self._check(partition)

    def _wall(self, partition: Partition) -> str:
        cores = ",".join(str(core) for core in sorted(partition.cores))
        cap = f", {partition.memory_bytes >> 20} MiB by RLIMIT_DATA" if partition.memory_bytes else ""
        return f"cpuset: cores {cores} by affinity{cap}"

    def _check(self, partition: Partition) -> None:
        if partition.kind is not PartitionKind.CPUSET or partition.device_id != self._device.id:
            raise InvalidInput(
                f"partition {partition.id} is {partition.kind} on {partition.device_id}; "
                f"this partitioner gives out cores of {self._device.id}",
                fields={"field": "partition.kind", "partition": partition.id},
            )
        unknown = sorted(set(partition.cores) - set(self._device.cores))
        if unknown or not partition.cores:
            raise InvalidInput(
                f"partition {partition.id} asks for cores {list(partition.cores)}; "
                f"give it one or more of {list(self._device.cores)}",
                fields={"field": "partition.cores", "partition": partition.id},
            )
