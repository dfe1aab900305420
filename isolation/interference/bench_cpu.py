"""A bench on real cores: a loaded model in this process, probes in processes of their own."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from isolation.engine import Array, LoadedModel
from isolation.interference.probes import DEFAULT_LLC_BYTES, ProbeProcess
from isolation.interference.profiler import Step, StepKind, Values, co_run_values
from isolation.interference.rounds import FULL, Pace, Round, combine, relative_spread, window_mean_ms

_BUSY_LOAD = 0.25


@dataclass(frozen=True, slots=True)
class CpuBench:
    """Shares become disjoint sets of whole cores: the model's from the front, the probe's from the back.

    With one core they overlap, and the figures are of time slicing, not of walls.
    """

    loaded: LoadedModel
    inputs: Mapping[str, Array]
    rows: int
    cores: tuple[int, ...]
    pace: Pace = FULL
    llc_bytes: int = DEFAULT_LLC_BYTES

    @property
    def device_type(self) -> str:
        return f"cpu {platform.machine()} x{len(self.cores)}"

    def busy(self) -> str:
        """By the load average of the last minute, this process's own share included."""
        load = os.getloadavg()[0] / max(os.cpu_count() or 1, 1)
        return f"load average {load:.2f} per core" if load > _BUSY_LOAD else ""

    def run(self, step: Step) -> Values:
        if step.probe is None:
            return self._solo(step.own_percent)
        return self._probe_self(step) if step.kind is StepKind.PROBE_SELF else self._beside(step)

    def _solo(self, share_percent: int) -> Values:
        with _affinity(share_cores(self.cores, share_percent)):
            window_s = self._warm()
            windows = [self._mean_ms(window_s) for _ in range(self.pace.rounds)]
        return {"alone_ms": sorted(windows)[len(windows) // 2], "spread": relative_spread(windows)}

    def _beside(self, step: Step) -> Values:
        assert step.probe is not None  # noqa: S101 - by the step's kind
        theirs = share_cores(self.cores[::-1], step.probe_percent)
        with (
            ProbeProcess(step.probe, theirs, self.llc_bytes, paused=True) as probe,
            _affinity(share_cores(self.cores, step.own_percent)),
        ):
            window_s = self._warm()
            taken: list[tuple[float, float, float, float]] = []
            for _ in range(self.pace.rounds):
                alone = self._mean_ms(window_s)
                probe.resume()
                latency = self._mean_ms(window_s)
                beside = probe.window().unit_ms
                time.sleep(window_s)
                by_itself = probe.pause().unit_ms
                taken.append((alone, latency, by_itself, beside))
            last = self._mean_ms(window_s)
        after = [*(alone for alone, *_ in taken[1:]), last]
        rounds = [Round(a, b, c, p, q) for (a, b, p, q), c in zip(taken, after, strict=True)]
        return co_run_values(combine(rounds))

    def _probe_self(self, step: Step) -> Values:
        assert step.probe is not None  # noqa: S101 - by the step's kind
        ours, theirs = share_cores(self.cores, step.own_percent), share_cores(self.cores[::-1], step.probe_percent)
        window_s = self.pace.window_s
        ratios: list[float] = []
        with (
            ProbeProcess(step.probe, ours, self.llc_bytes, paused=True) as one,
            ProbeProcess(step.probe, theirs, self.llc_bytes, paused=True) as two,
        ):
            for _ in range(self.pace.rounds):
                two.resume()
                time.sleep(window_s)
                alone = two.window().unit_ms
                one.resume()
                time.sleep(window_s)
                ratios.append(two.window().unit_ms / alone)
                one.pause()
                two.pause()
        return {"probe_slowdown": sorted(ratios)[len(ratios) // 2], "probe_spread": relative_spread(ratios)}

    def _warm(self) -> float:
        """Runs until caches and clocks have settled; the length of a window for batches like these."""
        return self.pace.window_for(self._mean_ms(self.pace.warmup_s) / 1e3)

    def _mean_ms(self, window_s: float) -> float:
        taken: list[float] = []
        end = time.perf_counter() + window_s
        while not taken or time.perf_counter() < end:
            begin = time.perf_counter()
            self.loaded.run(self.inputs, self.rows)
            taken.append(time.perf_counter() - begin)
        return window_mean_ms(taken)


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
