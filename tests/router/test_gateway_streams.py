"""A stream's answers keep their order, and a caller that does not read holds a bounded share of memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from router.gateway.streams import STREAM_DEPTH, AnswersInOrder


async def requests(sizes: list[int], taken: list[int]) -> AsyncIterator[bytes]:
    for number, size in enumerate(sizes):
        taken.append(number)
        yield number.to_bytes(2, "big") + bytes(size)


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def run(raw: bytes) -> int:
    number = int.from_bytes(raw[:2], "big")
    # Later ones are ready first.
    for _ in range(20 - number % 20):
        await asyncio.sleep(0)
    return number


async def test_answers_keep_the_order_of_requests() -> None:
    stream, taken = AnswersInOrder(run), list[int]()
    reader = asyncio.create_task(stream.read(requests([10] * 200, taken)))
    assert [answer async for answer in stream.answers()] == list(range(200))
    await reader


async def test_a_reader_that_stands_still_stops_its_own_stream_by_bytes() -> None:
    stream, taken = AnswersInOrder(run, most_bytes=1000), list[int]()
    reader = asyncio.create_task(stream.read(requests([400] * 10, taken)))
    answers = stream.answers()
    assert await anext(answers) == 0
    await settle()
    # Two are held, the third waits outside.
    assert len(taken) == 3
    rest = [answer async for answer in answers]
    assert rest == list(range(1, 10))
    await reader


async def test_one_request_above_the_bound_still_passes() -> None:
    stream = AnswersInOrder(run, most_bytes=10)
    reader = asyncio.create_task(stream.read(requests([500, 500, 1], [])))
    assert [answer async for answer in stream.answers()] == [0, 1, 2]
    await reader


async def test_a_reader_that_stands_still_stops_its_own_stream_by_number() -> None:
    stream, taken = AnswersInOrder(run), list[int]()
    reader = asyncio.create_task(stream.read(requests([1] * 500, taken)))
    await settle()
    assert len(taken) <= STREAM_DEPTH + 1
    reader.cancel()
    stream.cancel()
    await asyncio.gather(reader, return_exceptions=True)
