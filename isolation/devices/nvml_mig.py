"""The MIG verbs of `NvmlLibrary`.

Quirks that stop here: a profile's enum is not its id; the activation status of a mode change is a return value and
not an error; MIG device indices have holes; a GPU instance without a compute instance has no MIG device.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from typing import Any

from isolation.devices.errors import DeviceBadCall, DeviceGone, DeviceUnsupported, NvmlCode, device_error
from isolation.devices.facts import GpuInstance, MigActivation, MigDevice, MigMode, MigPlacement, MigProfile
from isolation.devices.nvml_calls import NvmlCalls

_MIB = 1 << 20


class NvmlMig(NvmlCalls):
    """Instances through NVML; see `GpuLibrary` for the contract of each verb."""

    def mig_mode(self, gpu_uuid: str) -> MigMode:
        current, pending = self._ask("mig_mode", gpu_uuid, self._nvml.nvmlDeviceGetMigMode)
        return MigMode(bool(current), bool(pending))

    def set_mig_mode(self, gpu_uuid: str, enabled: bool) -> MigActivation:
        status = self._ask("set_mig_mode", gpu_uuid, lambda h: self._nvml.nvmlDeviceSetMigMode(h, int(enabled)))
        try:
            return MigActivation(status)
        except ValueError:
            raise device_error(status, "set_mig_mode", gpu_uuid, "activation status") from None

    def mig_profiles(self, gpu_uuid: str) -> tuple[MigProfile, ...]:
        handle = self._handle(gpu_uuid, "mig_profiles")
        found = []
        for number in range(self._nvml.NVML_GPU_INSTANCE_PROFILE_COUNT):
            info = self._unless_absent(
                "mig_profiles",
                gpu_uuid,
                lambda e=number: self._nvml.nvmlDeviceGetGpuInstanceProfileInfo(handle, e),  # type: ignore[misc]
            )
            if info is not None:
                found.append(self._profile(gpu_uuid, number, info))
        return tuple(found)

    def mig_placements(self, gpu_uuid: str, profile_id: int) -> tuple[MigPlacement, ...]:
        nvml, handle = self._nvml, self._handle(gpu_uuid, "mig_placements")

        def read() -> tuple[MigPlacement, ...]:
            count = ctypes.c_uint(0)
            nvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile_id, None, ctypes.byref(count))
            array = (nvml.c_nvmlGpuInstancePlacement_t * count.value)()
            nvml.nvmlDeviceGetGpuInstancePossiblePlacements(handle, profile_id, array, ctypes.byref(count))
            return tuple(MigPlacement(p.start, p.size) for p in array[: count.value])

        return self._call("mig_placements", gpu_uuid, read)

    def gpu_instances(self, gpu_uuid: str) -> tuple[GpuInstance, ...]:
        if not self.mig_mode(gpu_uuid).current:
            return ()
        found = [self._instance_info(gpu_uuid, raw) for raw in self._raw_instances(gpu_uuid)]
        return tuple(sorted(found, key=lambda instance: instance.placement.start))

    def create_gpu_instance(self, gpu_uuid: str, profile_id: int, placement: MigPlacement) -> GpuInstance:
        nvml = self._nvml
        place = nvml.c_nvmlGpuInstancePlacement_t(placement.start, placement.size)
        raw = self._ask(
            "create_gpu_instance",
            gpu_uuid,
            lambda h: nvml.nvmlDeviceCreateGpuInstanceWithPlacement(h, profile_id, ctypes.byref(place)),
        )
        return self._instance_info(gpu_uuid, raw)

    def destroy_gpu_instance(self, gpu_uuid: str, gpu_instance: int) -> None:
        raw = self._raw_instance(gpu_uuid, gpu_instance, "destroy_gpu_instance")
        self._call("destroy_gpu_instance", gpu_uuid, lambda: self._nvml.nvmlGpuInstanceDestroy(raw))

    def compute_instances(self, gpu_uuid: str, gpu_instance: int) -> tuple[int, ...]:
        raw = self._raw_instance(gpu_uuid, gpu_instance, "compute_instances")
        found = set()
        for _, info in self._compute_profiles(gpu_uuid, raw):
            array = (self._nvml.c_nvmlComputeInstance_t * info.instanceCount)()
            count = ctypes.c_uint(0)
            self._call(
                "compute_instances",
                gpu_uuid,
                lambda i=info, a=array, c=count: self._nvml.nvmlGpuInstanceGetComputeInstances(  # type: ignore[misc]
                    raw, i.id, a, ctypes.byref(c)
                ),
            )
            found |= {self._nvml.nvmlComputeInstanceGetInfo(ci).id for ci in array[: count.value]}
        return tuple(sorted(found))

    def create_compute_instance(self, gpu_uuid: str, gpu_instance: int) -> int:
        raw = self._raw_instance(gpu_uuid, gpu_instance, "create_compute_instance")
        profiles = list(self._compute_profiles(gpu_uuid, raw))
        if not profiles:
            raise device_error(NvmlCode.NOT_SUPPORTED, "create_compute_instance", gpu_uuid, "no profile fits")
        _, widest = max(profiles, key=lambda pair: pair[1].multiprocessorCount)
        created = self._call(
            "create_compute_instance",
            gpu_uuid,
            lambda: self._nvml.nvmlGpuInstanceCreateComputeInstance(raw, widest.id),
        )
        return int(self._nvml.nvmlComputeInstanceGetInfo(created).id)

    def destroy_compute_instance(self, gpu_uuid: str, gpu_instance: int, compute_instance: int) -> None:
        raw = self._raw_instance(gpu_uuid, gpu_instance, "destroy_compute_instance")
        self._call(
            "destroy_compute_instance",
            gpu_uuid,
            lambda: self._nvml.nvmlComputeInstanceDestroy(
                self._nvml.nvmlGpuInstanceGetComputeInstanceById(raw, compute_instance)
            ),
        )

    def mig_devices(self, gpu_uuid: str) -> tuple[MigDevice, ...]:
        nvml, handle = self._nvml, self._handle(gpu_uuid, "mig_devices")
        # Zero while MIG is off; a hole in the numbering is no end.
        slots = self._call("mig_devices", gpu_uuid, lambda: nvml.nvmlDeviceGetMaxMigDeviceCount(handle))
        found = []
        for index in range(slots):
            device = self._unless_absent(
                "mig_devices",
                gpu_uuid,
                lambda i=index: nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, i),  # type: ignore[misc]
            )
            if device is not None:
                found.append(self._mig_device(gpu_uuid, index, device))
        return tuple(found)

    def _profile(self, gpu_uuid: str, number: int, info: Any) -> MigProfile:
        name = info.name.decode() if isinstance(info.name, bytes) else info.name
        return MigProfile(
            enum=number,
            id=info.id,
            name=name.removeprefix("MIG ").strip(),
            slices=info.sliceCount,
            memory_slices=self._memory_slices(gpu_uuid, info.id),
            memory_bytes=info.memorySizeMB * _MIB,
            multiprocessors=info.multiprocessorCount,
            max_instances=info.instanceCount,
            media_extensions="+me" in name,
        )

    def _memory_slices(self, gpu_uuid: str, profile_id: int) -> int:
        try:
            placements = self.mig_placements(gpu_uuid, profile_id)
        except (DeviceUnsupported, DeviceBadCall, DeviceGone):  # some drivers tell placements only while MIG is on
            return 0
        return placements[0].size if placements else 0

    def _raw_instances(self, gpu_uuid: str) -> Iterator[Any]:
        nvml, handle = self._nvml, self._handle(gpu_uuid, "gpu_instances")
        for profile in self.mig_profiles(gpu_uuid):
            array = (nvml.c_nvmlGpuInstance_t * profile.max_instances)()
            count = ctypes.c_uint(0)
            self._call(
                "gpu_instances",
                gpu_uuid,
                lambda p=profile, a=array, c=count: nvml.nvmlDeviceGetGpuInstances(  # type: ignore[misc]
                    handle, p.id, a, ctypes.byref(c)
                ),
            )
            yield from array[: count.value]

    def _raw_instance(self, gpu_uuid: str, number: int, verb: str) -> Any:
        return self._ask(verb, gpu_uuid, lambda h: self._nvml.nvmlDeviceGetGpuInstanceById(h, number))

    def _instance_info(self, gpu_uuid: str, raw: Any) -> GpuInstance:
        info = self._call("gpu_instances", gpu_uuid, lambda: self._nvml.nvmlGpuInstanceGetInfo(raw))
        return GpuInstance(info.id, info.profileId, MigPlacement(info.placement.start, info.placement.size))

    def _compute_profiles(self, gpu_uuid: str, raw: Any) -> Iterator[tuple[int, Any]]:
        nvml = self._nvml
        for number in range(nvml.NVML_COMPUTE_INSTANCE_PROFILE_COUNT):
            info = self._unless_absent(
                "compute_instances",
                gpu_uuid,
                lambda e=number: nvml.nvmlGpuInstanceGetComputeInstanceProfileInfo(  # type: ignore[misc]
                    raw, e, nvml.NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED
                ),
            )
            if info is not None:
                yield number, info

    def _mig_device(self, gpu_uuid: str, index: int, handle: Any) -> MigDevice:
        nvml = self._nvml

        def read() -> MigDevice:
            attributes = nvml.nvmlDeviceGetAttributes_v2(handle)
            return MigDevice(
                uuid=nvml.nvmlDeviceGetUUID(handle),
                index=index,
                gpu_instance=nvml.nvmlDeviceGetGpuInstanceId(handle),
                compute_instance=nvml.nvmlDeviceGetComputeInstanceId(handle),
                multiprocessors=attributes.multiprocessorCount,
                memory_bytes=attributes.memorySizeMB * _MIB,
            )

        return self._call("mig_devices", gpu_uuid, read)
