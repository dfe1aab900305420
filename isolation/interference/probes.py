"""CPU probes: steady pressure on one shared resource, with a dial, and a count of its own progress.

One co-run of a model and a probe gives two numbers: the model's slowdown (its sensitivity) and the probe's (the
model's pressure), the idea of Bubble-Up (Mars et al., MICRO 2011) with the bubble reporting back.
"""

from __future__ import annotations

import enum
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from partywall.domain.profiles import ProbeSetting, Resource
from partywall.errors import InvalidInput, Unavailable

_PERIOD_S = 0.02
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
DEFAULT_LLC_BYTES = 16 << 20


class Load(Protocol):
    """One unit of pressure, a fraction of a millisecond to a few milliseconds long."""

    def unit(self) -> None: ...


class StreamLoad:
    """Memory bandwidth: copies from one array to another, together four caches large, the next block each time."""

    def __init__(self, llc_bytes: int = DEFAULT_LLC_BYTES, block_bytes: int = 4 << 20) -> None:
        size = max(2 * llc_bytes, 2 * block_bytes)
        self._source: NDArray[np.uint8] = np.ones(size, dtype=np.uint8)
        self._target: NDArray[np.uint8] = np.zeros(size, dtype=np.uint8)
        self._block = block_bytes
        self._at = 0

    def unit(self) -> None:
        end = self._at + self._block
        np.copyto(self._target[self._at : end], self._source[self._at : end])
        self._at = end if end + self._block <= len(self._source) else 0


