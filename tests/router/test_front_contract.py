"""What both servers of the public port do: ours over the core's completion queue, and grpc.aio."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from front_world import LIMIT, SERVICE, WAIT_S, World, failure, front_world

from partywall.errors import NotReady
from router.front.server import front_server
from router.servers import Address, bind, options
from router.settings import Front

pytestmark = pytest.mark.parametrize("front", list(Front))


@pytest.fixture
async def world(front: Front) -> AsyncIterator[World]:
    async with front_world(front) as made:
        yield made


async def within(awaitable: object) -> None:
    await asyncio.wait_for(awaitable, WAIT_S)  # type: ignore[arg-type]


async def test_a_call_is_answered(world: World) -> None:
    assert await world.unary("echo", b"hello") == b"hello"
    assert await world.unary("echo", b"") == b""
    assert await world.unary("double", b"21") == b"42"


async def test_many_at_once_get_their_own_answers(world: World) -> None:
    sent = [b"%d" % n * (n % 300 + 1) for n in range(500)]
    assert await asyncio.gather(*(world.unary("echo", raw) for raw in sent)) == sent


async def test_metadata_peer_and_deadline_reach_the_handler(world: World) -> None:
    call = world.call(f"/{SERVICE}/terms", metadata=(("x-who", "acme"), ("x-data-bin", b"\x00\xff")), timeout=5)
    assert await call == b"acme 00ff ipv4"
    assert ("x-trailing", "there") in tuple(await call.trailing_metadata())
    await world.unary("terms", metadata=(("x-who", "acme"), ("x-data-bin", b"")), timeout=None)
    first, second = world.seen.remaining
    assert first is not None
    # gRPC rounds it up on the wire.
    assert 0 < first < 6
    assert second is None


async def test_refusals_carry_code_words_and_metadata(world: World) -> None:
    refused = await failure(world.unary("refuse"))
    assert (refused.code(), refused.details()) == (grpc.StatusCode.NOT_FOUND, "no such thing")
    assert ("x-why", "gone") in tuple(refused.trailing_metadata())
    refused = await failure(world.unary("set_only"))
    assert (refused.code(), refused.details()) == (grpc.StatusCode.FAILED_PRECONDITION, "not today")


async def test_a_defect_ends_its_call_only(world: World) -> None:
    assert (await failure(world.unary("fail"))).code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INTERNAL)
    assert await world.unary("echo", b"on") == b"on"


async def test_an_unreadable_request_is_refused(world: World) -> None:
    refused = await failure(world.unary("double", b"many"))
    assert refused.code() in (grpc.StatusCode.UNKNOWN, grpc.StatusCode.INVALID_ARGUMENT)
    assert await world.unary("double", b"1") == b"2"


async def test_an_unknown_method_is_unimplemented(world: World) -> None:
    assert (await failure(world.unary("nothing"))).code() is grpc.StatusCode.UNIMPLEMENTED
    assert (await failure(world.call("/other.Service/echo"))).code() is (grpc.StatusCode.UNIMPLEMENTED)


async def test_a_message_over_the_core_s_limit_is_refused(world: World) -> None:
    assert (await failure(world.unary("echo", bytes(2 * LIMIT + 1)))).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await world.unary("echo", b"on") == b"on"


async def test_a_cancelled_call_cancels_its_handler(world: World) -> None:
    call = world.call(f"/{SERVICE}/wait")
    await within(world.seen.started.wait())
    call.cancel()
    await within(world.seen.cancelled.wait())


async def test_a_deadline_cancels_the_handler(world: World) -> None:
    assert (await failure(world.unary("wait", timeout=0.2))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
    await within(world.seen.cancelled.wait())


async def test_a_vanished_connection_cancels_the_handler(world: World) -> None:
    async with grpc.aio.insecure_channel(world.address) as channel:
        wait: Any = channel.unary_unary(f"/{SERVICE}/wait")
        call = wait(b"", timeout=WAIT_S)
        await within(world.seen.started.wait())
    await within(world.seen.cancelled.wait())
    assert call.cancelled() or call.done()


async def test_streams_in_all_directions(world: World) -> None:
    assert [raw async for raw in world.streamed("count", b"5")] == [b"0", b"1", b"2", b"3", b"4"]
    assert [raw async for raw in world.streamed("count", b"0")] == []
    assert await world.total(b"1", b"2", b"39") == b"42"
    assert await world.total() == b"0"
    talk = world.stream_stream("talk")
    for word in (b"a", b"b"):
        await talk.write(word)
        assert await talk.read() == b"re: " + word
    await talk.done_writing()
    assert await talk.read() is grpc.aio.EOF
    assert await talk.code() is grpc.StatusCode.OK


async def test_a_handler_may_write_by_itself(world: World) -> None:
    call = world.streamed("write", b"")
    assert ("x-first", "yes") in tuple(await call.initial_metadata())
    assert [raw async for raw in call] == [b"one", b"two"]


async def test_a_stream_is_refused_in_its_middle(world: World) -> None:
    talk = world.stream_stream("talk")
    await talk.write(b"a")
    assert await talk.read() == b"re: a"
    await talk.write(b"bad")
    refused = await failure(talk.read())
    assert (refused.code(), refused.details()) == (grpc.StatusCode.INVALID_ARGUMENT, "bad word")


async def test_a_cancelled_stream_closes_its_generator(world: World) -> None:
    call = world.streamed("count", b"1000000")
    assert await call.read() == b"0"
    call.cancel()
    async with asyncio.timeout(WAIT_S):
        while not world.seen.ended:
            await asyncio.sleep(0.01)


async def test_a_slow_reader_holds_its_stream_up(world: World) -> None:
    answers = aiter(world.streamed("flood", b"2000"))
    await anext(answers)
    await asyncio.sleep(0.5)
    held = world.seen.written
    assert held < 1900, "64 MiB were taken for a caller that reads nothing"
    assert sum([1 async for _ in answers]) == 1999
    assert world.seen.written == 1999


async def test_stopping_lets_running_calls_finish(front: Front) -> None:
    async with front_world(front) as world:
        call = asyncio.create_task(world.unary("wait"))
        await within(world.seen.started.wait())
        stopping = asyncio.create_task(world.server.stop(WAIT_S))
        await asyncio.sleep(0.1)
        assert not stopping.done()
        world.seen.release.set()
        assert await call == b"waited"
        await within(stopping)


async def test_stopping_ends_calls_after_its_grace(front: Front) -> None:
    async with front_world(front) as world:
        call = asyncio.create_task(failure(world.unary("wait")))
        await within(world.seen.started.wait())
        await within(world.server.stop(0.1))
        assert (await call).code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
        await within(world.seen.cancelled.wait())


async def test_a_stopped_port_can_be_taken_again(front: Front) -> None:
    async with front_world(front) as world:
        await world.unary("echo", b"a")
        await world.server.stop(0)
        await world.server.stop(0)
        with socket.socket() as again:
            again.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            again.bind(("127.0.0.1", int(world.address.rpartition(":")[2])))


async def test_a_taken_port_is_said_to_be_taken(world: World, front: Front) -> None:
    second = front_server(front, options(LIMIT))
    with pytest.raises(NotReady, match="cannot listen"):
        bind(second, Address.parse(world.address, "--listen"), None)
    await second.stop(0)


async def test_processes_may_share_a_port(front: Front) -> None:
    async with front_world(front, reuse_port=True) as world:
        second = front_server(front, options(LIMIT, reuse_port=True))
        assert bind(second, Address.parse(world.address, "--listen"), None).text == world.address
        await second.stop(0)


async def test_connections_are_asked_to_come_anew(front: Front) -> None:
    async with front_world(front, age_s=0.2, grace_s=5.0) as world:
        async with asyncio.timeout(WAIT_S):
            while world.channel.get_state(try_to_connect=True) is not grpc.ChannelConnectivity.READY:
                await asyncio.sleep(0.01)
            while world.channel.get_state() is grpc.ChannelConnectivity.READY:
                await asyncio.sleep(0.01)
        assert await world.unary("echo", b"again") == b"again"
