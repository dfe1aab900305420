"""Counters of a simulated GPU: what NVML's GPM samples say of the load that the world put on it."""

from __future__ import annotations

from isolation.devices.errors import NvmlCode
from isolation.devices.facts import MIN_COUNTER_INTERVAL_S, Counter, CounterReading
from isolation.devices.simulated_gpu import SimulatedGpu
from partywall.clock import Clock


class SimulatedCounters:
    """Counters over the load that the world put on the GPU; holds a handle until closed."""

    def __init__(self, gpu: SimulatedGpu, gpu_instance: int | None, clock: Clock) -> None:
        self._gpu = gpu
        self._gpu_instance = gpu_instance
        self._clock = clock
        self._open = True
        with gpu.lock:
            gpu.hold(gpu_instance, 1)
            self._taken_at_s, self._work = clock.monotonic(), gpu.work(gpu_instance)

    def read(self) -> CounterReading:
        now_s = self._clock.monotonic()
        elapsed_s = now_s - self._taken_at_s
        self._gpu.check_alive("counters.read")
        if not self._open or elapsed_s < MIN_COUNTER_INTERVAL_S:
            raise self._gpu.error(NvmlCode.INVALID_ARGUMENT, "counters.read", "closed, or read too soon")
        with self._gpu.lock:
            work = self._gpu.work(self._gpu_instance)
        before, self._work, self._taken_at_s = self._work, work, now_s
        return _reading(elapsed_s, before, work)

    def until(self, later: SimulatedCounters) -> CounterReading:
        """Counters between the opening of this session and that of a later one: NVML's pair of samples."""
        return _reading(later._taken_at_s - self._taken_at_s, self._work, later._work)

    def close(self) -> None:
        if self._open:
            self._open = False
            with self._gpu.lock:
                self._gpu.hold(self._gpu_instance, -1)


def _reading(elapsed_s: float, before: dict[Counter, float], after: dict[Counter, float]) -> CounterReading:
    return CounterReading(elapsed_s, {counter: (after[counter] - before[counter]) / elapsed_s for counter in Counter})
