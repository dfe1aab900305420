"""Many small messages in one frame, but only under load.

A gRPC message costs hundreds of microseconds of Python, whatever it holds, so a busy link gathers for one window
before it writes. The window opens on the *arrival rate*, not on what is outstanding: waiting does not raise the rate,
so the decision cannot feed on itself (a window tied to outstanding requests is bistable).
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from partywall.clock import Clock

T = TypeVar("T")

WINDOW_S = 0.001
"""uvloop's timers resolve one millisecond: a shorter window is none."""
OPEN_AT_ITEMS = 2.0
"""Expected items per window from which gathering pays."""
MEMORY_S = 0.02


class ArrivalRate:
    """Items per second, smoothed exponentially over `memory_s`; pure."""

    __slots__ = ("_at_s", "_memory_s", "_rate")

    def __init__(self, memory_s: float = MEMORY_S) -> None:
        self._memory_s = memory_s
        self._rate = 0.0
        self._at_s = 0.0

    def add(self, items: int, now_s: float) -> None:
        elapsed = now_s - self._at_s
        self._at_s = now_s
        self._rate = self._rate * math.exp(-elapsed / self._memory_s) + items / self._memory_s

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
        *,
        window_s: float = WINDOW_S,
        max_items: int = 256,
    ) -> None:
        self._write = write
        self._clock = clock
        self._window_s = window_s
        self._max_items = max_items
        self._items: list[T] = []
        self._wake = asyncio.Event()
        self._rate = ArrivalRate()

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T) -> None:
        self._items.append(item)
        self._wake.set()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            if self._window_s and self._rate.at(self._clock.monotonic()) * self._window_s >= OPEN_AT_ITEMS:
                await asyncio.sleep(self._window_s)
            items, self._items = self._items[: self._max_items], self._items[self._max_items :]
            if not self._items:
                self._wake.clear()
            self._rate.add(len(items), self._clock.monotonic())
            await self._write(items)
