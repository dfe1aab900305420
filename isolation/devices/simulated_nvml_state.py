"""What the simulated binding remembers: handles that go stale, GPM samples, whether it is initialised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isolation.devices.errors import NvmlCode
from isolation.devices.facts import MigDevice
from isolation.devices.simulated import SimulatedGpuLibrary
from isolation.devices.simulated_counters import SimulatedCounters
from isolation.devices.simulated_gpu import SimulatedGpu

NO_INSTANCE = 0xFFFFFFFF


class SimulatedNvmlError(Exception):
    """NVMLError: the return code in `value`."""

    def __init__(self, value: int) -> None:
        super().__init__(f"NVML {value}")
        self.value = value


@dataclass(frozen=True, slots=True)
class _Handle:
    gpu: SimulatedGpu
    generation: int
    instance: int | None = None
    compute: int | None = None
    device: MigDevice | None = None


@dataclass(frozen=True, slots=True)
class Handle:
    gpu: SimulatedGpu
    generation: int
    instance: int | None = None
    compute: int | None = None
    device: MigDevice | None = None


class NvmlState:
    """Shared by the verbs of the binding."""

    def __init__(self, gpus: Sequence[SimulatedGpu], library: SimulatedGpuLibrary, driver: bool) -> None:
        self.gpus = sorted(gpus, key=lambda gpu: gpu.index)
        self.library = library
        self.samples: dict[int, SimulatedCounters | None] = {}
        self.open = False
        self._driver = driver
        self._handles: list[Handle] = []

    def fail(self, code: NvmlCode) -> SimulatedNvmlError:
        return SimulatedNvmlError(code)

    def new(self, handle: Handle) -> int:
        self._handles.append(handle)
        return len(self._handles)

    def at(self, number: int) -> Handle:
        """The object of a handle; a handle from before a reset is no longer one."""
        handle = self._handles[number - 1]
        if handle.generation != handle.gpu.generation:
            raise self.fail(NvmlCode.INVALID_ARGUMENT)
        return handle

    def gpu_handle(self, gpu: SimulatedGpu) -> int:
        gpu.check_alive("handle")
        return self.new(Handle(gpu, gpu.generation))

    def init(self) -> None:
        if not self._driver:
            raise self.fail(NvmlCode.LIBRARY_NOT_FOUND)
        self.open = True

    def shut_down(self) -> None:
        self.open = False


def set_out(reference: Any, value: int) -> None:
    """Writes through a `ctypes.byref`."""
    reference._obj.value = value  # noqa: SLF001 - the only way to the object behind a byref
