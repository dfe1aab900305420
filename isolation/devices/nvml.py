"""The real side of `GpuLibrary`, over nvidia-ml-py. All of NVML's quirks stop here.

MIG verbs are in `nvml_mig`, GPM counters in `nvml_counters`, the mapping of errors in `nvml_calls`.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import Any

from isolation.devices.errors import DeviceGone, DeviceLost, NvmlCode, device_error
from isolation.devices.facts import (
    DeviceEvent,
    EventKind,
    Gpu,
    GpuProcess,
    MemoryUse,
    Power,
    ProcessKind,
    ThrottleReason,
)
from isolation.devices.nvml_counters import NvmlCounters
from isolation.devices.nvml_mig import NvmlMig
from partywall.clock import Clock, SystemClock

# Streaming multiprocessors are not asked for directly outside MIG: cores over cores per SM, by compute capability
# (CUDA C++ Programming Guide, table of technical specifications).
_CORES_PER_SM = {(7, 0): 64, (7, 2): 64, (7, 5): 64, (8, 0): 64}
_CORES_PER_SM_SINCE_8_6 = 128


def open_nvml() -> NvmlLibrary | None:
    """The driver's library, or None on a machine without NVIDIA's driver or without nvidia-ml-py.

    Raises:
        DeviceError: There is a driver and it does not start.
    """
    try:
        import pynvml
    except ImportError:
        return None
    try:
        return NvmlLibrary(pynvml)
    except DeviceGone:
        return None


class NvmlLibrary(NvmlMig):
    """`GpuLibrary` over a binding with the functions of `pynvml`. Holds one NVML initialisation.

    Raises:
        DeviceGone: There is no driver on this machine.
        DeviceError: The driver does not start.
    """

    def __init__(self, binding: Any, clock: Clock | None = None) -> None:
        super().__init__(binding)
        self._clock = clock or SystemClock()
        self._lock = threading.Lock()
        self._events: Any = None
        self._known: dict[int, Gpu] = {}
        self._open = False
        try:
            binding.nvmlInit()
        except binding.NVMLError as error:
            absent = (NvmlCode.LIBRARY_NOT_FOUND, NvmlCode.DRIVER_NOT_LOADED)
            code = NvmlCode.NOT_FOUND if error.value in absent else error.value
            raise device_error(code, "open", "driver", str(error)) from error
        self._open = True

    def gpus(self) -> tuple[Gpu, ...]:
        count = self._call("gpus", "driver", self._nvml.nvmlDeviceGetCount)
        return tuple(self._gpu_or_what_was_known(index) for index in range(count))

    def memory(self, gpu_uuid: str) -> MemoryUse:
        info = self._ask("memory", gpu_uuid, self._nvml.nvmlDeviceGetMemoryInfo)
        return MemoryUse(info.total, info.used)

    def power(self, gpu_uuid: str) -> Power:
        nvml, handle = self._nvml, self._handle(gpu_uuid, "power")
        known = sum(ThrottleReason)
        return self._call(
            "power",
            gpu_uuid,
            lambda: Power(
                nvml.nvmlDeviceGetPowerUsage(handle),
                nvml.nvmlDeviceGetEnforcedPowerLimit(handle),
                nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
                ThrottleReason(nvml.nvmlDeviceGetCurrentClocksEventReasons(handle) & known),
            ),
        )

    def processes(self, gpu_uuid: str) -> tuple[GpuProcess, ...]:
        compute = self._ask("processes", gpu_uuid, self._nvml.nvmlDeviceGetComputeRunningProcesses_v3)
        mps = self._ask("processes", gpu_uuid, self._nvml.nvmlDeviceGetMPSComputeRunningProcesses_v3)
        # A client of MPS can be in both lists; it is a client first.
        merged = {p.pid: _process(p, ProcessKind.COMPUTE) for p in compute}
        merged |= {p.pid: _process(p, ProcessKind.MPS) for p in mps}
        return tuple(merged[pid] for pid in sorted(merged))

    def open_counters(self, gpu_uuid: str, gpu_instance: int | None = None) -> NvmlCounters:
        handle = self._handle(gpu_uuid, "open_counters")
        support = self._call("open_counters", gpu_uuid, lambda: self._nvml.nvmlGpmQueryDeviceSupport(handle))
        if not support.isSupportedDevice:
            raise device_error(NvmlCode.NOT_SUPPORTED, "open_counters", gpu_uuid, "GPM needs Hopper or later")
        return NvmlCounters(self._nvml, handle, gpu_uuid, gpu_instance, self._clock)

    def wait_event(self, timeout_s: float) -> DeviceEvent | None:
        events = self._event_set()
        try:
            data = self._nvml.nvmlEventSetWait_v2(events, int(timeout_s * 1000))
        except self._nvml.NVMLError as error:
            if error.value == NvmlCode.TIMEOUT:
                return None
            raise device_error(error.value, "wait_event", "any", str(error)) from error
        uuid = self._call("wait_event", "any", lambda: self._nvml.nvmlDeviceGetUUID(data.device))
        kind = self._event_kinds().get(data.eventType)
        if kind is None:
            return None  # nobody asked for it
        instance = None if data.gpuInstanceId == 0xFFFFFFFF else data.gpuInstanceId
        return DeviceEvent(kind, uuid, data.eventData if kind is EventKind.XID else 0, instance)

    def close(self) -> None:
        with self._lock:
            if not self._open:
                return
            self._open = False
            if self._events is not None:
                self._nvml.nvmlEventSetFree(self._events)
            self._nvml.nvmlShutdown()

    def __enter__(self) -> NvmlLibrary:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _gpu_or_what_was_known(self, index: int) -> Gpu:
        try:
            self._known[index] = self._gpu(index)
        except DeviceLost:
            if index not in self._known:
                raise
        return self._known[index]

    def _gpu(self, index: int) -> Gpu:
        nvml = self._nvml

        def read() -> Gpu:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            major, minor = nvml.nvmlDeviceGetCudaComputeCapability(handle)
            cores_per_sm = _CORES_PER_SM.get((major, minor), _CORES_PER_SM_SINCE_8_6)
            return Gpu(
                uuid=nvml.nvmlDeviceGetUUID(handle),
                index=index,
                name=nvml.nvmlDeviceGetName(handle),
                memory_bytes=nvml.nvmlDeviceGetMemoryInfo(handle).total,
                multiprocessors=nvml.nvmlDeviceGetNumGpuCores(handle) // cores_per_sm,
                compute_capability=(major, minor),
                mig_capable=self._unless_absent("gpus", str(index), lambda: nvml.nvmlDeviceGetMigMode(handle))
                is not None,
            )

        return self._call("gpus", str(index), read)

    def _event_kinds(self) -> dict[int, EventKind]:
        return {
            self._nvml.nvmlEventTypeXidCriticalError: EventKind.XID,
            self._nvml.nvmlEventMigConfigChange: EventKind.MIG_CHANGED,
            self._nvml.nvmlEventTypeDoubleBitEccError: EventKind.ECC_DOUBLE_BIT,
            self._nvml.nvmlEventTypeSingleBitEccError: EventKind.ECC_SINGLE_BIT,
        }

    def _event_set(self) -> Any:
        with self._lock:
            if self._events is None:
                self._events = self._call("wait_event", "any", self._registered_events)
            return self._events

    def _registered_events(self) -> Any:
        nvml = self._nvml
        events = nvml.nvmlEventSetCreate()
        wanted = sum(self._event_kinds())
        for index in range(nvml.nvmlDeviceGetCount()):
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            if known := wanted & nvml.nvmlDeviceGetSupportedEventTypes(handle):
                nvml.nvmlDeviceRegisterEvents(handle, known, events)
        return events


def _process(raw: Any, kind: ProcessKind) -> GpuProcess:
    return GpuProcess(raw.pid, kind, raw.usedGpuMemory, _instance(raw.gpuInstanceId), _instance(raw.computeInstanceId))


def _instance(number: int) -> int | None:
    return None if number == 0xFFFFFFFF else number