class CacheLoad:
    """Last-level cache: sweeps in place over a footprint of half the cache, so that it stays there and fills it."""

    def __init__(self, llc_bytes: int = DEFAULT_LLC_BYTES) -> None:
        self._lines: NDArray[np.int64] = np.zeros(max(llc_bytes // 2, 4096) // 8, dtype=np.int64)

    def unit(self) -> None:
        self._lines[::8] += 1


class RandomLoad:
    """Memory latency: gathers at random over an array of four caches (fixed seed)."""

    def __init__(self, llc_bytes: int = DEFAULT_LLC_BYTES, gathers: int = 1 << 14) -> None:
        rng = np.random.default_rng(0)
        self._values: NDArray[np.int64] = np.ones(llc_bytes // 2, dtype=np.int64)
        self._places: NDArray[np.int64] = rng.integers(0, len(self._values), gathers)

    def unit(self) -> None:
        self._values.take(self._places).sum()


_LOADS: dict[Resource, Callable[[int], Load]] = {
    Resource.MEMORY_BANDWIDTH: StreamLoad,
    Resource.LLC: CacheLoad,
    Resource.RANDOM: RandomLoad,
}
CPU_PROBES = tuple(ProbeSetting(r, level) for r in (Resource.MEMORY_BANDWIDTH, Resource.LLC) for level in (1.0, 0.4))


def make_load(resource: Resource, llc_bytes: int = DEFAULT_LLC_BYTES) -> Load:
    """Raises InvalidInput for a resource that the CPU has no probe for."""
    if resource not in _LOADS:
        known = ", ".join(r.value for r in _LOADS)
        raise InvalidInput(f"resource {resource.value!r} has no CPU probe; choose one of: {known}")
    return _LOADS[resource](llc_bytes)


@dataclass(frozen=True, slots=True)
class Progress:
    """Units done and the seconds in which the probe was on (pauses of the duty cycle are not counted)."""

    units: int
    busy_s: float

    @property
    def unit_ms(self) -> float:
        """Mean duration of one unit: the probe's own latency."""
        return 1e3 * self.busy_s / max(self.units, 1)


@dataclass(frozen=True, slots=True)
class DutyCycle:
    """Runs a load `level` of the time, in short periods; the clocks are parameters."""

    load: Load
    level: float
    monotonic: Callable[[], float] = time.monotonic
    pause: Callable[[float], None] = time.sleep

    def run(self, keep_going: Callable[[], bool]) -> Progress:
        """At least one unit; ends at the first unit or pause after `keep_going` says no."""
        units, busy = 0, 0.0
        while True:
            begin = self.monotonic()
            on_s = 0.0
            while not units or (on_s < _PERIOD_S * self.level and keep_going()):
                self.load.unit()
                units += 1
                on_s = self.monotonic() - begin
            busy += on_s
            if not keep_going():
                return Progress(units, busy)
            # A unit may outlast its part of the period: the pause keeps the ratio, not the period.
            self.pause(on_s * (1.0 / self.level - 1.0))

    def run_for(self, seconds: float) -> Progress:
        end = self.monotonic() + seconds
        return self.run(lambda: self.monotonic() < end)


class _Order(enum.Enum):
    """What a probe's process does after it has told its progress."""

    GO_ON = enum.auto()
    PAUSE = enum.auto()


class ProbeProcess:
    """A probe in a process of its own on given cores; use as a context manager. `window` reads progress between.

    It presses until `pause`, and again from `resume` on; with `paused` it waits for the first `resume`.
    """

    def __init__(
        self,
        setting: ProbeSetting,
        cores: Sequence[int],
        llc_bytes: int = DEFAULT_LLC_BYTES,
        *,
        paused: bool = False,
    ) -> None:
        context = multiprocessing.get_context("spawn")
        self._ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve, args=(theirs, setting.resource, setting.level, tuple(cores), llc_bytes, paused), daemon=True
        )
        self._setting = setting
        self._theirs = theirs

    def __enter__(self) -> ProbeProcess:
        self._process.start()
        self._theirs.close()
        self._answer(_START_TIMEOUT_S)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ours.close()
        self._process.join(_STOP_TIMEOUT_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join(_STOP_TIMEOUT_S)
        self._process.close()

    def window(self) -> Progress:
        """Progress since the last call (or the start).

        Raises:
            Unavailable: The process has died or does not answer.
        """
        return self._ask(_Order.GO_ON)

    def pause(self) -> Progress:
        """As `window`, and presses no more until `resume`."""
        return self._ask(_Order.PAUSE)

    def resume(self) -> None:
        """Presses from here on."""
        self._ask(_Order.GO_ON)

    def _ask(self, order: _Order) -> Progress:
        try:
            self._ours.send(order)
        except OSError as error:
            raise self._gone() from error
        return self._answer(_STOP_TIMEOUT_S)

    def _answer(self, timeout_s: float) -> Progress:
        try:
            if not self._ours.poll(timeout_s):
                raise self._gone()
            found: Progress = self._ours.recv()
        except (EOFError, OSError) as error:
            raise self._gone() from error
        return found

    def _gone(self) -> Unavailable:
        return Unavailable(f"{self._setting.name} does not answer; look at the machine's memory, then profile again")


def _serve(
    pipe: Connection, resource: Resource, level: float, cores: tuple[int, ...], llc_bytes: int, paused: bool
) -> None:
    """The probe's process: ready, then a window for each request, until the other end closes."""
    os.sched_setaffinity(0, cores)
    cycle = DutyCycle(make_load(resource, llc_bytes), level)
    pipe.send(cycle.run_for(0.0))
    while True:
        progress = Progress(0, 0.0) if paused else cycle.run(lambda: not pipe.poll())
        try:
            paused = pipe.recv() is _Order.PAUSE
            pipe.send(progress)
        except (EOFError, OSError):
            return


@dataclass(frozen=True, slots=True)
class Calibration:
    """A probe alone: median of the mean unit over repeats, and the relative spread between them (max - min)."""

    setting: ProbeSetting
    unit_ms: float
    spread: float
    repeats: int


def calibrate(setting: ProbeSetting, windows: Sequence[Progress]) -> Calibration:
    """From windows of one probe alone, each a repeat; InvalidInput without any."""
    if not windows:
        raise InvalidInput("windows must hold at least one repeat; run the probe alone first")
    units = [w.unit_ms for w in windows]
    middle = statistics.median(units)
    return Calibration(setting, middle, (max(units) - min(units)) / middle, len(units))
