"""The simulated side of `GpuLibrary`: the driver as the agent meets it, traps included."""

from __future__ import annotations

import queue
from collections.abc import Sequence

from isolation.devices.errors import NvmlCode, device_error
from isolation.devices.facts import (
    DeviceEvent,
    EventKind,
    Gpu,
    GpuInstance,
    GpuProcess,
    MemoryUse,
    MigActivation,
    MigDevice,
    MigMode,
    MigPlacement,
    MigProfile,
    Power,
)
from isolation.devices.geometry import Slot, layout_of
from isolation.devices.simulated_counters import SimulatedCounters
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.devices.simulated_traits import SimulatedInstance
from partywall.clock import Clock

_GPM_SINCE = (9, 0)


class SimulatedGpuLibrary:
    """One actor's view of some GPUs. Give the same GPUs to a second library and it is the foreign actor.

    Args:
        gpus: The machine.
        clock: Time of the counters.
        privileged: False: reads work, changes answer NO_PERMISSION.
    """

    def __init__(self, gpus: Sequence[SimulatedGpu], clock: Clock, privileged: bool = True) -> None:
        self._gpus = {gpu.uuid: gpu for gpu in gpus}
        self._clock = clock
        self._privileged = privileged
        self._events: queue.SimpleQueue[DeviceEvent] = queue.SimpleQueue()
        for gpu in gpus:
            gpu.listen(self._events.put)

    def gpus(self) -> tuple[Gpu, ...]:
        return tuple(
            Gpu(
                uuid=gpu.uuid,
                index=gpu.index,
                name=str(gpu.geometry.model),
                memory_bytes=gpu.geometry.memory_bytes,
                multiprocessors=gpu.geometry.multiprocessors,
                compute_capability=gpu.geometry.compute_capability,
                mig_capable=gpu.traits.mig_capable,
            )
            for gpu in sorted(self._gpus.values(), key=lambda g: g.index)
        )

    def memory(self, gpu_uuid: str) -> MemoryUse:
        gpu = self._alive(gpu_uuid, "memory")
        with gpu.lock:
            return MemoryUse(gpu.geometry.memory_bytes, gpu.used_bytes())

    def power(self, gpu_uuid: str) -> Power:
        gpu = self._alive(gpu_uuid, "power")
        with gpu.lock:
            return gpu.power()

    def processes(self, gpu_uuid: str) -> tuple[GpuProcess, ...]:
        gpu = self._alive(gpu_uuid, "processes")
        with gpu.lock:
            return gpu.processes()

    def open_counters(self, gpu_uuid: str, gpu_instance: int | None = None) -> SimulatedCounters:
        gpu = self._alive(gpu_uuid, "open_counters")
        if gpu.geometry.compute_capability < _GPM_SINCE:
            raise gpu.error(NvmlCode.NOT_SUPPORTED, "open_counters", "GPM needs Hopper or later")
        if gpu_instance is not None:
            self._instance(gpu, gpu_instance, "open_counters")
        return SimulatedCounters(gpu, gpu_instance, self._clock)

    def mig_mode(self, gpu_uuid: str) -> MigMode:
        gpu = self._mig_capable(gpu_uuid, "mig_mode")
        with gpu.lock:
            return gpu.mode

    def set_mig_mode(self, gpu_uuid: str, enabled: bool) -> MigActivation:
        gpu = self._mig_capable(gpu_uuid, "set_mig_mode")
        self._check_privilege(gpu, "set_mig_mode")
        with gpu.lock:
            return gpu.set_mode(enabled)

    def mig_profiles(self, gpu_uuid: str) -> tuple[MigProfile, ...]:
        gpu = self._alive(gpu_uuid, "mig_profiles")
        with gpu.lock:
            listed = gpu.traits.mig_capable and (gpu.mode.current or gpu.traits.lists_profiles_while_off)
            return tuple(sorted(gpu.geometry.profiles, key=lambda p: p.enum)) if listed else ()

    def mig_placements(self, gpu_uuid: str, profile_id: int) -> tuple[MigPlacement, ...]:
        gpu = self._mig_capable(gpu_uuid, "mig_placements")
        self._check_profile(gpu, profile_id, "mig_placements")
        return gpu.geometry.placements(profile_id)

    def gpu_instances(self, gpu_uuid: str) -> tuple[GpuInstance, ...]:
        gpu = self._alive(gpu_uuid, "gpu_instances")
        with gpu.lock:
            standing = (instance.info for instance in gpu.instances.values())
            return tuple(sorted(standing, key=lambda info: info.placement.start))

    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, placement: MigPlacement) -> GpuInstance:
        verb = "create_gpu_instance"
        gpu = self._mig_capable(gpu_uuid, verb)
        self._check_privilege(gpu, verb)
        with gpu.lock:
            if not gpu.mode.current:
                raise gpu.error(NvmlCode.NOT_SUPPORTED, verb, "MIG is off")
            self._check_profile(gpu, profile_id, verb)
            if placement not in gpu.geometry.placements(profile_id):
                raise gpu.error(NvmlCode.INVALID_ARGUMENT, verb, f"{placement} is no placement of {profile_id}")
            layout = layout_of([instance.info for instance in gpu.instances.values()])
            if not gpu.geometry.fits(layout, Slot(placement.start, profile_id)):
                raise gpu.error(NvmlCode.INSUFFICIENT_RESOURCES, verb)
            return gpu.create_instance(profile_id, placement)

    def destroy_gpu_instance(self, gpu_uuid: str, gpu_instance: int) -> None:
        verb = "destroy_gpu_instance"
        gpu = self._alive(gpu_uuid, verb)
        self._check_privilege(gpu, verb)
        with gpu.lock:
            instance = self._instance(gpu, gpu_instance, verb)
            if instance.compute or gpu.holders(instance):
                raise gpu.error(NvmlCode.IN_USE, verb)
            del gpu.instances[gpu_instance]
            gpu.announce(EventKind.MIG_CHANGED)

    def compute_instances(self, gpu_uuid: str, gpu_instance: int) -> tuple[int, ...]:
        gpu = self._alive(gpu_uuid, "compute_instances")
        with gpu.lock:
            return tuple(sorted(self._instance(gpu, gpu_instance, "compute_instances").compute))

    def create_compute_instance(self, gpu_uuid: str, gpu_instance: int) -> int:
        verb = "create_compute_instance"
        gpu = self._alive(gpu_uuid, verb)
        self._check_privilege(gpu, verb)
        with gpu.lock:
            instance = self._instance(gpu, gpu_instance, verb)
            if instance.compute:
                raise gpu.error(NvmlCode.INSUFFICIENT_RESOURCES, verb, "all its slices are taken")
            return gpu.create_compute(instance)

    def destroy_compute_instance(self, gpu_uuid: str, gpu_instance: int, compute_instance: int) -> None:
        verb = "destroy_compute_instance"
        gpu = self._alive(gpu_uuid, verb)
        self._check_privilege(gpu, verb)
        with gpu.lock:
            instance = self._instance(gpu, gpu_instance, verb)
            if compute_instance not in instance.compute:
                raise gpu.error(NvmlCode.NOT_FOUND, verb)
            if gpu.holders(instance):
                raise gpu.error(NvmlCode.IN_USE, verb)
            del instance.compute[compute_instance]
            gpu.announce(EventKind.MIG_CHANGED)

    def mig_devices(self, gpu_uuid: str) -> tuple[MigDevice, ...]:
        gpu = self._alive(gpu_uuid, "mig_devices")
        with gpu.lock:
            shown = (device for instance in gpu.instances.values() for device in instance.compute.values())
            return tuple(sorted(shown, key=lambda device: device.index))

    def wait_event(self, timeout_s: float) -> DeviceEvent | None:
        try:
            return self._events.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Nothing is held."""

    def gpu(self, gpu_uuid: str, verb: str = "gpu") -> SimulatedGpu:
        """The GPU behind a UUID, lost or not."""
        if gpu_uuid not in self._gpus:
            raise device_error(NvmlCode.NOT_FOUND, verb, gpu_uuid)
        return self._gpus[gpu_uuid]

    def _alive(self, gpu_uuid: str, verb: str) -> SimulatedGpu:
        gpu = self.gpu(gpu_uuid, verb)
        gpu.check_alive(verb)
        return gpu

    def _mig_capable(self, gpu_uuid: str, verb: str) -> SimulatedGpu:
        gpu = self._alive(gpu_uuid, verb)
        if not gpu.traits.mig_capable:
            raise gpu.error(NvmlCode.NOT_SUPPORTED, verb, "no MIG on this GPU")
        return gpu

    def _check_privilege(self, gpu: SimulatedGpu, verb: str) -> None:
        if not self._privileged:
            raise gpu.error(NvmlCode.NO_PERMISSION, verb)

    def _check_profile(self, gpu: SimulatedGpu, profile_id: int, verb: str) -> None:
        if profile_id not in {profile.id for profile in gpu.geometry.profiles}:
            raise gpu.error(NvmlCode.INVALID_ARGUMENT, verb, f"no profile has the id {profile_id}")

    def _instance(self, gpu: SimulatedGpu, number: int, verb: str) -> SimulatedInstance:
        if number not in gpu.instances:
            raise gpu.error(NvmlCode.NOT_FOUND, verb, f"no GPU instance {number}")
        return gpu.instances[number]
