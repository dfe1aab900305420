"""The MIG functions of the simulated binding, in NVML's own ways."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from isolation.devices.errors import NvmlCode
from isolation.devices.facts import MigDevice, MigPlacement, MigProfile
from isolation.devices.simulated_nvml_state import Handle, NvmlState, set_out

PROFILE_COUNT = 18


class PlacementStruct(ctypes.Structure):
    _fields_ = (("start", ctypes.c_uint), ("size", ctypes.c_uint))


def _profile_info(nvml: NvmlState, device: int, number: int) -> SimpleNamespace:
    profile = next((p for p in nvml.library.mig_profiles(nvml.at(device).gpu.uuid) if p.enum == number), None)
    if profile is None:
        raise nvml.fail(NvmlCode.NOT_SUPPORTED if number < PROFILE_COUNT else NvmlCode(2))
    return SimpleNamespace(
        id=profile.id,
        sliceCount=profile.slices,
        instanceCount=profile.max_instances,
        multiprocessorCount=profile.multiprocessors,
        memorySizeMB=profile.memory_bytes >> 20,
        name=f"MIG {profile.name}".encode(),
    )


def _placements(nvml: NvmlState, device: int, profile_id: int, array: Any, count: Any) -> None:
    legal = nvml.library.mig_placements(nvml.at(device).gpu.uuid, profile_id)
    set_out(count, len(legal))
    for slot, placement in enumerate(legal if array is not None else ()):
        array[slot] = PlacementStruct(placement.start, placement.size)


def _instances(nvml: NvmlState, device: int, profile_id: int, array: Any, count: Any) -> None:
    gpu = nvml.at(device).gpu
    found = [i for i in nvml.library.gpu_instances(gpu.uuid) if i.profile_id == profile_id]
    for slot, instance in enumerate(found):
        array[slot] = nvml.new(Handle(gpu, gpu.generation, instance.id))
    set_out(count, len(found))


def _instance_by_id(nvml: NvmlState, device: int, number: int) -> int:
    gpu = nvml.at(device).gpu
    if number not in {instance.id for instance in nvml.library.gpu_instances(gpu.uuid)}:
        raise nvml.fail(NvmlCode.NOT_FOUND)
    return nvml.new(Handle(gpu, gpu.generation, number))


def _create_instance(nvml: NvmlState, device: int, profile_id: int, place: Any) -> int:
    gpu = nvml.at(device).gpu
    found = place._obj  # noqa: SLF001 - the only way to the object behind a byref
    wanted = MigPlacement(found.start, found.size)
    made = nvml.library.create_gpu_instance(gpu.uuid, profile_id, wanted)
    return nvml.new(Handle(gpu, gpu.generation, made.id))


def _instance_info(nvml: NvmlState, instance: int) -> SimpleNamespace:
    handle = nvml.at(instance)
    for info in nvml.library.gpu_instances(handle.gpu.uuid):
        if info.id == handle.instance:
            return SimpleNamespace(id=info.id, profileId=info.profile_id, placement=info.placement)
    raise nvml.fail(NvmlCode.INVALID_ARGUMENT)


def _destroy_instance(nvml: NvmlState, instance: int) -> None:
    handle = nvml.at(instance)
    nvml.library.destroy_gpu_instance(handle.gpu.uuid, handle.instance or 0)


def _instance_profile(nvml: NvmlState, handle: Handle) -> MigProfile:
    infos = {info.id: info for info in nvml.library.gpu_instances(handle.gpu.uuid)}
    return handle.gpu.geometry.profile(infos[handle.instance or 0].profile_id)


def _compute_profile(nvml: NvmlState, instance: int, number: int, _engine: int) -> SimpleNamespace:
    whole = _instance_profile(nvml, nvml.at(instance))
    slices = {0: 1, 1: 2, 2: 3, 3: 4, 4: 7}.get(number)
    if slices is None or slices > whole.slices:
        raise nvml.fail(NvmlCode.NOT_SUPPORTED)
    return SimpleNamespace(
        id=10 + number,
        instanceCount=whole.slices // slices,
        multiprocessorCount=whole.multiprocessors * slices // whole.slices,
    )


def _compute_instances(nvml: NvmlState, instance: int, profile_id: int, array: Any, count: Any) -> None:
    handle = nvml.at(instance)
    widest = {1: 10, 2: 11, 3: 12, 4: 13, 7: 14}[_instance_profile(nvml, handle).slices]
    numbers = nvml.library.compute_instances(handle.gpu.uuid, handle.instance or 0) if profile_id == widest else ()
    for slot, number in enumerate(numbers):
        array[slot] = nvml.new(Handle(handle.gpu, handle.generation, handle.instance, number))
    set_out(count, len(numbers))


def _create_compute(nvml: NvmlState, instance: int, _profile_id: int) -> int:
    handle = nvml.at(instance)
    number = nvml.library.create_compute_instance(handle.gpu.uuid, handle.instance or 0)
    return nvml.new(Handle(handle.gpu, handle.generation, handle.instance, number))


def _compute_by_id(nvml: NvmlState, instance: int, number: int) -> int:
    handle = nvml.at(instance)
    return nvml.new(Handle(handle.gpu, handle.generation, handle.instance, number))


def _destroy_compute(nvml: NvmlState, compute: int) -> None:
    handle = nvml.at(compute)
    nvml.library.destroy_compute_instance(handle.gpu.uuid, handle.instance or 0, handle.compute or 0)


def _mig_device(nvml: NvmlState, device: int, index: int) -> int:
    gpu = nvml.at(device).gpu
    shown = {found.index: found for found in nvml.library.mig_devices(gpu.uuid)}
    if index not in shown:
        raise nvml.fail(NvmlCode.NOT_FOUND)
    return nvml.new(Handle(gpu, gpu.generation, device=shown[index]))


def _mig(nvml: NvmlState, number: int) -> MigDevice:
    device = nvml.at(number).device
    if device is None:
        raise nvml.fail(NvmlCode.INVALID_ARGUMENT)
    return device


def _attributes(nvml: NvmlState, number: int) -> SimpleNamespace:
    device = _mig(nvml, number)
    return SimpleNamespace(multiprocessorCount=device.multiprocessors, memorySizeMB=device.memory_bytes >> 20)


def _mode(nvml: NvmlState, device: int) -> list[int]:
    mode = nvml.library.mig_mode(nvml.at(device).gpu.uuid)
    return [int(mode.current), int(mode.pending)]


def _set_mode(nvml: NvmlState, device: int, mode: int) -> int:
    return nvml.library.set_mig_mode(nvml.at(device).gpu.uuid, bool(mode)).value


def _slots(nvml: NvmlState, device: int) -> int:
    return 7 if nvml.at(device).gpu.mode.current else 0


MIG_VERBS: dict[str, Callable[..., Any]] = {
    "nvmlDeviceGetMigMode": _mode,
    "nvmlDeviceSetMigMode": _set_mode,
    "nvmlDeviceGetGpuInstanceProfileInfo": _profile_info,
    "nvmlDeviceGetGpuInstancePossiblePlacements": _placements,
    "nvmlDeviceGetGpuInstances": _instances,
    "nvmlDeviceGetGpuInstanceById": _instance_by_id,
    "nvmlDeviceCreateGpuInstanceWithPlacement": _create_instance,
    "nvmlGpuInstanceGetInfo": _instance_info,
    "nvmlGpuInstanceDestroy": _destroy_instance,
    "nvmlGpuInstanceGetComputeInstanceProfileInfo": _compute_profile,
    "nvmlGpuInstanceGetComputeInstances": _compute_instances,
    "nvmlGpuInstanceCreateComputeInstance": _create_compute,
    "nvmlGpuInstanceGetComputeInstanceById": _compute_by_id,
    "nvmlComputeInstanceGetInfo": lambda n, c: SimpleNamespace(id=n.at(c).compute),
    "nvmlComputeInstanceDestroy": _destroy_compute,
    "nvmlDeviceGetMaxMigDeviceCount": _slots,
    "nvmlDeviceGetMigDeviceHandleByIndex": _mig_device,
    "nvmlDeviceGetGpuInstanceId": lambda n, d: _mig(n, d).gpu_instance,
    "nvmlDeviceGetComputeInstanceId": lambda n, d: _mig(n, d).compute_instance,
    "nvmlDeviceGetAttributes_v2": _attributes,
}
