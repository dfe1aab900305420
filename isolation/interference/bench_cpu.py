"""A bench on real cores: a loaded model in this process, probes in processes of their own."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from isolation.engine import Array, LoadedModel
from isolation.interference.probes import DEFAULT_LLC_BYTES, ProbeProcess
from isolation.interference.profiler import Beside
from partywall.domain.profiles import ProbeSetting

_BUSY_LOAD = 0.25


@dataclass(frozen=True, slots=True)
class CpuBench:
    """Shares become disjoint sets of whole cores: the model's from the front, the probe's from the back.

    With one core they overlap, and the figures are of time slicing, not of walls. `window_s` is one measurement.
    """

    loaded: LoadedModel
    inputs: Mapping[str, Array]
    rows: int
    cores: tuple[int, ...]
    window_s: float = 2.0
    warmup_batches: int = 2
    llc_bytes: int = DEFAULT_LLC_BYTES

    @property
    def device_type(self) -> str:
        return f"cpu {platform.machine()} x{len(self.cores)}"

    def busy(self) -> str:
        """By the load average of the last minute, this process's own share included."""
        load = os.getloadavg()[0] / max(os.cpu_count() or 1, 1)
        return f"load average {load:.2f} per core" if load > _BUSY_LOAD else ""

    def solo_ms(self, share_percent: int) -> float:
        with _affinity(share_cores(self.cores, share_percent)):
            return self._mean_ms()

    def beside(self, probe: ProbeSetting, own_percent: int, probe_percent: int) -> Beside:
        """The model's and the probe's solo are taken in the same minute, by the same processes, before the co-run."""
        theirs = share_cores(self.cores[::-1], probe_percent)
        alone = self.solo_ms(own_percent)
        with ProbeProcess(probe, theirs, self.llc_bytes) as running:
            time.sleep(self.window_s)
            probe_alone = running.window().unit_ms
            running.window()
            latency = self.solo_ms(own_percent)
            probe_beside = running.window().unit_ms
        return Beside(alone, latency, probe_beside / probe_alone)

    def _mean_ms(self) -> float:
        """Mean over the middle 80 % of a window's batches; at least one batch."""
        for _ in range(self.warmup_batches):
            self.loaded.run(self.inputs, self.rows)
        taken: list[float] = []
        end = time.perf_counter() + self.window_s
        while not taken or time.perf_counter() < end:
            begin = time.perf_counter()
            self.loaded.run(self.inputs, self.rows)
            taken.append(time.perf_counter() - begin)
        cut = len(taken) // 10
        return 1e3 * float(np.mean(taken[cut : len(taken) - cut]))


def share_cores(cores: Sequence[int], share_percent: int) -> tuple[int, ...]:
    """The first cores of a share, at least one."""
    return tuple(cores[: max(1, round(len(cores) * share_percent / 100))])


@contextmanager
def _affinity(cores: Sequence[int]) -> Iterator[None]:
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)
