"""Many small messages in one frame, but only under load.

A gRPC message costs hundreds of microseconds of Python, whatever it holds, so a busy link gathers for one window
before it writes. Two things must hold. Enough must be expected to arrive meanwhile: that is the *arrival rate*, and it
counts what arrives together once, as waiting brings nothing to a clump that is complete. And there must be *company*:
other requests under way, or a caller that sends one at a time would wait for itself. Neither counts what waits here, so
the decision cannot feed on itself (a window tied to everything outstanding is bistable).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from partywall.clock import Clock

T = TypeVar("T")

WINDOW_S = 0.003
"""uvloop's timers resolve one millisecond: the window is 2.5 to 3.5 ms in truth."""
OPEN_AT_ARRIVALS = 3.0
"""Expected arrivals per window from which gathering pays."""
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
        """`company` answers, for an arrival rate in 1/s, how many other requests are under way."""
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
            if self._pays():
                await asyncio.sleep(self._window_s)
            items, self._items = self._items[: self._max_items], self._items[self._max_items :]
            if not self._items:
                self._wake.clear()
            self._rate.add(self._arrivals, self._clock.monotonic())
            self._arrivals = 0.0
            await self._write(items)

    def _pays(self) -> bool:
        if len(self._items) >= self._max_items:
            return False
        rate = self._rate.at(self._clock.monotonic())
        return rate * self._window_s >= OPEN_AT_ARRIVALS and self._company(rate) >= OPEN_AT_COMPANY
