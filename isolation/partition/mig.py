"""Partitions of kind `mig`: GPU instances made and destroyed one by one, at named placements.

A partition's id ends with its slot, `...mig-PROFILE-START` (profile id and first memory slice), because the planner
decides where an instance lies: with explicit placements no order of creation matters.
"""

from __future__ import annotations

import re
from typing import Protocol

from isolation.devices.errors import DeviceError, DeviceInUse
from isolation.devices.facts import GpuInstance, MigActivation, MigDevice
from isolation.devices.geometry import Slot
from isolation.devices.library import GpuLibrary
from isolation.partition.attest import check_device, check_multiprocessors
from isolation.partition.partitioner import Attestation, Observation, WorkerConfinement
from partywall.domain.fleet import Device, Partition, PartitionKind
from partywall.errors import InvalidInput, NotReady, Reason

_SLOT = re.compile(r".*mig-(\d+)-(\d+)")


class Ownership(Protocol):
    """Which hardware instances are ours to destroy; kept across restarts (`Journal`)."""

    def claim(self, name: str) -> None: ...

    def disclaim(self, name: str) -> None: ...

    def owns(self, name: str) -> bool: ...


def mig_partition_id(prefix: str, slot: Slot) -> str:
    """The id of a partition that lies in `slot`."""
    return f"{prefix}mig-{slot.profile_id}-{slot.start}"


def slot_of(partition: Partition) -> Slot:
    """Raises `InvalidInput` where the id names no slot."""
    found = _SLOT.fullmatch(partition.id)
    if found is None:
        raise InvalidInput(
            f"partition {partition.id} names no MIG slot; end its id with mig-PROFILE-START, such as mig-9-4",
            fields={"field": "partition.id", "partition": partition.id},
        )
    return Slot(profile_id=int(found[1]), start=int(found[2]))


