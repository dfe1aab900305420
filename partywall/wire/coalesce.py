"""Many small messages in one frame, but only where CPU is short.

A frame costs hundreds of microseconds of CPU on its way to the worker and back, whatever it holds. With CPU to spare
only time counts, and nothing waits: what comes together goes together. In need of CPU everybody waits for what frames
cost, so a busy link gathers for a window before it writes, and the window is the longer the busier its thread is. A
longer window makes the thread less busy: the two meet, and there is nothing to tip over.

Whether it gathers also depends on the *arrival rate*: enough must be expected within the longest window. What arrives
together counts once, as waiting brings nothing to a clump that is complete. What waits has no say in it, so waiting
cannot keep itself up. The *company*, how many are under way together, can only end a wait sooner: when as many wait
here, nobody is left to come. So a caller that sends one at a time never waits for itself, and a few go together as soon
as the last of them is here.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from partywall.clock import Clock

T = TypeVar("T")

WINDOW_S = 0.002
"""Of a thread without time to spare. uvloop's timers resolve one millisecond."""
IDLE_BELOW, BUSY_FROM = 0.6, 0.8
"""CPU shares of the thread between which the window opens. A router of which no more can be asked stands at 0.8: the
rest of the time its gRPC threads, the agent or the load have the cores."""
OPEN_AT_ARRIVALS = 2.0
"""Expected arrivals per (longest) window from which gathering pays."""
MEMORY_S, BUSY_MEMORY_S = 0.02, 0.1


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


class Busyness:
    """Share of the time that a thread computes, smoothed exponentially over `memory_s`; pure."""

    __slots__ = ("_at_s", "_cpu_s", "_memory_s", "share")

    def __init__(self, memory_s: float = BUSY_MEMORY_S) -> None:
        self._memory_s = memory_s
        self._cpu_s, self._at_s = math.inf, 0.0
        self.share = 0.0

    def look(self, cpu_s: float, now_s: float) -> None:
        """Takes in the thread's CPU seconds so far."""
        elapsed_s = now_s - self._at_s
        if elapsed_s > 0.0:
            used_s, self._cpu_s, self._at_s = max(0.0, cpu_s - self._cpu_s), cpu_s, now_s
            kept = math.exp(-elapsed_s / self._memory_s)
            self.share = self.share * kept + (1.0 - kept) * min(1.0, used_s / elapsed_s)


def opening(share: float) -> float:
    """What part of the longest window a thread gathers for that computes so much of the time, 0.0 to 1.0."""
    return min(1.0, max(0.0, (share - IDLE_BELOW) / (BUSY_FROM - IDLE_BELOW)))


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
        cpu_s: Callable[[], float] = time.thread_time,
    ) -> None:
        """
        Args:
            company: How many are under way together, what waits here among them.
            window_s: The window of a thread that has no time to spare; 0.0: nothing is gathered.
            cpu_s: CPU seconds of the loop's thread so far.
        """
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
        self._cpu_s = cpu_s
        self._busyness = Busyness()

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
            window_s = self._window()
            if window_s > 0.0:
                await self._gather(window_s)
            items, self._items = self._items[: self._max_items], self._items[self._max_items :]
            if not self._items:
                self._wake.clear()
            self._rate.add(self._arrivals, self._clock.monotonic())
            self._arrivals = 0.0
            await self._write(items)

    def _window(self) -> float:
        """How long to gather now, seconds."""
        self._enough = min(float(self._max_items), self._company() - 0.5)
        if self._window_s <= 0.0 or len(self._items) >= self._enough:
            return 0.0
        now_s = self._clock.monotonic()
        if self._rate.at(now_s) * self._window_s < OPEN_AT_ARRIVALS:
            return 0.0
        self._busyness.look(self._cpu_s(), now_s)
        return self._window_s * opening(self._busyness.share)

    async def _gather(self, window_s: float) -> None:
        loop = asyncio.get_running_loop()
        self._gathering = loop.create_future()
        timer = loop.call_later(window_s, self._go)
        try:
            await self._gathering
        finally:
            timer.cancel()
            self._gathering = None

    def _go(self) -> None:
        """Ends the wait, if there is one."""
        if self._gathering is not None and not self._gathering.done():
            self._gathering.set_result(None)
