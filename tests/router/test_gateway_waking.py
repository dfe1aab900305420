"""A request wakes a version: one wish for all who wait, and a hint at once for those who cannot."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from gateway_support import settle, version

from partywall.clock import VirtualClock
from partywall.domain.tenants import Tenant
from partywall.errors import DeadlineExceeded, NotReady, Overloaded, Unavailable
from router.gateway import waking
from router.gateway.waking import Waker


class Loader:
    """What makes versions resident; the test says when it is done."""

    def __init__(self) -> None:
        self.wishes: list[tuple[str, int]] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def __call__(self, tenant: Tenant, name: str, number: int, resident: bool, remaining_s: float | None) -> None:
        assert resident
        self.wishes.append((name, number))
        await asyncio.shield(self.done)


TENANT = Tenant("t1", "acme", VirtualClock().now())
COLD = version(VirtualClock(), cold_start=True)


async def test_many_requests_are_one_wish() -> None:
    loader = Loader()
    waker = Waker(loader)
    tasks = [asyncio.create_task(waker.wake(TENANT, "echo", COLD, 30.0)) for _ in range(10)]
    await settle()
    assert loader.wishes == [("echo", 1)]
    assert not any(task.done() for task in tasks)
    loader.done.set_result(None)
    await asyncio.gather(*tasks)
    # The next time it is asked anew.
    loader.done = asyncio.get_running_loop().create_future()
    again = asyncio.create_task(waker.wake(TENANT, "echo", COLD, 30.0))
    await settle()
    assert len(loader.wishes) == 2
    loader.done.set_result(None)
    await again


async def test_who_cannot_wait_so_long_is_told_at_once_and_it_is_woken() -> None:
    loader = Loader()
    waker = Waker(loader)
    slow = replace(COLD, load_seconds=4.0)
    with pytest.raises(Unavailable) as told:
        await waker.wake(TENANT, "echo", slow, 0.5)
    assert told.value.retry_after_s == 4.0
    await settle()
    assert loader.wishes == [("echo", 1)]
    loader.done.set_result(None)
    await settle()


async def test_parked_weights_are_waited_for_where_a_load_would_take_too_long() -> None:
    loader = Loader()
    waker = Waker(loader, ready_in_s=lambda version: 0.01)
    waiting = asyncio.create_task(waker.wake(TENANT, "echo", replace(COLD, load_seconds=4.0), 0.5))
    await settle()
    loader.done.set_result(None)
    await waiting


async def test_a_deadline_that_passes_leaves_the_wish() -> None:
    loader = Loader()
    waker = Waker(loader)
    with pytest.raises(DeadlineExceeded):
        await waker.wake(TENANT, "echo", COLD, 0.0)
    assert not loader.done.done()
    other = asyncio.create_task(waker.wake(TENANT, "echo", COLD, 30.0))
    await settle()
    loader.done.set_result(None)
    await other
    assert len(loader.wishes) == 1


async def test_a_failed_load_is_everybodys_answer() -> None:
    loader = Loader()
    waker = Waker(loader)
    tasks = [asyncio.create_task(waker.wake(TENANT, "echo", COLD, 30.0)) for _ in range(2)]
    await settle()
    loader.done.set_exception(NotReady("failed to load"))
    for task in tasks:
        with pytest.raises(NotReady):
            await task


async def test_the_crowd_is_bounded() -> None:
    loader = Loader()
    waker = Waker(loader)
    tasks = [asyncio.create_task(waker.wake(TENANT, "echo", COLD, 30.0)) for _ in range(waking.MOST_WAITING)]
    await settle()
    with pytest.raises(Overloaded):
        await waker.wake(TENANT, "echo", COLD, 30.0)
    loader.done.set_result(None)
    await asyncio.gather(*tasks)
