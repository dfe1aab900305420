"""What only our own server has: its door to gRPC's inner layer, and a loop that one call's trouble cannot end."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
import structlog
from front_world import WAIT_S, World, failure, front_world

from partywall.errors import InvalidInput, Reason
from partywall.wire.status import from_rpc_error
from router.front import core
from router.front.completions import AT_ONCE, Completions
from router.front.context import CallContext
from router.front.server import FrontServer, front_server
from router.settings import Front


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with front_world(Front.CORE) as made:
        yield made


async def test_this_release_of_grpc_has_what_is_used() -> None:
    assert core.missing() == []
    chosen = front_server(Front.CORE, ())
    assert isinstance(chosen, FrontServer)
    other = front_server(Front.AIO, ())
    assert isinstance(other, grpc.aio.Server)
    await other.stop(0)


async def test_grpc_aio_serves_where_something_is_missing() -> None:
    with structlog.testing.capture_logs() as logged:
        chosen = front_server(Front.CORE, (), lacking=["Server.request_call"])
    assert isinstance(chosen, grpc.aio.Server)
    assert [entry["lacking"] for entry in logged] == [["Server.request_call"]]
    await chosen.stop(0)


async def test_an_unreadable_request_is_the_caller_s_fault(world: World) -> None:
    error = from_rpc_error(await failure(world.unary("double", b"many")))
    assert isinstance(error, InvalidInput)
    assert "/test.Front/double" in error.message


async def test_a_defect_says_nothing_of_itself_to_the_caller(world: World) -> None:
    with structlog.testing.capture_logs() as logged:
        error = from_rpc_error(await failure(world.unary("fail")))
    assert error.reason is Reason.INTERNAL
    assert "defect" not in error.message
    assert [entry["method"] for entry in logged] == ["/test.Front/fail"]


class Broken(grpc.GenericRpcHandler):
    """Fails while it is asked for a method."""

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        raise RuntimeError("no table")


async def test_a_handler_table_that_fails_ends_its_call_only(world: World) -> None:
    world.server.add_generic_rpc_handlers([Broken()])
    with structlog.testing.capture_logs():
        assert (await failure(world.unary("nothing"))).code() is grpc.StatusCode.INTERNAL
    assert await world.unary("echo", b"on") == b"on"


async def test_a_stranger_s_method_name_is_cut(world: World) -> None:
    refused = await failure(world.call(f"/{'x' * 5000}/y"))
    assert refused.code() is grpc.StatusCode.UNIMPLEMENTED
    assert len(refused.details() or "") < 300


async def test_a_queue_that_does_not_end_is_waited_for_no_longer_than_its_bound() -> None:
    queue = Queue([])
    completions = Completions(queue)
    completions.start()
    queue.held = True
    assert not await completions.stop(0.05)
    queue.held = False
    assert await completions.stop(WAIT_S)


async def test_calls_cancelled_at_once_leave_nothing_behind(world: World) -> None:
    """Some are over before their handler has begun."""
    for number in range(300):
        calls = [world.call("/test.Front/wait") for _ in range(3)]
        await asyncio.sleep(0.0002 * (number % 5))
        for call in calls:
            call.cancel()
    async with asyncio.timeout(WAIT_S):
        while world.server.running:
            await asyncio.sleep(0.01)
    assert await world.unary("echo", b"on") == b"on"


async def test_a_call_leaves_no_cycles_behind(world: World) -> None:
    """Else the collector would have work with every request."""
    for _ in range(5):
        await world.unary("echo", b"a")
    stubs: Any = world.channel.unary_unary("/test.Front/echo")
    gc.collect()
    gc.disable()
    try:
        for _ in range(50):
            await stubs(b"a", timeout=WAIT_S)
        await asyncio.sleep(0.05)
        # Not isinstance: others' objects answer that with more than a look.
        ours = [x for x in gc.get_objects() if type(x) is CallContext]
    finally:
        gc.enable()
    assert len(ours) <= 1


class Event:
    """A completion as the core gives it."""

    def __init__(self, kind: Any, tag: Any = None) -> None:
        self.completion_type = kind
        self.tag = tag


class Queue:
    """Completions from a list; a wait for the next one lasts until `shutdown`."""

    def __init__(self, events: list[Event]) -> None:
        self._events = events
        self._over = threading.Event()
        self.held = False

    def poll(self, deadline: float | None = None) -> Event:
        if self._events:
            return self._events.pop(0)
        if deadline is not None and not self._over.is_set():
            return Event(core.TIMEOUT)
        assert self._over.wait(WAIT_S)
        return Event(core.SHUTDOWN)

    def shutdown(self) -> None:
        if not self.held:
            self._over.set()


async def test_completions_come_in_order_and_one_s_failure_is_not_the_next_s() -> None:
    seen: list[int] = []
    last = asyncio.Event()

    def noted(number: int) -> Any:
        def tag(event: Any) -> None:
            seen.append(number)
            if number == 3 * AT_ONCE:
                last.set()
            if number % 7 == 3:
                raise ValueError(number)

        return tag

    queue = Queue([Event("done", noted(number)) for number in range(3 * AT_ONCE + 1)])
    completions = Completions(queue)
    with structlog.testing.capture_logs() as logged:
        completions.start()
        await asyncio.wait_for(last.wait(), WAIT_S)
        assert await completions.stop(WAIT_S)
    assert seen == list(range(3 * AT_ONCE + 1))
    assert len(logged) == len([n for n in seen if n % 7 == 3])


async def test_other_work_of_the_loop_comes_in_between() -> None:
    turns: list[str] = []
    ended = asyncio.Event()

    def tag(event: Any) -> None:
        if not turns:
            asyncio.get_running_loop().call_soon(turns.append, "other")
        turns.append("completion")
        if turns.count("completion") == 2 * AT_ONCE:
            ended.set()

    completions = Completions(Queue([Event("done", tag) for _ in range(2 * AT_ONCE)]))
    completions.start()
    await asyncio.wait_for(ended.wait(), WAIT_S)
    assert await completions.stop(WAIT_S)
    assert turns.index("other") <= AT_ONCE
