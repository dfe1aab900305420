"""The window opens under load and closes by itself."""

from __future__ import annotations

import asyncio

import pytest

from partywall.clock import SystemClock
from partywall.wire.coalesce import OPEN_AT_ITEMS, ArrivalRate, Coalescer


def test_the_rate_follows_arrivals_and_decays() -> None:
    rate = ArrivalRate(memory_s=0.02)
    now = 0.0
    for _ in range(400):
        now += 0.00025
        rate.add(1, now)
    assert rate.at(now) == pytest.approx(4000, rel=0.05)
    assert rate.at(now + 0.2) < 1.0


def test_one_caller_at_a_time_never_opens_a_millisecond_window() -> None:
    """A closed loop of one with 1 ms per call is 1,000 per second: below the two expected items that open it."""
    rate = ArrivalRate()
    now = 0.0
    for _ in range(500):
        now += 0.001
        rate.add(1, now)
        assert rate.at(now) * 0.001 < OPEN_AT_ITEMS


async def test_items_keep_their_order_and_come_once() -> None:
    frames: list[list[int]] = []
    done = asyncio.Event()

    async def write(items: list[int]) -> None:
        frames.append(items)
        if sum(map(len, frames)) == 1000:
            done.set()

    coalescer: Coalescer[int] = Coalescer(write, SystemClock(), max_items=64)
    task = asyncio.create_task(coalescer.run())
    for number in range(1000):
        coalescer.add(number)
        if number % 10 == 0:
            await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await done.wait()
    task.cancel()
    assert [i for frame in frames for i in frame] == list(range(1000))
    assert max(map(len, frames)) <= 64
    assert len(coalescer) == 0


async def test_while_a_write_waits_items_gather() -> None:
    frames: list[list[int]] = []
    gate = asyncio.Event()

    async def write(items: list[int]) -> None:
        frames.append(items)
        await gate.wait()

    coalescer: Coalescer[int] = Coalescer(write, SystemClock(), window_s=0.0)
    task = asyncio.create_task(coalescer.run())
    coalescer.add(0)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for number in range(1, 5):
        coalescer.add(number)
    gate.set()
    async with asyncio.timeout(5):
        while len(frames) < 2:
            await asyncio.sleep(0)
    task.cancel()
    assert frames == [[0], [1, 2, 3, 4]]


async def test_an_error_of_the_link_ends_the_writer() -> None:
    async def write(items: list[int]) -> None:
        raise ConnectionError("gone")

    coalescer: Coalescer[int] = Coalescer(write, SystemClock())
    coalescer.add(1)
    with pytest.raises(ConnectionError):
        await coalescer.run()
