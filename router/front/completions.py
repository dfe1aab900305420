"""Completions of gRPC's core on an asyncio loop.

A thread waits for the first one and wakes the loop; the loop takes it and all that have come meanwhile, and only when
none is left lets the thread wait again. So a busy loop is not woken at all, and one thread at a time asks the queue.
(grpc.aio wakes the loop by a byte through a socket for each completion, four of them per call: most of what a call
costs there. Figures: docs/performance.md.)
"""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import structlog

from router.front import core

log = structlog.get_logger(__name__)

AT_ONCE = 64
"""Completions that are handled before the loop looks after everything else."""


_NO_MORE = (core.TIMEOUT, core.SHUTDOWN)
"""The thread sees a shutdown too: the queue says so as often as it is asked."""


class Completions:
    """Hands events to their tags, in the loop that `start` was called from. One use."""

    def __init__(self, queue: core.CompletionQueue) -> None:
        self._queue = queue
        self._turn = threading.Semaphore(0)
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._wait, name="grpc-completions", daemon=True)

    def start(self) -> None:
        """Begins to hand out events."""
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, within_s: float) -> bool:
        """Ends the queue and its thread, every call must have ended; answers whether that was done in time."""
        self._queue.shutdown()
        try:
            await asyncio.wait_for(self._ended.wait(), within_s)
        except TimeoutError:
            return False
        # It has nothing left to do but to return.
        await asyncio.to_thread(self._thread.join, within_s)
        return True

    def _wait(self) -> None:
        while True:
            event = self._queue.poll()
            ended = event.completion_type == core.SHUTDOWN
            try:
                self._loop.call_soon_threadsafe(self._ended.set if ended else self._take, *(() if ended else (event,)))
            except RuntimeError:
                return  # The loop is closed: nobody is left to answer.
            if ended:
                return
            # The core waits for a call's end as long as something holds on to it.
            event = None
            self._turn.acquire()

    def _take(self, event: Any) -> None:
        """Handles an event, and those after it as long as there are any."""
        queue = self._queue
        for _ in range(AT_ONCE):
            try:
                event.tag(event)
            except Exception:  # One call's trouble must not end everybody's.
                log.exception("a completion was not handled")
            event = queue.poll(core.PAST)
            if event.completion_type in _NO_MORE:
                self._turn.release()
                return
        self._loop.call_soon(self._take, event)
