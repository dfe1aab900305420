"""The window opens under load and closes by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest

from partywall.clock import SystemClock
from partywall.wire.coalesce import (
    FULL_AT_ARRIVALS,
    OPEN_AT_ARRIVALS,
    OPEN_AT_COMPANY,
    SHORTEST_S,
    WINDOW_S,
    ArrivalRate,
    Coalescer,
    gather_s,
)


def test_the_rate_follows_arrivals_and_decays() -> None:
    rate = ArrivalRate(memory_s=0.02)
    now = 0.0
    for _ in range(400):
        now += 0.00025
        rate.add(1, now)
    assert rate.at(now) == pytest.approx(4000, rel=0.05)
    assert rate.at(now + 0.2) < 1.0


def crowd(rate: float) -> float:
    return 100.0


def alone(rate: float) -> float:
    return OPEN_AT_COMPANY / 2


async def frames_of(company: Callable[[float], float], arrivals: float, seconds: float = 0.3) -> list[int]:
    """Sizes of the frames while items come one by one, sixteen in the longest window."""
    sizes: list[int] = []

    async def write(items: list[int]) -> None:
        sizes.append(len(items))

    coalescer: Coalescer[int] = Coalescer(write, SystemClock(), company)
    task = asyncio.create_task(coalescer.run())
    end_s = time.monotonic() + seconds
    next_s = time.monotonic()
    while (now_s := time.monotonic()) < end_s:
        if now_s >= next_s:
            coalescer.add(1, arrivals)
            next_s += WINDOW_S / 16
        await asyncio.sleep(0)
    task.cancel()
    return sizes


def test_the_window_grows_with_the_rate_up_to_its_bound() -> None:
    def at(arrivals: float) -> float:
        return gather_s(arrivals / WINDOW_S, 10.0, WINDOW_S)

    assert at(OPEN_AT_ARRIVALS) == 0.0
    middle = at((OPEN_AT_ARRIVALS + FULL_AT_ARRIVALS) / 2)
    assert middle == pytest.approx(WINDOW_S / 2)
    assert at(FULL_AT_ARRIVALS) == at(10 * FULL_AT_ARRIVALS) == pytest.approx(WINDOW_S)
    assert all(at(n / 4) == 0.0 or SHORTEST_S <= at(n / 4) <= WINDOW_S for n in range(100))


def test_no_company_no_window() -> None:
    assert gather_s(1e6, OPEN_AT_COMPANY / 2, WINDOW_S) == 0.0


def test_a_closed_loop_settles_on_one_window() -> None:
    """Callers that wait for each answer: whatever the window was, the next ones come to the same."""
    ends = set()
    for start_s in (0.0, WINDOW_S / 2, WINDOW_S):
        window_s = start_s
        for _ in range(200):
            rate = 24 / (0.004 + window_s)
            window_s += 0.2 * (gather_s(rate, 10.0, WINDOW_S) - window_s)
        ends.add(round(window_s, 6))
    assert len(ends) == 1


async def test_many_arrivals_in_company_share_frames() -> None:
    sizes = await frames_of(crowd, 1.0)
    assert sum(sizes) / len(sizes) > OPEN_AT_ARRIVALS


async def test_a_caller_alone_never_waits() -> None:
    assert max(await frames_of(alone, 1.0)) <= 2


async def test_clumps_that_are_complete_never_wait() -> None:
    """Sixteen a window, all together: one arrival a window, which is below what opens it."""
    assert max(await frames_of(crowd, 1.0 / 16)) <= 2


async def test_items_keep_their_order_and_come_once() -> None:
    frames: list[list[int]] = []
    done = asyncio.Event()

    async def write(items: list[int]) -> None:
        frames.append(items)
        if sum(map(len, frames)) == 1000:
            done.set()

    coalescer: Coalescer[int] = Coalescer(write, SystemClock(), crowd, max_items=64)
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

    coalescer: Coalescer[int] = Coalescer(write, SystemClock(), crowd, window_s=0.0)
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

    coalescer: Coalescer[int] = Coalescer(write, SystemClock(), crowd)
    coalescer.add(1)
    with pytest.raises(ConnectionError):
        await coalescer.run()
