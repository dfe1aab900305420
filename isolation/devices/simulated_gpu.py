"""The state of one simulated GPU and what the outside world can do to it.

Models what drivers do and mocks usually leave out: a mode change that only becomes pending, instances without compute
instances, instance numbers that are given out again, MIG indices with holes, holders without a process (leaked
handles), memory that runs out, a power cap that pulls clocks down for everyone, and a GPU that falls off the bus.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable
from dataclasses import replace

from isolation.devices.errors import DeviceError, NvmlCode, device_error
from isolation.devices.facts import (
    Counter,
    DeviceEvent,
    EventKind,
    GpuInstance,
    GpuProcess,
    MigActivation,
    MigDevice,
    MigMode,
    MigPlacement,
    Power,
    ProcessKind,
    ThrottleReason,
)
from isolation.devices.geometry import MigGeometry, MigModel
from isolation.devices.simulated_traits import GpuTraits, SimulatedInstance
from partywall.clock import Clock

XID_FALLEN_OFF_THE_BUS = 79
_NAMESPACE = uuid.UUID("8d8ac610-566d-4ef0-9c22-186b2a5ed793")
_BASE_CLOCK_MHZ = 1980
_IDLE_MW = 70_000
_FULL_LOAD_MW = 750_000
_DRIVER_BYTES = 600 << 20


class SimulatedGpu:
    """One GPU. Verbs of the driver are called by `SimulatedGpuLibrary`, the rest by whoever plays the world.

    Safe from several threads. `uuid` follows from model and index, so that runs repeat.
    """

    def __init__(self, index: int, model: MigModel, clock: Clock, traits: GpuTraits | None = None) -> None:
        self.index = index
        self.geometry = MigGeometry(model)
        self.traits = traits or GpuTraits()
        self.uuid = f"GPU-{uuid.uuid5(_NAMESPACE, f'{model}/{index}')}"
        self.lock = threading.RLock()
        self.mode = MigMode(current=False, pending=False)
        self.instances: dict[int, SimulatedInstance] = {}
        self.generation = 0
        """Moves when the driver voids all handles."""
        self._clock = clock
        self._lost = False
        self._handles = 0
        self._processes: dict[int, GpuProcess] = {}
        self._loads: dict[int, dict[Counter, float]] = {}
        self._work: dict[tuple[int | None, Counter], float] = {}
        self._worked_until_s = clock.monotonic()
        self._listeners: list[Callable[[DeviceEvent], None]] = []

    # -- the driver's side ------------------------------------------------------------------------------------------

    def error(self, code: NvmlCode, verb: str, detail: str = "") -> DeviceError:
        return device_error(code, verb, self.uuid, detail)

    def check_alive(self, verb: str) -> None:
        if self._lost:
            raise self.error(NvmlCode.GPU_IS_LOST, verb)

    def set_mode(self, enabled: bool) -> MigActivation:
        if enabled == self.mode.current:
            self.mode = MigMode(enabled, enabled)
            return MigActivation.DONE
        self.mode = replace(self.mode, pending=enabled)
        if self._processes or self._handles or self.instances:
            return MigActivation.IN_USE
        if self.traits.needs_reset:
            return MigActivation.RESET_REQUIRED
        self._activate()
        return MigActivation.DONE

    def create_instance(self, profile_id: int, placement: MigPlacement) -> GpuInstance:
        # The lowest number that is free is given out again: a number remembered from earlier may name another one.
        number = next(n for n in range(1, 64) if n not in self.instances)
        info = GpuInstance(number, profile_id, placement)
        self.instances[number] = SimulatedInstance(info)
        self.announce(EventKind.MIG_CHANGED)
        return info

    def create_compute(self, instance: SimulatedInstance) -> int:
        number = next(n for n in range(8) if n not in instance.compute)
        profile = self.geometry.profile(instance.info.profile_id)
        taken = {device.index for other in self.instances.values() for device in other.compute.values()}
        instance.compute[number] = MigDevice(
            uuid=f"MIG-{uuid.uuid5(_NAMESPACE, f'{self.uuid}/{instance.info.id}/{number}')}",
            index=next(n for n in range(64) if n not in taken),
            gpu_instance=instance.info.id,
            compute_instance=number,
            multiprocessors=profile.multiprocessors,
            memory_bytes=profile.memory_bytes,
        )
        self.announce(EventKind.MIG_CHANGED)
        return number

    def holders(self, instance: SimulatedInstance) -> list[str]:
        """Who keeps an instance from being destroyed: processes, and handles that no process list shows."""
        pids = [f"pid {p.pid}" for p in self._processes.values() if p.gpu_instance == instance.info.id]
        return pids + ["open handle"] * (instance.handles + instance.leaks)

    def used_bytes(self, gpu_instance: int | None = None) -> int:
        held = (p.used_bytes or 0 for p in self._processes.values() if gpu_instance in (None, p.gpu_instance))
        return sum(held) + (_DRIVER_BYTES if gpu_instance is None else 0)

    def processes(self) -> tuple[GpuProcess, ...]:
        return tuple(self._processes[pid] for pid in sorted(self._processes))

    def power(self) -> Power:
        busy = sum(load.get(Counter.SM_UTILISATION, 0.0) for load in self._loads.values())
        wanted = _IDLE_MW + (_FULL_LOAD_MW - _IDLE_MW) * min(busy, 100.0) / 100
        limit = self.traits.power_limit_mw
        if wanted <= limit:
            return Power(round(wanted), limit, _BASE_CLOCK_MHZ, ThrottleReason.NONE)
        clock_mhz = round(_BASE_CLOCK_MHZ * limit / wanted)
        return Power(limit, limit, clock_mhz, ThrottleReason.SW_POWER_CAP)

    def work(self, gpu_instance: int | None) -> dict[Counter, float]:
        """Percent-seconds (or MiB) of each counter since the beginning."""
        self._settle()
        return {counter: self._work.get((gpu_instance, counter), 0.0) for counter in Counter}

    def hold(self, gpu_instance: int | None, change: int) -> None:
        """Opens (+1) or closes (-1) a handle on the GPU or on one instance."""
        if gpu_instance is None:
            self._handles += change
        elif gpu_instance in self.instances:
            instance = self.instances[gpu_instance]
            instance.handles = max(0, instance.handles + change)

    # -- the world's side -------------------------------------------------------------------------------------------

    def start_process(
        self,
        pid: int,
        used_bytes: int = 0,
        kind: ProcessKind = ProcessKind.COMPUTE,
        gpu_instance: int | None = None,
        compute_instance: int | None = None,
    ) -> None:
        """A process takes a context (and memory, if there is enough: see `allocate`)."""
        with self.lock:
            self._processes[pid] = GpuProcess(pid, kind, 0, gpu_instance, compute_instance)
            if not self.allocate(pid, used_bytes):
                self.end_process(pid)
                raise MemoryError(f"pid {pid} asks for {used_bytes} bytes of device memory")

    def end_process(self, pid: int) -> None:
        with self.lock:
            self._settle()
            self._processes.pop(pid, None)
            self._loads.pop(pid, None)

    def allocate(self, pid: int, more_bytes: int) -> bool:
        """More device memory for a process; False: out of memory, nothing changed."""
        with self.lock:
            process = self._processes[pid]
            if process.gpu_instance is None:
                limit = self.geometry.memory_bytes
            else:
                limit = self.geometry.profile(self.instances[process.gpu_instance].info.profile_id).memory_bytes
            if self.used_bytes(process.gpu_instance) + more_bytes > limit:
                return False
            self._processes[pid] = replace(process, used_bytes=(process.used_bytes or 0) + more_bytes)
            return True

    def set_load(self, pid: int, load: dict[Counter, float]) -> None:
        """What a process keeps busy from now on, in percent of the GPU (PCIe: MiB/s)."""
        with self.lock:
            self._settle()
            self._loads[pid] = dict(load)

    def leak_handle(self, gpu_instance: int) -> None:
        """A monitor forgets to close its handle: IN_USE with nothing in the process list."""
        with self.lock:
            self.instances[gpu_instance].leaks += 1

    def free_leaks(self) -> None:
        with self.lock:
            for instance in self.instances.values():
                instance.leaks = 0

    def raise_xid(self, code: int, gpu_instance: int | None = None) -> None:
        """The driver reports an Xid; 79 also takes the GPU off the bus."""
        with self.lock:
            self._lost = self._lost or code == XID_FALLEN_OFF_THE_BUS
            self.announce(EventKind.XID, code, gpu_instance)

    def reset(self) -> None:
        """What only an operator does: everything on the GPU is gone, a pending mode becomes the current one."""
        with self.lock:
            self._processes.clear()
            self._loads.clear()
            self._lost = False
            self._activate()

    def listen(self, listener: Callable[[DeviceEvent], None]) -> None:
        with self.lock:
            self._listeners.append(listener)

    def announce(self, kind: EventKind, code: int = 0, gpu_instance: int | None = None) -> None:
        for listener in self._listeners:
            listener(DeviceEvent(kind, self.uuid, code, gpu_instance))

    def _activate(self) -> None:
        changed = self.mode.current != self.mode.pending
        self.mode = MigMode(self.mode.pending, self.mode.pending)
        self.instances.clear()
        self.generation += 1
        if changed:
            self.announce(EventKind.MIG_CHANGED)

    def _settle(self) -> None:
        now_s = self._clock.monotonic()
        elapsed_s, self._worked_until_s = now_s - self._worked_until_s, now_s
        for pid, load in self._loads.items():
            process = self._processes.get(pid)
            places = {None, process.gpu_instance if process else None}
            for place in places:
                for counter, level in load.items():
                    key = (place, counter)
                    self._work[key] = self._work.get(key, 0.0) + level * elapsed_s
