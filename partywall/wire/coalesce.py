"""Many small messages in one frame, but only under load.

A gRPC message costs hundreds of microseconds of Python, whatever it holds, so a busy link gathers for a window before
it writes: the busier, the longer, up to a bound. At two thirds of what a process can do there is CPU to spare for
shorter frames, and the wait would be most of the latency; near the limit only full frames keep the link going.

Two things must hold. Enough must be expected to arrive meanwhile: that is the *arrival rate*, and it counts what
arrives together once, as waiting brings nothing to a clump that is complete. And there must be *company*: other
requests under way, or a caller that sends one at a time would wait for itself. Neither counts what waits here, so the
decision cannot feed on itself (a window tied to everything outstanding is bistable).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from partywall.clock import Clock

T = TypeVar("T")

WINDOW_S = 0.003
"""The longest window. uvloop's timers resolve one millisecond: it is 2.5 to 3.5 ms in truth."""
OPEN_AT_ARRIVALS = 4.0
"""Expected arrivals per longest window from which gathering pays."""
FULL_AT_ARRIVALS = 12.0
"""Expected arrivals per longest window from which it is taken whole."""
SHORTEST_S = 0.0005
"""Below, a timer of uvloop would not wait at all."""
OPEN_AT_COMPANY = 2.0
"""Other requests under way from which gathering pays."""
MEMORY_S = 0.02


class ArrivalRate:
    """Arrivals per second, smoothed exponentially over `memory_s`; pure."""

    __slots__ = ("_at_s", "_memory_s", "_rate")

    def __init__(self, memory_s: float = MEMORY_S) -> None:
        self._memory_s = memory_s
        self._rate = 0.0
        self._at_s = 0.0

    def add(self, arrivals: float, now_s: float) -> None:
        elapsed = now_s - self._at_s
        self._at_s = now_s
        self._rate = self._rate * math.exp(-elapsed / self._memory_s) + arrivals / self._memory_s

    def at(self, now_s: float) -> float:
        return self._rate * math.exp(-(now_s - self._at_s) / self._memory_s)


def gather_s(rate_per_s: float, company: float, longest_s: float) -> float:
    """How long to gather, in seconds, at an arrival rate and with so many other requests under way; pure.

    A longer window makes callers in a closed loop come more slowly, and a lower rate shortens it: it settles.
    """
    if company < OPEN_AT_COMPANY:
        return 0.0
    share = (rate_per_s * longest_s - OPEN_AT_ARRIVALS) / (FULL_AT_ARRIVALS - OPEN_AT_ARRIVALS)
    window_s = longest_s * min(1.0, share)
    return window_s if window_s >= SHORTEST_S else 0.0


class Coalescer(Generic[T]):
    """Gathers items and hands them to `write` in order, one call at a time.

    `add` never blocks. `run` must be running for anything to be written; it ends with the first error of `write`, or
    when cancelled. `write` applies the link's flow control: while it waits, items gather.
    """

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[None]],
        clock: Clock,
        company: Callable[[float], float],
        *,
        window_s: float = WINDOW_S,
        max_items: int = 256,
    ) -> None:
        """`company` answers, for an arrival rate in 1/s, how many other requests are under way; `window_s` is the
        longest window, 0.0: nothing is gathered on purpose."""
        self._write = write
        self._clock = clock
        self._company = company
        self._window_s = window_s
        self._max_items = max_items
        self._items: list[T] = []
        self._wake = asyncio.Event()
        self._rate = ArrivalRate()
        self._arrivals = 0.0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, arrivals: float = 1.0) -> None:
        """Queues an item; one of `n` that arrive together counts as 1/n arrivals."""
        self._items.append(item)
        self._arrivals += arrivals
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            if window_s := self._gather_s():
                await asyncio.sleep(window_s)
            items, self._items = self._items[: self._max_items], self._items[self._max_items :]
            if not self._items:
                self._wake.clear()
            self._rate.add(self._arrivals, self._clock.monotonic())
            self._arrivals = 0.0
            await self._write(items)

    def _gather_s(self) -> float:
        if len(self._items) >= self._max_items or not self._window_s:
            return 0.0
        rate = self._rate.at(self._clock.monotonic())
        return gather_s(rate, self._company(rate), self._window_s)
