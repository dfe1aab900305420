"""The window opens under load and closes by itself."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable

import pytest

from partywall.clock import SystemClock, VirtualClock
from partywall.wire.coalesce import (
    BUSY_FROM,
    IDLE_BELOW,
    OPEN_AT_ARRIVALS,
    WINDOW_S,
    ArrivalRate,
    Busyness,
    Coalescer,
    Crowd,
    opening,
)


def test_the_rate_follows_arrivals_and_decays() -> None:
    rate = ArrivalRate(memory_s=0.02)
    now = 0.0
    for _ in range(400):
        now += 0.00025
        rate.add(1, now)
    assert rate.at(now) == pytest.approx(4000, rel=0.05)
    assert rate.at(now + 0.2) < 1.0


def test_a_crowd_is_remembered_for_a_while() -> None:
    seen = Crowd(memory_s=0.1)
    seen.add(8, 1.0)
    seen.add(3, 1.05)
    assert 4 < seen.at(1.05) < 8
    assert seen.at(2.0) < 0.1
    seen.add(9, 2.0)
    assert seen.at(2.0) == 9


def test_busyness_is_the_share_of_the_time_that_a_thread_computes() -> None:
    busyness = Busyness(memory_s=0.1)
    busyness.look(7.0, 100.0)
    assert busyness.share == 0.0
    for step in range(1, 101):
        busyness.look(7.0 + 0.006 * step, 100.0 + 0.01 * step)
    assert busyness.share == pytest.approx(0.6, abs=0.01)
    busyness.look(7.6, 101.0)
    busyness.look(7.6, 103.0)
    assert busyness.share < 0.01


def test_the_window_grows_with_busyness_between_its_bounds() -> None:
    shares = [0.0, IDLE_BELOW, 0.6, 0.7, BUSY_FROM, 1.0]
    parts = [opening(share) for share in shares]
    assert parts == sorted(parts)
    assert parts[:2] == [0.0, 0.0]
    assert parts[-2:] == [1.0, 1.0]


def crowd() -> float:
    return 100.0


def alone() -> float:
    return 1.0


class Leaping(selectors.DefaultSelector):
    """Instead of waiting for a timer it moves the clock to it."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__()
        self._clock = clock

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready and timeout:
            self._clock.advance(timeout)
        return ready


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop whose timers run on a virtual clock."""

    def __init__(self, clock: VirtualClock) -> None:
        super().__init__(Leaping(clock))
        self._virtual = clock

    def time(self) -> float:
        return self._virtual.monotonic()


def frames_of(company: Callable[[], float], arrivals: float, count: int = 4000, share: float = 1.0) -> list[int]:
    """Sizes of the frames while items come one by one, eight in a window; the thread computes `share` of the time."""
    clock, sizes = VirtualClock(), list[int]()

    async def write(items: list[int]) -> None:
        sizes.append(len(items))

    async def come() -> None:
        coalescer: Coalescer[int] = Coalescer(write, clock, company, cpu_s=lambda: share * clock.monotonic())
        task = asyncio.create_task(coalescer.run())
        for _ in range(count):
            coalescer.add(1, arrivals)
            await asyncio.sleep(WINDOW_S / 8)
        task.cancel()

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(clock)) as runner:
        runner.run(come())
    return sizes


def late_mean(sizes: list[int]) -> float:
    """Of the frames in which the second half of all items went: the busyness is known by then."""
    late, left = [], sum(sizes) / 2
    for size in reversed(sizes):
        late.append(size)
        left -= size
        if left <= 0:
            break
    return sum(late) / len(late)


def test_many_arrivals_in_company_share_frames() -> None:
    sizes = frames_of(crowd, 1.0)
    assert late_mean(sizes) > OPEN_AT_ARRIVALS


def test_a_thread_with_time_to_spare_gathers_nothing() -> None:
    assert set(frames_of(crowd, 1.0, share=IDLE_BELOW)) == {1}


def test_a_busier_thread_gathers_longer() -> None:
    shares = [IDLE_BELOW, IDLE_BELOW + (BUSY_FROM - IDLE_BELOW) / 2, BUSY_FROM, 1.0]
    none, half, full, fuller = (late_mean(frames_of(crowd, 1.0, share=share)) for share in shares)
    assert none == 1.0
    assert half == pytest.approx(full / 2, abs=1.1)
    assert full == pytest.approx(8, abs=1.1)
    assert fuller == pytest.approx(full, abs=1.1)


def test_a_caller_alone_never_waits() -> None:
    assert set(frames_of(alone, 1.0)) == {1}


def test_clumps_that_are_complete_never_wait() -> None:
    """Eight a window, all eight together: one arrival a window, which is below what opens it."""
    assert set(frames_of(crowd, 1.0 / 8)) == {1}


async def test_when_all_are_here_nothing_more_is_waited_for() -> None:
    """Eight that send one at a time: the frame goes with the eighth of them, not with the window."""
    frames: list[list[int]] = []
    together = 1.0
    clock = VirtualClock()
    clock.advance(1.0)

    async def write(items: list[int]) -> None:
        frames.append(items)

    coalescer: Coalescer[int] = Coalescer(write, clock, lambda: together, window_s=60.0, cpu_s=clock.monotonic)
    task = asyncio.create_task(coalescer.run())
    for number in range(20):
        coalescer.add(number)
        await settle()
    assert sum(map(len, frames)) == 20
    together = 8.0
    # What shows the thread busy: one look, and another a second later.
    for _ in range(2):
        coalescer.add(-1)
        await settle()
        clock.advance(1.0)
    coalescer.add(-1)
    await settle()
    assert sum(map(len, frames)) == 23
    for number in range(7):
        coalescer.add(number)
        await settle()
    assert sum(map(len, frames)) == 23
    coalescer.add(7)
    await settle()
    assert frames[-1] == list(range(8))
    task.cancel()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


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
