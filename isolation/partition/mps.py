"""Partitions of kind `mps`: a share of a GPU's SMs and memory behind one daemon per GPU."""

from __future__ import annotations

import threading

from isolation.devices.errors import DeviceError
from isolation.devices.facts import ProcessKind
from isolation.devices.library import GpuLibrary
from isolation.partition.attest import (
    check_client,
    check_device,
    check_memory_cap,
    check_multiprocessors,
    share_multiprocessors,
)
from isolation.partition.mps_control import MpsControl, MpsDown, MpsSlow, ServerState
from isolation.partition.partitioner import Attestation, Observation, WorkerConfinement
from partywall.domain.fleet import Device, DeviceKind, Partition, PartitionKind
from partywall.errors import InvalidInput

SMS_PER_CHUNK = 8
"""Unit of a static partition on Hopper and later."""
_MIB = 1 << 20


class MpsPartitioner:
    """Shares of one GPU.

    A share is a ceiling, read when the worker initialises CUDA: it cannot be changed on a live worker. Two ceilings
    that add up to 100 % may still meet on the same SMs; only static SM partitions are disjoint.

    Args:
        device: The GPU.
        control: Its daemon; nobody else may use it.
        library: The driver, for a second opinion on who is a client.
        exclusive_sms: Ask for static SM partitions instead of percentages.
    """

    def __init__(self, device: Device, control: MpsControl, library: GpuLibrary, exclusive_sms: bool = False) -> None:
        if device.kind is not DeviceKind.GPU:
            raise InvalidInput(f"device {device.id} is a {device.kind}; MPS needs a GPU", fields={"field": "device"})
        self._device = device
        self._control = control
        self._library = library
        self._exclusive_sms = exclusive_sms
        self._lock = threading.Lock()
        self._prepared: dict[str, str] = {}

    def prepare(self, partition: Partition) -> WorkerConfinement:
        self._check(partition)
        with self._lock:
            self._start()
            if partition.id not in self._prepared:
                self._prepared[partition.id] = self._sm_partition(partition)
            name = self._prepared[partition.id]
        environment = {
            "CUDA_VISIBLE_DEVICES": self._device.id,
            "CUDA_MPS_PIPE_DIRECTORY": str(self._control.pipe_directory),
            "CUDA_MPS_SM_PARTITION": name,
            "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "" if name else str(partition.share_percent),
            # The daemon shows one device, so its number is 0 whatever it is elsewhere.
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": (
                f"0={partition.memory_bytes // _MIB}M" if partition.memory_bytes else ""
            ),
        }
        return WorkerConfinement(environment=environment)

    def attest(self, partition: Partition, observed: Observation) -> Attestation:
        self._check(partition)
        total, expected = self._device.compute_units, self._expected(partition)
        reasons = [
            *check_device(observed, self._device.id),
            *check_multiprocessors(observed, expected, total),
            *check_memory_cap(observed, partition.memory_bytes),
            *check_client(observed.pid, self.clients()),
        ]
        cap = f", {partition.memory_bytes // _MIB} MiB of device memory" if partition.memory_bytes else ""
        means = "a static SM partition" if self._exclusive_sms else f"{partition.share_percent} % of threads"
        wall = f"mps: {expected} of {total} SMs by {means}{cap}; one fault domain with the GPU's other MPS clients"
        return Attestation(not reasons, wall, tuple(reasons))

    def before_kill(self, partition: Partition, pid: int) -> None:
        # A busy client that dies by a signal may leave the server undefined: its contexts go first, if the daemon
        # can still be asked. A refusal must not keep a stuck worker alive.
        try:
            self._control.terminate_client(pid)
        except (MpsSlow, MpsDown):
            return

    def release(self, partition: Partition) -> None:
        self._check(partition)
        with self._lock:
            if name := self._prepared.get(partition.id):
                self._control.remove_sm_partition(name)
            self._prepared.pop(partition.id, None)
            if not self._prepared and self._idle():
                self._control.stop()

    def faulty(self) -> bool:
        """Whether the server says that it is in a fault; a daemon that does not answer says nothing."""
        try:
            return self._control.server_state() is ServerState.FAULT
        except (MpsSlow, MpsDown):
            return False

    def strangers(self) -> tuple[int, ...]:
        """Processes that compute on the GPU past the daemon: they alternate with all of its clients.

        Raises:
            MpsSlow, MpsDown, DeviceError: It could not be told.
        """
        known = {*self._control.clients(), self._control.server_pid()}
        listed = self._library.processes(self._device.id)
        return tuple(p.pid for p in listed if p.kind is ProcessKind.COMPUTE and p.pid not in known)

    def _start(self) -> None:
        self._control.start()
        if self._exclusive_sms and not self._prepared and self._idle():
            # An earlier process of ours may have left SM partitions whose names are lost: only a new daemon has none.
            self._control.stop()
            self._control.start()

    def _idle(self) -> bool:
        # Workers that outlived an earlier process of ours are clients too: a daemon with clients is never stopped.
        try:
            return not self._control.clients()
        except (MpsSlow, MpsDown):
            return False

    def clients(self) -> tuple[int, ...] | None:
        """Who is attached, by the daemon or else by the driver; None: neither can tell."""
        try:
            return self._control.clients()
        except (MpsSlow, MpsDown):
            pass  # a slow control channel is no verdict: the driver has a list of its own
        try:
            listed = self._library.processes(self._device.id)
        except DeviceError:
            return None
        return tuple(p.pid for p in listed if p.kind is ProcessKind.MPS)

    def _sm_partition(self, partition: Partition) -> str:
        return self._control.add_sm_partition(self._chunks(partition)) if self._exclusive_sms else ""

    def _chunks(self, partition: Partition) -> int:
        return max(1, self._device.compute_units * partition.share_percent // 100 // SMS_PER_CHUNK)

    def _expected(self, partition: Partition) -> int:
        if self._exclusive_sms:
            return self._chunks(partition) * SMS_PER_CHUNK
        return share_multiprocessors(self._device.compute_units, partition.share_percent)

    def _check(self, partition: Partition) -> None:
        if partition.kind is not PartitionKind.MPS or partition.device_id != self._device.id:
            raise InvalidInput(
                f"partition {partition.id} is {partition.kind} on {partition.device_id}; "
                f"this partitioner shares {self._device.id} by MPS",
                fields={"field": "partition.kind", "partition": partition.id},
            )
        if not 1 <= partition.share_percent <= 100:
            raise InvalidInput(
                f"partition {partition.id} asks for {partition.share_percent} %; give it 1 to 100",
                fields={"field": "partition.share_percent", "partition": partition.id},
            )
