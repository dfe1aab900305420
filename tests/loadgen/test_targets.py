"""Calls over real gRPC, the closed loop, and the pacer."""

from __future__ import annotations

import asyncio
import datetime
import socket
from pathlib import Path

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from loadgen_fake_server import FakeServer, serving

from loadgen.closed import closed_loop
from loadgen.pacing import Pacer
from loadgen.payloads import Addressee, encode
from loadgen.targets import Target
from partywall.client.endpoint import open_endpoint
from partywall.clock import SystemClock
from partywall.domain.models import TensorSpec
from partywall.errors import InvalidInput, NotFound, QuotaExceeded, Reason, Unavailable

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


async def test_tls(tmp_path: Path) -> None:
    certificate, key = self_signed()
    (tmp_path / "ca.pem").write_bytes(certificate)
    async with serving(grpc.ssl_server_credentials([(key, certificate)])) as server:
        address = server.address.replace("127.0.0.1", "localhost")
        async with Target(open_endpoint(address, credential="k", tls_ca=tmp_path / "ca.pem")) as target:
            await target.connect()
            await target.call(PAYLOAD, 5.0)
    assert server.keys == {"Bearer k"}


async def test_metadata_errors_are_typed(server: FakeServer) -> None:
    server.metadata_error = NotFound("no such model")
    async with Target(open_endpoint(server.address)) as target:
        with pytest.raises(NotFound):
            await target.inputs("m")
    with pytest.raises(InvalidInput, match="channels"):
        Target(open_endpoint(server.address), channels=0)


def self_signed() -> tuple[bytes, bytes]:
    """A certificate for localhost and its key, PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), private
