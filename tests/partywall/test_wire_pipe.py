"""Bodies over one connection: whole, in order, bounded; both sides notice the end."""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from partywall.errors import Unavailable
from partywall.wire.pipe import FramePipe

BOUND_S = 20.0


@asynccontextmanager
async def pair(first_body_bytes: int = 1 << 30) -> AsyncIterator[tuple[FramePipe, FramePipe]]:
    """Two ends of one connection on loopback; the second one accepted it."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Future[FramePipe] = loop.create_future()
    server = await loop.create_server(
        lambda: FramePipe(accepted.set_result, first_body_bytes=first_body_bytes), "127.0.0.1", 0
    )
    port = server.sockets[0].getsockname()[1]
    _, ours = await loop.create_connection(FramePipe, "127.0.0.1", port)
    try:
        async with asyncio.timeout(BOUND_S):
            theirs = await accepted
            yield ours, theirs
    finally:
        ours.close()
        server.close()
        # Sockets that are given up are closed in the loop's next turns, on either side.
        for _ in range(20):
            await asyncio.sleep(0.001)


async def test_bodies_of_all_sizes_come_whole_and_in_order() -> None:
    seed = 7
    rng = random.Random(seed)
    sizes = [0, 1, 3, (64 << 10) - 1, 64 << 10, (256 << 10) - 4, (256 << 10) - 3, 256 << 10, 5 << 20]
    sizes += [rng.randrange(0, 400_000) for _ in range(60)]
    rng.shuffle(sizes)
    bodies = [bytes([n % 251]) * size for n, size in enumerate(sizes)]
    async with pair() as (ours, theirs):

        async def send() -> None:
            for body in bodies:
                await ours.write(body)

        sending = asyncio.create_task(send())
        for body in bodies:
            assert await theirs.read() == body, seed
        await sending


async def test_both_directions_at_once() -> None:
    async with pair() as (ours, theirs):

        async def play(pipe: FramePipe) -> None:
            for n in range(200):
                await pipe.write(str(n).encode())
                assert await pipe.read() == str(n).encode()

        await asyncio.gather(play(ours), play(theirs))


async def test_a_writer_waits_for_a_reader_that_does_not_read() -> None:
    async with pair() as (ours, theirs):
        written = 0

        async def flood() -> None:
            nonlocal written
            while True:
                await ours.write(bytes(1 << 20))
                written += 1

        flooding = asyncio.create_task(flood())
        before = -1
        while written != before:
            before = written
            await asyncio.sleep(0.1)
        # What both sides hold: their own bounds and the kernel's buffers, not what the other would like to send.
        assert 1 <= written < 64
        for _ in range(written):
            assert await theirs.read() == bytes(1 << 20)
        while written == before:
            await asyncio.sleep(0.01)
        flooding.cancel()


async def test_the_end_is_noticed_by_reader_and_writer() -> None:
    async with pair() as (ours, theirs):
        await ours.write(b"last")
        assert await theirs.read() == b"last"
        reading = asyncio.create_task(theirs.read())
        await asyncio.sleep(0)
        ours.close()
        assert await reading is None
        with pytest.raises(Unavailable):
            await theirs.write(b"too late")
        with pytest.raises(Unavailable):
            await ours.write(b"too late")
        assert await theirs.read() is None


async def test_a_writer_that_waits_is_told_of_the_end() -> None:
    async with pair() as (ours, theirs):

        async def flood() -> None:
            while True:
                await ours.write(bytes(1 << 20))

        flooding = asyncio.create_task(flood())
        await asyncio.sleep(0.2)
        theirs.close()
        with pytest.raises(Unavailable):
            await flooding


async def test_a_stranger_cannot_claim_a_large_body() -> None:
    async with pair(first_body_bytes=32) as (ours, theirs):
        ours.transport.write(struct.pack("<I", 33))
        assert await theirs.read() is None


async def test_after_the_first_body_the_others_may_be_large() -> None:
    async with pair(first_body_bytes=32) as (ours, theirs):
        await ours.write(bytes(32))
        await ours.write(bytes(1 << 20))
        assert await theirs.read() == bytes(32)
        assert await theirs.read() == bytes(1 << 20)


def test_without_a_connection_there_is_no_transport() -> None:
    with pytest.raises(RuntimeError):
        _ = FramePipe().transport
    FramePipe().close()
