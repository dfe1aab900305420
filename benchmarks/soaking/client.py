"""The soak's load: paced requests from many connections, some of them cancelled, reset, hurried or read slowly."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np

from benchmarks.soaking.ledger import HEAD, SLOTS
from benchmarks.soaking.verdict import Seen
from partywall.errors import Reason
from partywall.wire import inference as oip
from partywall.wire.status import from_rpc_error

MODEL = "ledger"
WORDS, LARGE_WORDS = 128, 20_000
DEADLINE_S, HURRIED_S = 10.0, 0.02
OVERDUE_S = 5.0
"""A call that has not ended so long after its deadline is lost."""
MOST_OPEN = 2000
SLOW_READ_S = 0.05
NOT_EXECUTED = frozenset(
    {Reason.QUEUE_FULL, Reason.DEADLINE_UNREACHABLE, Reason.RATE_LIMITED, Reason.TOO_MANY_IN_FLIGHT, Reason.DRAINING}
)


@dataclass(frozen=True, slots=True)
class Mix:
    """Shares of requests."""

    cancelled: float = 0.05
    hurried: float = 0.02
    large: float = 0.01


class Load:
    """Sends, checks and books every request by its number."""

    def __init__(self, channels: Sequence[grpc.aio.Channel], key: str, rng: random.Random, mix: Mix) -> None:
        self._channels = channels
        self._calls = [channel.unary_unary(f"/{oip.SERVICE_NAME}/ModelInfer") for channel in channels]
        self._metadata = (("authorization", f"Bearer {key}"),)
        self._rng = rng
        self._mix = mix
        self._next = 1
        self.seen = np.zeros(SLOTS, np.uint8)
        self.errors: Counter[str] = Counter()
        self.latencies_ms: deque[float] = deque(maxlen=200_000)
        self.slow_answers = 0

    @property
    def numbers(self) -> int:
        """One more than the highest number given out."""
        return self._next

    async def closed(self, seconds: float, in_flight: int) -> float:
        """Requests that ended per second, with `in_flight` callers that wait for each end."""
        end_s, counts = time.monotonic() + seconds, 0

        async def caller(index: int) -> None:
            nonlocal counts
            while time.monotonic() < end_s:
                await self._one(index % len(self._calls))
                counts += 1

        await asyncio.gather(*(caller(index) for index in range(in_flight)))
        return counts / seconds

    async def paced(self, seconds: float, rate_per_s: float) -> None:
        """Poisson arrivals for so long; returns when every request has ended."""
        start_s, open_tasks = time.monotonic(), set[asyncio.Task[None]]()
        due_s = start_s
        while due_s < start_s + seconds and self._next < SLOTS - 1:
            due_s += self._rng.expovariate(rate_per_s)
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            if len(open_tasks) >= MOST_OPEN:
                await asyncio.wait(open_tasks, return_when=asyncio.FIRST_COMPLETED)
            task = asyncio.create_task(self._one(self._rng.randrange(len(self._calls))))
            open_tasks.add(task)
            task.add_done_callback(open_tasks.discard)
        if open_tasks:
            await asyncio.gather(*open_tasks)

    async def slow_reader(self, until: asyncio.Event) -> None:
        """Streams of large requests whose answers are read one by one, slowly."""
        while not until.is_set():
            channel = self._channels[self._rng.randrange(len(self._channels))]
            await self._slow_stream(channel)

    async def _slow_stream(self, channel: grpc.aio.Channel) -> None:
        orders = [self._order(LARGE_WORDS) for _ in range(16)]

        async def requests() -> AsyncIterator[bytes]:
            for _, _, request in orders:
                yield request

        path, _, parse, _ = oip.method_codec("ModelStreamInfer")
        call: Any = channel.stream_stream(path)(requests(), metadata=self._metadata, timeout=60.0)
        waiting = deque(orders)
        try:
            async for raw in call:
                number, payload, _ = waiting.popleft()
                answer = parse(raw)
                if answer.error_message:
                    self._book(number, Seen.UNKNOWN, answer.error_message[1:].partition("]")[0])
                else:
                    self._check(number, payload, answer.infer_response)
                    self.slow_answers += 1
                await asyncio.sleep(SLOW_READ_S)
        except grpc.RpcError as failure:
            self.errors[f"stream: {from_rpc_error(failure).reason.value}"] += 1
        for number, _, _ in waiting:
            self._book(number, Seen.UNKNOWN)

    async def _one(self, index: int) -> None:
        dice = self._rng.random()
        large, hurried, cancelled = self._mix.large, self._mix.hurried, self._mix.cancelled
        number, payload, request = self._order(LARGE_WORDS if dice < large else WORDS)
        timeout_s = HURRIED_S if large <= dice < large + hurried else DEADLINE_S
        started_s = time.monotonic()
        call: Any = self._calls[index](request, metadata=self._metadata, timeout=timeout_s)
        if large + hurried <= dice < large + hurried + cancelled:
            asyncio.get_running_loop().call_later(self._rng.expovariate(1 / 0.01), call.cancel)
        try:
            async with asyncio.timeout(timeout_s + OVERDUE_S):
                raw = await call
        except grpc.RpcError as failure:
            error = from_rpc_error(failure)
            kind = Seen.REFUSED if error.reason in NOT_EXECUTED else Seen.UNKNOWN
            self._book(number, kind, error.reason.value)
        except asyncio.CancelledError:
            self._book(number, Seen.UNKNOWN, "cancelled by the caller")
        except TimeoutError:
            self._book(number, Seen.LOST, "lost")
        else:
            self._check(number, payload, oip.ModelInferResponse.FromString(raw))
            self.latencies_ms.append((time.monotonic() - started_s) * 1e3)

    def _order(self, words: int) -> tuple[int, bytes, bytes]:
        """(number, payload, serialised request)."""
        number, self._next = self._next, self._next + 1
        payload = self._rng.randbytes(8 * (words - HEAD))
        message = oip.ModelInferRequest(model_name=MODEL, id=str(number))
        message.inputs.add(name="x", datatype="INT64", shape=[1, words])
        message.raw_input_contents.append(struct.pack("<qq", number, 0) + payload)
        return number, payload, message.SerializeToString()

    def _check(self, number: int, payload: bytes, answer: Any) -> None:
        raw = answer.raw_output_contents[0]
        turned = (~np.frombuffer(payload, "<i8")).tobytes()
        right = answer.id == str(number) and raw[: 8 * HEAD] == struct.pack("<qq", number, 1)
        self._book(number, Seen.OK if right and raw[8 * HEAD :] == turned else Seen.WRONG)

    def _book(self, number: int, kind: Seen, why: str = "") -> None:
        if self.seen[number]:
            # Two ends of one request: the second is as wrong as an end can be.
            kind = Seen.WRONG
        self.seen[number] = kind
        if why:
            self.errors[why] += 1

    async def executions(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """How often the worker executed each number; by number, element 0 unused."""
        width = LARGE_WORDS - HEAD
        out = []
        for block in range(-(-self._next // width)):
            message = oip.ModelInferRequest(model_name=MODEL, id=f"block-{block}")
            message.inputs.add(name="x", datatype="INT64", shape=[1, LARGE_WORDS])
            message.raw_input_contents.append(struct.pack("<qq", -1 - block, 0) + bytes(8 * width))
            raw = await self._calls[0](message.SerializeToString(), metadata=self._metadata, timeout=DEADLINE_S)
            answer = oip.ModelInferResponse.FromString(raw)
            out.append(np.frombuffer(answer.raw_output_contents[0], "<i8")[HEAD:])
        counts: np.ndarray[Any, np.dtype[np.int64]] = np.concatenate(out)[: self._next]
        return counts
