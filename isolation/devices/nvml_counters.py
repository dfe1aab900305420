"""GPM counters of a GPU or of one GPU instance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from isolation.devices.errors import NvmlCode, device_error
from isolation.devices.facts import MIN_COUNTER_INTERVAL_S, Counter, CounterReading
from partywall.clock import Clock

T = TypeVar("T")


class NvmlCounters:
    """Two GPM samples, taken in turn."""

    def __init__(self, binding: Any, handle: Any, gpu_uuid: str, gpu_instance: int | None, clock: Clock) -> None:
        self._nvml = binding
        self._handle = handle
        self._gpu_uuid = gpu_uuid
        self._gpu_instance = gpu_instance
        self._clock = clock
        self._samples: list[Any] = []
        self._samples = [self._call(binding.nvmlGpmSampleAlloc) for _ in range(2)]
        self._taken_at = self._take(0)

    def read(self) -> CounterReading:
        if not self._samples:
            raise device_error(NvmlCode.INVALID_ARGUMENT, "counters.read", self._gpu_uuid, "counters are closed")
        if self._clock.monotonic() - self._taken_at < MIN_COUNTER_INTERVAL_S:
            raise device_error(NvmlCode.INVALID_ARGUMENT, "counters.read", self._gpu_uuid, "samples are too close")
        before = self._taken_at
        self._taken_at = self._take(1)
        reading = CounterReading(self._taken_at - before, self._metrics())
        self._samples.reverse()
        return reading

    def close(self) -> None:
        while self._samples:
            self._nvml.nvmlGpmSampleFree(self._samples.pop())

    def _take(self, which: int) -> float:
        sample = self._samples[which]
        if self._gpu_instance is None:
            self._call(lambda: self._nvml.nvmlGpmSampleGet(self._handle, sample))
        else:
            self._call(lambda: self._nvml.nvmlGpmMigSampleGet(self._handle, self._gpu_instance, sample))
        return self._clock.monotonic()

    def _metrics(self) -> dict[Counter, float]:
        query = self._nvml.c_nvmlGpmMetricsGet_t()
        query.version = self._nvml.NVML_GPM_METRICS_GET_VERSION
        query.numMetrics = len(Counter)
        query.sample1, query.sample2 = self._samples
        for slot, counter in enumerate(Counter):
            query.metrics[slot].metricId = counter
        self._call(lambda: self._nvml.nvmlGpmMetricsGet(query))
        good = (m for m in query.metrics[: len(Counter)] if m.nvmlReturn == NvmlCode.SUCCESS)
        return {Counter(m.metricId): float(m.value) for m in good}

    def _call(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except self._nvml.NVMLError as error:
            self.close()
            raise device_error(error.value, "counters", self._gpu_uuid, str(error)) from error
