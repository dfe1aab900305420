"""One run as interleaved rounds: alone, both, the probe alone, again and again, and medians of the ratios.

A machine's clock, its other programs and its caches drift over seconds, so a slowdown is only as good as its solo is
near: each co-run window is divided by the solo windows before and after it, and one disturbed round does not move the
median (the reasoning of paired, interleaved measurements: Kalibera and Jones, ISMM 2013).
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partywall.errors import InvalidInput

_CUT = 10


@dataclass(frozen=True, slots=True)
class Pace:
    """How long a window is and how often it is repeated.

    `window_s` holds unless fewer than `least_batches` fit; then the window grows up to `longest_s`.
    """

    rounds: int = 5
    window_s: float = 0.4
    least_batches: int = 8
    longest_s: float = 3.0
    warmup_s: float = 0.3

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.least_batches < 1 or min(self.window_s, self.longest_s) <= 0 or self.warmup_s < 0:
            raise InvalidInput(f"a pace needs at least one round and batch and positive windows: {self}")

    def window_for(self, batch_s: float) -> float:
        """Seconds of a window for batches of this length."""
        return min(max(self.window_s, self.least_batches * batch_s), max(self.longest_s, self.window_s))


FULL = Pace()
QUICK = Pace(rounds=3, window_s=0.15, least_batches=4, longest_s=0.6, warmup_s=0.1)


@dataclass(frozen=True, slots=True)
class Round:
    """Means of one round's windows in ms; `alone_after_ms` is the next round's solo, or one taken after the last."""

    alone_ms: float
    beside_ms: float
    alone_after_ms: float
    probe_alone_ms: float
    probe_beside_ms: float

    @property
    def solo_ms(self) -> float:
        """The solo that stands for this round: the geometric mean of the one before and the one after."""
        return math.sqrt(self.alone_ms * self.alone_after_ms)


@dataclass(frozen=True, slots=True)
class CoRun:
    """Medians over rounds. `spread` and `probe_spread` are the relative spreads (quartiles) of the two slowdowns."""

    alone_ms: float
    latency_ms: float
    probe_slowdown: float
    spread: float
    probe_spread: float


def window_mean_ms(batches_s: Sequence[float]) -> float:
    """Mean of the middle 80 % of a window's batches, in ms.

    Raises:
        InvalidInput: No batch ended in the window.
    """
    if not batches_s:
        raise InvalidInput("no batch ended in the window; measure longer windows")
    ordered = sorted(batches_s)
    cut = len(ordered) // _CUT
    return 1e3 * float(np.mean(ordered[cut : len(ordered) - cut]))


def combine(rounds: Sequence[Round]) -> CoRun:
    """Medians of the rounds' ratios; InvalidInput without any round."""
    if not rounds:
        raise InvalidInput("rounds must hold at least one; measure again")
    ratios = [r.beside_ms / r.solo_ms for r in rounds]
    probe = [r.probe_beside_ms / r.probe_alone_ms for r in rounds]
    alone = statistics.median(r.solo_ms for r in rounds)
    return CoRun(
        alone_ms=alone,
        latency_ms=alone * statistics.median(ratios),
        probe_slowdown=statistics.median(probe),
        spread=relative_spread(ratios),
        probe_spread=relative_spread(probe),
    )


def relative_spread(values: Sequence[float]) -> float:
    """Distance between the quartiles / median: half of all rounds lie within it."""
    low, middle, high = np.quantile(np.asarray(values, dtype=float), [0.25, 0.5, 0.75])
    return float((high - low) / middle)
