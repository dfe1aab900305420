"""Many small messages in one frame, but only under load.

A frame costs hundreds of microseconds of CPU on its way to the worker and back, whatever it holds, so a busy link
gathers for one window before it writes. Whether it gathers depends on the *arrival rate* alone: enough must be expected
within the window. What arrives together counts once, as waiting brings nothing to a clump that is complete. What waits
has no say in it, so waiting cannot keep itself up. The *company*, how many are under way together, can only end a wait
sooner: when as many wait here, nobody is left to come. So a caller that sends one at a time never waits for itself, and
a few go together as soon as the last of them is here.
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


class Crowd:
    """The most that were together of late; forgotten exponentially over `memory_s`; pure."""

    __slots__ = ("_at_s", "_memory_s", "_most")

    def __init__(self, memory_s: float = 0.1) -> None:
        self._memory_s = memory_s
        self._most = 0.0
        self._at_s = 0.0

    def add(self, together: int, now_s: float) -> None:
        self._most = max(float(together), self.at(now_s))
        self._at_s = now_s

    def at(self, now_s: float) -> float:
        return self._most * math.exp((self._at_s - now_s) / self._memory_s)


class Coalescer(Generic[T]):
    """Gathers items and hands them to `write` in order, one call at a time.

    `add` never blocks. `run` must be running for anything to be written; it ends with the first error of `write`, or
    when cancelled. `write` applies the link's flow control: while it waits, items gather.
    """

    def __init__(
        self,
        write: Callable[[list[T]], Awaitable[None]],
        clock: Clock,
        company: Callable[[], float],
        *,
        window_s: float = WINDOW_S,
        max_items: int = 256,
    ) -> None:
        """`company` answers how many are under way together, what waits here among them."""
        self._write = write
        self._clock = clock
        self._company = company
        self._window_s = window_s
        self._max_items = max_items
        self._items: list[T] = []
        self._wake = asyncio.Event()
        self._rate = ArrivalRate()
        self._arrivals = 0.0
        self._gathering: asyncio.Future[None] | None = None
        self._enough = 0.0

    def __len__(self) -> int:
        return len(self._items)

    def add(self, item: T, arrivals: float = 1.0) -> None:
        """Queues an item; one of `n` that arrive together counts as 1/n arrivals."""
        self._items.append(item)
        self._arrivals += arrivals
        if not self._wake.is_set():
            self._wake.set()
        elif len(self._items) >= self._enough:
            self._go()

    async def run(self) -> None:
        while True:
            await self._wake.wait()
            if self._pays():
                await self._gather()
            items, self._items = self._items[: self._max_items], self._items[self._max_items :]
            if not self._items:
                self._wake.clear()
            self._rate.add(self._arrivals, self._clock.monotonic())
            self._arrivals = 0.0
            await self._write(items)

    def _pays(self) -> bool:
        self._enough = min(float(self._max_items), self._company() - 0.5)
        if len(self._items) >= self._enough:
            return False
        return self._rate.at(self._clock.monotonic()) * self._window_s >= OPEN_AT_ARRIVALS

    async def _gather(self) -> None:
        loop = asyncio.get_running_loop()
        self._gathering = loop.create_future()
        timer = loop.call_later(self._window_s, self._go)
        try:
            await self._gathering
        finally:
            timer.cancel()
            self._gathering = None

    def _go(self) -> None:
        """Ends the wait, if there is one."""
        if self._gathering is not None and not self._gathering.done():
            self._gathering.set_result(None)
