"""Releases requests at their times, to a tenth of a millisecond.

An event loop's own timers are no use here: libuv (uvloop) and epoll round to whole milliseconds. A thread that waits
on a lock with a timeout is woken by the kernel's high-resolution timer and posts into the loop.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import numpy as np

from loadgen.arrivals import FloatArray
from partywall.clock import Clock


class Pacer:
    """Calls `release(n)` in the loop once the first n of the times have come.

    Args:
        due_s: Absolute times on the clock, ascending.
        release: Called in the loop's thread; n only grows, and may jump by more than one.
    """

    def __init__(self, due_s: FloatArray, clock: Clock, release: Callable[[int], None]) -> None:
        self._due_s = due_s
        self._clock = clock
        self._release = release
        self._stop = threading.Event()

    def stop(self) -> None:
        """Ends `run` at once; what was not released stays so. Safe from any thread."""
        self._stop.set()

    async def run(self) -> None:
        """Returns when all is released, or after `stop`."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        thread = threading.Thread(target=self._pace, args=(loop, done), name="pacer", daemon=True)
        thread.start()
        try:
            await done
        finally:
            self._stop.set()
            thread.join(timeout=1.0)

    def _pace(self, loop: asyncio.AbstractEventLoop, done: asyncio.Future[None]) -> None:
        released, total = 0, len(self._due_s)
        while released < total:
            wait_s = float(self._due_s[released]) - self._clock.monotonic()
            if wait_s > 0 and self._stop.wait(wait_s):
                break
            if self._stop.is_set():
                break
            due = int(np.searchsorted(self._due_s, self._clock.monotonic(), side="right"))
            if due > released:
                released = due
                loop.call_soon_threadsafe(self._release, released)
        loop.call_soon_threadsafe(_resolve, done)


def _resolve(done: asyncio.Future[None]) -> None:
    if not done.done():
        done.set_result(None)
