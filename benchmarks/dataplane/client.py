"""A load client on grpc.aio, in a process of its own: `python -m benchmarks.dataplane.client '{"address": ...}'`."""

from __future__ import annotations

import asyncio
import itertools
import json
import random
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import uvloop

from benchmarks.dataplane import payload

TIMEOUT_S = 10.0


class Run:
    """One order: its channels, its requests, what came of them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self._order = order
        self._request = payload.request_bytes(order["values"])
        self._metadata = tuple((name, value) for name, value in order["metadata"])
        self._left: Iterator[int] = iter(range(order["requests"]))
        self.latencies_ms: list[float] = []
        self.failed = 0

    async def run(self) -> float:
        """Seconds from the first request to the last answer."""
        options = (("grpc.use_local_subchannel_pool", 1), ("grpc.max_receive_message_length", -1))
        channels = [
            grpc.aio.insecure_channel(self._order["address"], options=options)
            for _ in range(self._order["connections"])
        ]
        try:
            await asyncio.gather(*(channel.channel_ready() for channel in channels))
            calls: list[Any] = [channel.unary_unary(payload.METHOD) for channel in channels]
            started_s = time.monotonic()
            if self._order["rate_per_s"]:
                await self._open(calls, started_s)
            else:
                await asyncio.gather(*(self._closed(call) for call in calls for _ in range(self._order["streams"])))
            return time.monotonic() - started_s
        finally:
            await asyncio.gather(*(channel.close() for channel in channels))

    async def _closed(self, call: Any) -> None:
        for _ in self._left:
            await self._one(call, time.monotonic())

    async def _open(self, calls: list[Any], started_s: float) -> None:
        """Poisson arrivals; latency counts from the intended time."""
        rng = random.Random(1)
        due_s, tasks = started_s, []
        for _, call in zip(self._left, itertools.cycle(calls), strict=False):
            due_s += rng.expovariate(self._order["rate_per_s"])
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            tasks.append(asyncio.create_task(self._one(call, due_s)))
        await asyncio.gather(*tasks)

    async def _one(self, call: Any, since_s: float) -> None:
        try:
            await call(self._request, metadata=self._metadata, timeout=TIMEOUT_S)
        except grpc.RpcError:
            self.failed += 1
        else:
            self.latencies_ms.append((time.monotonic() - since_s) * 1e3)


async def _main(order: dict[str, Any]) -> None:
    run = Run(order)
    seconds = await run.run()
    answer = {
        "completed": len(run.latencies_ms),
        "failed": run.failed,
        "seconds": seconds,
        "latencies_ms": run.latencies_ms,
    }
    json.dump(answer, sys.stdout)


if __name__ == "__main__":
    uvloop.run(_main(json.loads(sys.argv[1])))
