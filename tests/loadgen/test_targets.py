"""Calls over real gRPC, the closed loop, and the pacer."""

from __future__ import annotations

import asyncio
import socket

import numpy as np
import pytest
from loadgen_fake_server import FakeServer

from loadgen.closed import closed_loop
from loadgen.pacing import Pacer
from loadgen.payloads import Addressee, encode
from loadgen.targets import Target
from partywall.client.endpoint import open_endpoint
from partywall.clock import SystemClock
from partywall.domain.models import TensorSpec
from partywall.errors import InvalidInput, QuotaExceeded, Reason, Unavailable

PAYLOAD = encode(Addressee("m", "text"), ["hello"])


async def test_key_payload_and_reply_cross(server: FakeServer) -> None:
    async with Target(open_endpoint(server.address, credential="pw-key"), channels=2) as target:
        await target.connect()
        replies = [await target.call(PAYLOAD, 5.0) for _ in range(4)]
        assert await target.inputs("m") == [TensorSpec("text", "BYTES", (-1,))]
    assert len(replies) == 4
    assert server.keys == {"Bearer pw-key"}
    assert len(server.peers) == 2, "each channel has a connection of its own"


async def test_typed_errors_come_back(server: FakeServer) -> None:
    async def refuse(_: object) -> None:
        raise QuotaExceeded("slow down", retry_after_s=0.5)

    server.answer = refuse
    async with Target(open_endpoint(server.address)) as target:
        with pytest.raises(QuotaExceeded) as caught:
            await target.call(PAYLOAD, 5.0)
    assert caught.value.reason is Reason.RATE_LIMITED
    assert caught.value.retry_after_s == 0.5


async def test_nobody_there_is_said_within_the_time() -> None:
    # Bound and not listening, so that nobody else can take the port meanwhile.
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        async with Target(open_endpoint(address)) as target:
            with pytest.raises(Unavailable, match=address):
                await target.connect(timeout_s=0.3)


async def test_closed_loop_keeps_its_concurrency(server: FakeServer) -> None:
    now, highest = 0, 0

    async def work(_: object) -> None:
        nonlocal now, highest
        now += 1
        highest = max(highest, now)
        await asyncio.sleep(0.005)
        now -= 1

    server.answer = work
    async with Target(open_endpoint(server.address)) as target:
        result = await closed_loop(target.call, [PAYLOAD], concurrency=3, duration_s=0.4, warmup_s=0.1)
    assert highest == 3
    assert 0 < result.rate_per_s <= 3 / 0.005
    assert result.p50_ms >= 5


async def test_closed_loop_passes_the_first_error_on() -> None:
    async def call(_payload: bytes, _timeout_s: float) -> None:
        raise QuotaExceeded("no")

    with pytest.raises(QuotaExceeded):
        await closed_loop(call, [b"x"], concurrency=2, duration_s=5.0)
    with pytest.raises(InvalidInput):
        await closed_loop(call, [], concurrency=2, duration_s=5.0)


async def test_pacer_releases_in_order_and_never_early() -> None:
    clock = SystemClock()
    due = clock.monotonic() + np.array([0.0, 0.02, 0.021, 0.04])
    released: list[tuple[int, float]] = []
    await asyncio.wait_for(Pacer(due, clock, lambda n: released.append((n, clock.monotonic()))).run(), 10)
    counts = [n for n, _ in released]
    assert counts == sorted(set(counts))
    assert counts[-1] == 4
    assert all(at >= due[n - 1] for n, at in released)


async def test_pacer_stops_at_once() -> None:
    clock = SystemClock()
    pacer = Pacer(clock.monotonic() + np.array([0.0, 600.0]), clock, lambda _: pacer.stop())
    await asyncio.wait_for(pacer.run(), 5)
