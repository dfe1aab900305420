"""The whole device for one tenant: nothing to share, so only the neighbours' absence is enforced."""

from __future__ import annotations

from isolation.partition.cpuset import THREAD_VARIABLES
from isolation.partition.partitioner import Attestation, Observation, WorkerConfinement
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import InvalidInput


class WholePartitioner:
    """Partitions of kind `whole`. That nobody else is on the device is the authority's account."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def prepare(self, partition: Partition) -> WorkerConfinement:
        self._check(partition)
        if self._device.kind is DeviceKind.CPU:
            threads = len(self._device.cores)
            environment = dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"CUDA_VISIBLE_DEVICES": "-1"}
            return WorkerConfinement(self._device.cores, threads, partition.memory_bytes, environment)
        # A pipe directory or share left over from the parent would put the worker behind somebody's MPS server.
        no_mps = dict.fromkeys(("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), "")
        return WorkerConfinement(environment={"CUDA_VISIBLE_DEVICES": self._device.id, **no_mps})

    def attest(self, partition: Partition, observed: Observation) -> Attestation:
        self._check(partition)
        if self._device.kind is DeviceKind.CPU:
            return self._attest_cpu(observed)
        reasons = []
        if observed.device_uuid != self._device.id:
            reasons.append(f"computes on {observed.device_uuid}, not on {self._device.id}")
        if observed.multiprocessors != self._device.compute_units:
            reasons.append(f"sees {observed.multiprocessors} SMs of {self._device.compute_units}")
        return Attestation(not reasons, f"whole GPU {self._device.id}", tuple(reasons))

    def before_kill(self, partition: Partition, pid: int) -> None:
        """A signal is enough."""

    def release(self, partition: Partition) -> None:
        self._check(partition)

    def _attest_cpu(self, observed: Observation) -> Attestation:
        wall = f"all {len(self._device.cores)} cores"
        if observed.cores == self._device.cores:
            return Attestation(True, wall)
        return Attestation(False, wall, (f"runs on cores {observed.cores}, not on {self._device.cores}",))

    def _check(self, partition: Partition) -> None:
        if partition.kind is not PartitionKind.WHOLE or partition.device_id != self._device.id:
            raise InvalidInput(
                f"partition {partition.id} is {partition.kind} on {partition.device_id}; "
                f"this partitioner gives out {self._device.id} as a whole",
                fields={"field": "partition.kind", "partition": partition.id},
            )
