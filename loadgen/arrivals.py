"""When requests are sent: open-loop arrival processes, pure and seeded.

An arrival process turns a random generator and a duration into send times. Times do not depend on how the server
answers: that is what makes a load *open loop* (Schroeder, Wierman, Harchol-Balter, NSDI 2006).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from partywall.errors import InvalidInput

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


class ArrivalProcess(Protocol):
    """Where send times come from."""

    def times_s(self, rng: np.random.Generator, duration_s: float) -> FloatArray:
        """Send times in seconds since the start, ascending, in [0, duration_s); shape [n]."""
        ...


@dataclass(frozen=True, slots=True)
class Constant:
    """Evenly spaced, with a random phase so that two constant streams do not beat in step."""

    rate_per_s: float

    def __post_init__(self) -> None:
        _check_positive("rate", self.rate_per_s)

    def times_s(self, rng: np.random.Generator, duration_s: float) -> FloatArray:
        _check_positive("duration", duration_s)
        count = math.ceil(duration_s * self.rate_per_s)
        times = (np.arange(count, dtype=np.float64) + rng.random()) / self.rate_per_s
        return times[times < duration_s]


@dataclass(frozen=True, slots=True)
class Poisson:
    """Independent arrivals: a Poisson count, and that many uniform times."""

    rate_per_s: float

    def __post_init__(self) -> None:
        _check_positive("rate", self.rate_per_s)

    def times_s(self, rng: np.random.Generator, duration_s: float) -> FloatArray:
        _check_positive("duration", duration_s)
        count = rng.poisson(self.rate_per_s * duration_s)
        return np.sort(rng.random(count)) * duration_s


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gamma-distributed gaps with a coefficient of variation: 1 is Poisson, 4 is very bursty, 0.25 nearly even.

    The first gap is the forward recurrence time of a stationary process (a length-biased gap times a uniform number),
    so that the mean count is exactly rate x duration whatever the CV (Cox, Renewal Theory, 1962, section 5.3).
    """

    rate_per_s: float
    cv: float

    def __post_init__(self) -> None:
        _check_positive("rate", self.rate_per_s)
        _check_positive("cv", self.cv)

    def times_s(self, rng: np.random.Generator, duration_s: float) -> FloatArray:
        _check_positive("duration", duration_s)
        shape = 1.0 / self.cv**2
        scale = 1.0 / (self.rate_per_s * shape)
        chunks = [np.array([rng.gamma(shape + 1.0, scale) * rng.random()])]
        last, size = float(chunks[0][0]), max(16, math.ceil(self.rate_per_s * duration_s))
        while last < duration_s:
            chunk = last + np.cumsum(rng.gamma(shape, scale, size))
            chunks.append(chunk)
            last = float(chunk[-1])
        times = np.concatenate(chunks)
        return times[times < duration_s]


@dataclass(frozen=True, slots=True)
class OnOff:
    """Bursts: an interrupted Poisson process with exponential on and off periods (means `on_s`, `off_s`).

    `rate_per_s` is the mean over both; inside a burst it is rate x (on + off) / on. It starts in the on state with
    probability on / (on + off), so that the mean holds from the first second.
    """

    rate_per_s: float
    on_s: float
    off_s: float

    def __post_init__(self) -> None:
        _check_positive("rate", self.rate_per_s)
        _check_positive("on_s", self.on_s)
        _check_positive("off_s", self.off_s)

    @property
    def burst_rate_per_s(self) -> float:
        """Requests per second inside a burst."""
        return self.rate_per_s * (self.on_s + self.off_s) / self.on_s

    def times_s(self, rng: np.random.Generator, duration_s: float) -> FloatArray:
        _check_positive("duration", duration_s)
        bursts: list[FloatArray] = []
        now, on = 0.0, bool(rng.random() < self.on_s / (self.on_s + self.off_s))
        while now < duration_s:
            length = rng.exponential(self.on_s if on else self.off_s)
            if on:
                count = rng.poisson(self.burst_rate_per_s * length)
                bursts.append(now + np.sort(rng.random(count)) * length)
            now, on = now + length, not on
        times = np.concatenate(bursts) if bursts else np.empty(0)
        return times[times < duration_s]


@dataclass(frozen=True, slots=True)
class Replay:
    """Recorded times as they are (`loadgen.traces` scales them); what lies past the duration is cut."""

    recorded_s: FloatArray

    def times_s(self, rng: np.random.Generator, duration_s: float) -> FloatArray:
        _check_positive("duration", duration_s)
        return self.recorded_s[self.recorded_s < duration_s]


def rng_for(seed: int, stream: str) -> np.random.Generator:
    """A generator of its own for each named stream: adding a tenant leaves the others' arrivals as they were."""
    return np.random.default_rng([seed, zlib.crc32(stream.encode())])


def merge(streams: Sequence[FloatArray]) -> tuple[FloatArray, IntArray, IntArray]:
    """One timeline out of several: times, stream number and position inside the stream, each of shape [sum of n].

    Equal times keep the order of the streams.
    """
    if not streams:
        return np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    times = np.concatenate(streams)
    owner = np.concatenate([np.full(len(s), i, np.int64) for i, s in enumerate(streams)])
    position = np.concatenate([np.arange(len(s), dtype=np.int64) for s in streams])
    order = np.argsort(times, kind="stable")
    return times[order], owner[order], position[order]


def _check_positive(field: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise InvalidInput(f"{field} must be a number above zero, got {value}", fields={"field": field})
