"""A binding with the functions of `pynvml` over simulated GPUs, so that `NvmlLibrary` is checked without a GPU.

Keeps NVML's own ways: numbers as handles that go stale, profile enums that are not ids, results through ctypes
references, the activation status as a return value, per-metric return codes, sparse MIG indices. Only what
`NvmlLibrary` calls is here; the MIG functions are in `simulated_nvml_mig`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from isolation.devices.errors import DeviceError, NvmlCode
from isolation.devices.facts import Counter, EventKind, ProcessKind
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_gpu import SimulatedGpu
from isolation.devices.simulated_nvml_mig import MIG_VERBS, PROFILE_COUNT, PlacementStruct
from isolation.devices.simulated_nvml_state import NO_INSTANCE, Handle, NvmlState, SimulatedNvmlError
from partywall.clock import Clock

_CORES_PER_SM = {(8, 0): 64, (9, 0): 128}
_METRICS = 32


class _Metric(ctypes.Structure):
    _fields_ = (("metricId", ctypes.c_uint), ("nvmlReturn", ctypes.c_uint), ("value", ctypes.c_double))


class _MetricsGet(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint),
        ("numMetrics", ctypes.c_uint),
        ("sample1", ctypes.c_void_p),
        ("sample2", ctypes.c_void_p),
        ("metrics", _Metric * _METRICS),
    )


class SimulatedNvml:
    """The module `pynvml`, as an object.

    Args:
        gpus: The machine; none at all still has a driver.
        clock: Time of the GPM samples.
        driver: False: `nvmlInit` answers LIBRARY_NOT_FOUND.
        privileged: False: changes answer NO_PERMISSION.
    """

    NVMLError = SimulatedNvmlError
    NVML_CLOCK_SM = 1
    NVML_GPU_INSTANCE_PROFILE_COUNT = PROFILE_COUNT
    NVML_COMPUTE_INSTANCE_PROFILE_COUNT = 9
    NVML_COMPUTE_INSTANCE_ENGINE_PROFILE_SHARED = 0
    NVML_GPM_METRICS_GET_VERSION = 1
    nvmlEventTypeSingleBitEccError = 0x1  # noqa: N815
    nvmlEventTypeDoubleBitEccError = 0x2  # noqa: N815
    nvmlEventTypeXidCriticalError = 0x8  # noqa: N815
    nvmlEventMigConfigChange = 0x100  # noqa: N815
    c_nvmlGpuInstance_t = ctypes.c_void_p  # noqa: N815
    c_nvmlComputeInstance_t = ctypes.c_void_p  # noqa: N815
    c_nvmlGpuInstancePlacement_t = PlacementStruct  # noqa: N815
    c_nvmlGpmMetricsGet_t = _MetricsGet  # noqa: N815

    def __init__(
        self, gpus: Sequence[SimulatedGpu], clock: Clock, driver: bool = True, privileged: bool = True
    ) -> None:
        self.state = NvmlState(gpus, SimulatedGpuLibrary(gpus, clock, privileged), driver)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        verb = _VERBS.get(name)
        if verb is None:
            raise AttributeError(name)

        def call(*arguments: Any) -> Any:
            try:
                return verb(self.state, *arguments)
            except DeviceError as error:
                raise SimulatedNvmlError(error.code) from error

        return call


def _by_uuid(nvml: NvmlState, uuid: str) -> int:
    return nvml.gpu_handle(nvml.library.gpu(uuid))


def _uuid(nvml: NvmlState, number: int) -> str:
    handle = nvml.at(number)
    return handle.device.uuid if handle.device else handle.gpu.uuid


def _listed(kind: ProcessKind) -> Callable[[NvmlState, int], list[SimpleNamespace]]:
    def verb(nvml: NvmlState, device: int) -> list[SimpleNamespace]:
        return [
            SimpleNamespace(
                pid=p.pid,
                usedGpuMemory=p.used_bytes,
                gpuInstanceId=NO_INSTANCE if p.gpu_instance is None else p.gpu_instance,
                computeInstanceId=NO_INSTANCE if p.compute_instance is None else p.compute_instance,
            )
            for p in nvml.library.processes(nvml.at(device).gpu.uuid)
            if p.kind is kind
        ]

    return verb


def _cores(nvml: NvmlState, device: int) -> int:
    geometry = nvml.at(device).gpu.geometry
    return geometry.multiprocessors * _CORES_PER_SM[geometry.compute_capability]


def _memory(nvml: NvmlState, device: int) -> SimpleNamespace:
    use = nvml.library.memory(nvml.at(device).gpu.uuid)
    return SimpleNamespace(total=use.total_bytes, used=use.used_bytes)


def _wait(nvml: NvmlState, _events: int, timeout_ms: int) -> SimpleNamespace:
    event = nvml.library.wait_event(timeout_ms / 1000)
    if event is None:
        raise nvml.fail(NvmlCode.TIMEOUT)
    gpu = nvml.library.gpu(event.gpu_uuid)
    bits = {EventKind.XID: 0x8, EventKind.MIG_CHANGED: 0x100, EventKind.ECC_DOUBLE_BIT: 2, EventKind.ECC_SINGLE_BIT: 1}
    return SimpleNamespace(
        device=nvml.new(Handle(gpu, gpu.generation)),
        eventType=bits[event.kind],
        eventData=event.code,
        gpuInstanceId=NO_INSTANCE if event.gpu_instance is None else event.gpu_instance,
    )


def _sample_alloc(nvml: NvmlState) -> int:
    number = len(nvml.samples) + 1
    nvml.samples[number] = None
    return number


def _sample(nvml: NvmlState, device: int, number: int) -> None:
    _sample_instance(nvml, device, None, number)


def _sample_instance(nvml: NvmlState, device: int, instance: int | None, number: int) -> None:
    _sample_drop(nvml, number)
    nvml.samples[number] = nvml.library.open_counters(nvml.at(device).gpu.uuid, instance)


def _sample_drop(nvml: NvmlState, number: int) -> None:
    held = nvml.samples.get(number)
    if held is not None:
        held.close()


def _sample_free(nvml: NvmlState, number: int) -> None:
    _sample_drop(nvml, number)
    nvml.samples[number] = None


def _metrics(nvml: NvmlState, query: _MetricsGet) -> None:
    one, two = nvml.samples[query.sample1], nvml.samples[query.sample2]
    if one is None or two is None:
        raise nvml.fail(NvmlCode.INVALID_ARGUMENT)
    reading = one.until(two)
    for metric in query.metrics[: query.numMetrics]:
        known = metric.metricId in set(Counter)
        metric.nvmlReturn = NvmlCode.SUCCESS if known else NvmlCode.NOT_SUPPORTED
        metric.value = reading.values[Counter(metric.metricId)] if known else 0.0


def _gpm_support(nvml: NvmlState, device: int) -> SimpleNamespace:
    return SimpleNamespace(isSupportedDevice=int(nvml.at(device).gpu.geometry.compute_capability >= (9, 0)))


_VERBS: dict[str, Callable[..., Any]] = MIG_VERBS | {
    "nvmlInit": NvmlState.init,
    "nvmlShutdown": NvmlState.shut_down,
    "nvmlDeviceGetCount": lambda n: len(n.gpus),
    "nvmlDeviceGetHandleByIndex": lambda n, i: n.gpu_handle(n.gpus[i]),
    "nvmlDeviceGetHandleByUUID": _by_uuid,
    "nvmlDeviceGetUUID": _uuid,
    "nvmlDeviceGetName": lambda n, d: str(n.at(d).gpu.geometry.model),
    "nvmlDeviceGetCudaComputeCapability": lambda n, d: n.at(d).gpu.geometry.compute_capability,
    "nvmlDeviceGetNumGpuCores": _cores,
    "nvmlDeviceGetMemoryInfo": _memory,
    "nvmlDeviceGetPowerUsage": lambda n, d: n.library.power(n.at(d).gpu.uuid).draw_mw,
    "nvmlDeviceGetEnforcedPowerLimit": lambda n, d: n.library.power(n.at(d).gpu.uuid).limit_mw,
    "nvmlDeviceGetClockInfo": lambda n, d, _kind: n.library.power(n.at(d).gpu.uuid).sm_clock_mhz,
    "nvmlDeviceGetCurrentClocksEventReasons": lambda n, d: int(n.library.power(n.at(d).gpu.uuid).reasons) | 1,
    "nvmlDeviceGetComputeRunningProcesses_v3": _listed(ProcessKind.COMPUTE),
    "nvmlDeviceGetMPSComputeRunningProcesses_v3": _listed(ProcessKind.MPS),
    "nvmlEventSetCreate": lambda _n: 1,
    "nvmlEventSetFree": lambda _n, _events: None,
    "nvmlEventSetWait_v2": _wait,
    "nvmlDeviceGetSupportedEventTypes": lambda _n, _d: 0x10B,
    "nvmlDeviceRegisterEvents": lambda _n, _d, _types, _events: None,
    "nvmlGpmQueryDeviceSupport": _gpm_support,
    "nvmlGpmSampleAlloc": _sample_alloc,
    "nvmlGpmSampleFree": _sample_free,
    "nvmlGpmSampleGet": _sample,
    "nvmlGpmMigSampleGet": _sample_instance,
    "nvmlGpmMetricsGet": _metrics,
}