class MigPartitioner:
    """Instances of one GPU. What already stands in a slot is used as it is; only what is ours is destroyed.

    Two actors that change one GPU's layout are not supported: a foreign change is noticed (and what vanished is no
    longer ours), but an instance put into a slot of ours while we were down cannot be told from our own.
    """

    def __init__(self, device: Device, library: GpuLibrary, ownership: Ownership) -> None:
        self._device = device
        self._library = library
        self._ownership = ownership

    def prepare(self, partition: Partition) -> WorkerConfinement:
        slot = self._check(partition)
        self._check_mode()
        instance = self._standing(slot) or self._make(partition, slot)
        device = self._device_of(instance) or self._complete(partition, slot, instance)
        no_mps = dict.fromkeys(("CUDA_MPS_PIPE_DIRECTORY", "CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"), "")
        return WorkerConfinement(environment={"CUDA_VISIBLE_DEVICES": device.uuid, **no_mps})

    def attest(self, partition: Partition, observed: Observation) -> Attestation:
        slot = self._check(partition)
        instance = self._standing(slot)
        device = self._device_of(instance) if instance else None
        if device is None:
            return Attestation(False, "mig: none", (f"no MIG device stands in slot {slot.profile_id}@{slot.start}",))
        reasons = [
            *check_device(observed, device.uuid),
            *check_multiprocessors(observed, device.multiprocessors, self._device.compute_units, slack=0),
        ]
        wall = f"mig: {device.uuid}, {device.multiprocessors} SMs, {device.memory_bytes >> 20} MiB"
        return Attestation(not reasons, wall, tuple(reasons))

    def stands(self, partition: Partition) -> bool:
        """Whether the instance is there and complete, so that using it changes nothing; False also where MIG is off."""
        slot = self._check(partition)
        instance = self._standing(slot)
        return instance is not None and self._device_of(instance) is not None

    def before_kill(self, partition: Partition, pid: int) -> None:
        """A signal is enough: an instance is a fault domain of its own."""

    def release(self, partition: Partition) -> None:
        slot = self._check(partition)
        name = self._name(slot)
        if not self._ownership.owns(name):
            return
        instance = self._standing(slot)
        if instance is not None:
            self._destroy(partition, instance)
        self._ownership.disclaim(name)

    def set_mode(self, enabled: bool) -> None:
        """Turns MIG on or off. Never resets a GPU: that is the operator's decision.

        Raises:
            NotReady: The GPU is busy (the holders are named), or only a reset would do it.
            DeviceForbidden: Needs root.
        """
        activation = self._library.set_mig_mode(self._device.id, enabled)
        word = "on" if enabled else "off"
        if activation is MigActivation.RESET_REQUIRED:
            raise NotReady(
                f"MIG on {self._device.id} goes {word} with the next reset; reset the GPU or reboot",
                reason=Reason.WRONG_STATE,
                fields={"device": self._device.id},
            )
        if activation is MigActivation.IN_USE:
            holders = self._holders(None)
            raise NotReady(
                f"MIG on {self._device.id} cannot go {word} while the GPU is in use by {holders}; end them and retry",
                reason=Reason.WRONG_STATE,
                fields={"device": self._device.id, "holders": holders},
            )

    def forget_vanished(self) -> tuple[str, ...]:
        """Gives up ownership of instances that a foreign actor destroyed; returns their names."""
        standing = {self._name(_slot(instance)) for instance in self._library.gpu_instances(self._device.id)}
        profiles = self._library.mig_profiles(self._device.id)
        places = ((p.id, at.start) for p in profiles for at in self._library.mig_placements(self._device.id, p.id))
        names = (self._name(Slot(profile_id=number, start=start)) for number, start in places)
        vanished = tuple(name for name in names if name not in standing and self._ownership.owns(name))
        for name in vanished:
            self._ownership.disclaim(name)
        return vanished

    def _make(self, partition: Partition, slot: Slot) -> GpuInstance:
        place = next(
            (p for p in self._library.mig_placements(self._device.id, slot.profile_id) if p.start == slot.start), None
        )
        if place is None:
            raise InvalidInput(
                f"partition {partition.id}: profile {slot.profile_id} cannot start at {slot.start}",
                fields={"field": "partition.id", "partition": partition.id},
            )
        # Claimed before it stands: after a kill in between, a half-made instance is known to be ours.
        self._ownership.claim(self._name(slot))
        try:
            return self._library.create_gpu_instance(self._device.id, slot.profile_id, place)
        except DeviceError:
            self._ownership.disclaim(self._name(slot))
            raise

    def _complete(self, partition: Partition, slot: Slot, instance: GpuInstance) -> MigDevice:
        if not self._ownership.owns(self._name(slot)):
            raise NotReady(
                f"partition {partition.id}: somebody else's GPU instance {instance.id} stands there without a compute "
                "instance; complete or destroy it",
                reason=Reason.WRONG_STATE,
                fields={"partition": partition.id, "gpu_instance": str(instance.id)},
            )
        try:
            self._library.create_compute_instance(self._device.id, instance.id)
        except DeviceError:
            self.release(partition)
            raise
        device = self._device_of(instance)
        if device is None:
            # Enumeration inside one NVML initialisation has been seen to lag behind a change (libcudacxx#224).
            raise NotReady(f"partition {partition.id} was made and does not show yet; retry", reason=Reason.WRONG_STATE)
        return device

    def _destroy(self, partition: Partition, instance: GpuInstance) -> None:
        try:
            for compute in self._library.compute_instances(self._device.id, instance.id):
                self._library.destroy_compute_instance(self._device.id, instance.id, compute)
            self._library.destroy_gpu_instance(self._device.id, instance.id)
        except DeviceInUse as error:
            holders = self._holders(instance.id)
            raise NotReady(
                f"partition {partition.id} is still held by {holders}; end them and release it again",
                reason=Reason.WRONG_STATE,
                fields={"partition": partition.id, "holders": holders},
            ) from error

    def _holders(self, gpu_instance: int | None) -> str:
        listed = self._library.processes(self._device.id)
        pids = [p.pid for p in listed if gpu_instance is None or p.gpu_instance == gpu_instance]
        if pids:
            return "pids " + ", ".join(str(pid) for pid in pids)
        # A top field complaint: monitors leak handles (DCGM#276, go-nvml#146); restarting them frees the instance.
        return "no process that the driver lists: a monitor's open handle (restart DCGM or the exporter)"

    def _standing(self, slot: Slot) -> GpuInstance | None:
        return next((i for i in self._library.gpu_instances(self._device.id) if _slot(i) == slot), None)

    def _device_of(self, instance: GpuInstance) -> MigDevice | None:
        shown = self._library.mig_devices(self._device.id)
        return next((device for device in shown if device.gpu_instance == instance.id), None)

    def _name(self, slot: Slot) -> str:
        return f"{self._device.id}/{slot.profile_id}@{slot.start}"

    def _check_mode(self) -> None:
        mode = self._library.mig_mode(self._device.id)
        if not mode.current:
            waiting = " (a change is pending: reset the GPU)" if mode.pending else ""
            raise NotReady(
                f"MIG is off on {self._device.id}{waiting}; turn it on first",
                reason=Reason.WRONG_STATE,
                fields={"device": self._device.id},
            )

    def _check(self, partition: Partition) -> Slot:
        if partition.kind is not PartitionKind.MIG or partition.device_id != self._device.id:
            raise InvalidInput(
                f"partition {partition.id} is {partition.kind} on {partition.device_id}; "
                f"this partitioner makes MIG instances on {self._device.id}",
                fields={"field": "partition.kind", "partition": partition.id},
            )
        return slot_of(partition)


def _slot(instance: GpuInstance) -> Slot:
    return Slot(profile_id=instance.profile_id, start=instance.placement.start)
