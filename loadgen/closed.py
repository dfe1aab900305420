"""The closed loop: a fixed number of callers, each sending when its last answer came. For measuring capacity only.

A closed loop slows down with the server, so its latencies say nothing about users who come on their own (see
`loadgen.runner`); its throughput at enough concurrency is the capacity.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from loadgen.arrivals import FloatArray
from loadgen.runner import Caller
from partywall.clock import Clock, SystemClock
from partywall.errors import InvalidInput


@dataclass(frozen=True, slots=True)
class ClosedResult:
    """Latencies in seconds of what was answered inside the window, shape [n], and the window's length."""

    latency_s: FloatArray
    elapsed_s: float

    @property
    def rate_per_s(self) -> float:
        """Answers per second."""
        return len(self.latency_s) / self.elapsed_s

    @property
    def p50_ms(self) -> float:
        """Median latency; NaN when nothing was answered."""
        return float(np.median(self.latency_s)) * 1e3 if len(self.latency_s) else float("nan")


async def closed_loop(
    call: Caller,
    payloads: Sequence[bytes],
    *,
    concurrency: int,
    duration_s: float,
    warmup_s: float = 0.0,
    timeout_s: float = 30.0,
    clock: Clock | None = None,
) -> ClosedResult:
    """Keeps `concurrency` requests under way for warm-up and duration; counts what ends inside the duration.

    Raises:
        InvalidInput: Nothing to send, or no concurrency.
        PartywallError: The first error any call met: a capacity of failures is no capacity.
    """
    if concurrency < 1 or not payloads:
        raise InvalidInput("closed loop: concurrency and payloads must not be empty", fields={"field": "concurrency"})
    clock = clock or SystemClock()
    begin_s = clock.monotonic() + warmup_s
    end_s = begin_s + duration_s
    taken: list[float] = []
    turns: Iterator[bytes] = itertools.cycle(payloads)

    async def caller() -> None:
        while (sent_s := clock.monotonic()) < end_s:
            await call(next(turns), timeout_s)
            now_s = clock.monotonic()
            if begin_s <= now_s < end_s:
                taken.append(now_s - sent_s)

    tasks = [asyncio.ensure_future(caller()) for _ in range(concurrency)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return ClosedResult(np.array(taken, np.float64), duration_s)
