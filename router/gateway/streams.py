"""One stream of requests: run beside each other, answered in order, in bounded memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

STREAM_DEPTH = 64
"""Requests of one stream that run at once; answers keep the order of the requests."""
STREAM_BYTES = 64 << 20
"""Bytes of requests of one stream whose answers have not been taken."""


class AnswersInOrder:
    """Runs the requests of one stream beside each other and answers in their order.

    A caller that reads slowly holds at most `STREAM_DEPTH` requests and about `STREAM_BYTES` of them here; then its
    own stream stands still.
    """

    def __init__(self, run: Callable[[bytes], Awaitable[Any]], most_bytes: int = STREAM_BYTES) -> None:
        """`run` answers one request, and never raises."""
        self._run = run
        self._most_bytes = most_bytes
        self._answers: asyncio.Queue[tuple[asyncio.Future[Any], int] | None] = asyncio.Queue(maxsize=STREAM_DEPTH)
        self._bytes = 0
        self._room = asyncio.Event()

    async def read(self, requests: AsyncIterator[bytes]) -> None:
        """Starts each request as it comes and there is room for it."""
        try:
            async for raw in requests:
                while self._bytes and self._bytes + len(raw) > self._most_bytes:
                    self._room.clear()
                    await self._room.wait()
                self._bytes += len(raw)
                await self._answers.put((asyncio.ensure_future(self._run(raw)), len(raw)))
        finally:
            await self._answers.put(None)

    async def answers(self) -> AsyncIterator[Any]:
        """Each answer; the next one is waited for when the caller has taken this one."""
        while (next_one := await self._answers.get()) is not None:
            answer, size = next_one
            try:
                yield await answer
            finally:
                self._bytes -= size
                self._room.set()

    def cancel(self) -> None:
        """Ends what still runs."""
        while not self._answers.empty():
            left = self._answers.get_nowait()
            if left is not None:
                left[0].cancel()
