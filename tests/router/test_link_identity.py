"""The link's certificate is renewed while the router runs, on both ports, and an unreadable one breaks nothing."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import grpc
import pytest

from partywall.clock import VirtualClock
from partywall.errors import NotReady
from partywall.wire.tls import client_context
from router.control.pki import ROUTER_NAME, Authority, Identity
from router.gateway.frames_port import FramesPort
from router.link_identity import LOOK_EVERY_S, LinkIdentity

BOUND_S = 20.0


def now() -> datetime:
    """TLS checks certificates against the machine's clock."""
    return datetime.now(UTC)


async def shown(port: int, authority: Authority) -> bytes | None:
    """The certificate that a port shows to an agent, DER."""
    agent = authority.agent("n1", now())
    context = client_context(agent.certificate_pem, agent.key_pem, authority.ca_pem)
    context.set_alpn_protocols(["h2"])
    async with asyncio.timeout(BOUND_S):
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=ROUTER_NAME)
    der: bytes | None = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
    writer.transport.abort()
    for _ in range(20):
        await asyncio.sleep(0.001)
    return der


def der_of(identity: Identity) -> bytes:
    return ssl.PEM_cert_to_DER_cert(identity.certificate_pem.decode())


@pytest.fixture
def authority() -> Authority:
    return Authority.create(now())


async def ports(link: LinkIdentity, check: Callable[[int, int], object]) -> None:
    server = grpc.aio.server()
    number = server.add_secure_port("127.0.0.1:0", link.credentials())
    await server.start()
    frames = FramesPort(lambda certificate: "n1")
    await frames.start("127.0.0.1", 0, link.context)
    try:
        result = check(number, int(frames.address.rpartition(":")[2]))
        assert asyncio.iscoroutine(result)
        await result
    finally:
        frames.close()
        await server.stop(0)


async def test_both_ports_show_the_renewed_certificate(authority: Authority) -> None:
    clock = VirtualClock(now())
    first, second = (authority.router((), now() - timedelta(days=n)) for n in (1, 0))
    have = [first]
    link = LinkIdentity(first, lambda: have[-1], authority.ca_pem, clock)

    async def check(number: int, frames: int) -> None:
        have.append(second)
        assert await shown(number, authority) == der_of(first), "looked too soon"
        clock.advance(LOOK_EVERY_S)
        assert await shown(number, authority) == der_of(second)
        assert await shown(frames, authority) == der_of(second)

    await ports(link, check)


async def test_what_cannot_be_read_leaves_the_old_one(authority: Authority) -> None:
    clock = VirtualClock(now())
    first = authority.router((), now())

    def broken() -> Identity:
        raise NotReady("router.pem is missing")

    link = LinkIdentity(first, broken, authority.ca_pem, clock)

    async def check(number: int, frames: int) -> None:
        clock.advance(LOOK_EVERY_S)
        assert await shown(number, authority) == der_of(first)
        assert await shown(frames, authority) == der_of(first)

    await ports(link, check)
