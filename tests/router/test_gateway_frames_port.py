"""The port for frames over real TLS: who may come, with what, and what others see."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import pytest
from control_world import World

from partywall.clock import VirtualClock
from partywall.errors import NotReady, PartywallError
from partywall.wire.pipe import FramePipe
from partywall.wire.tls import client_context, server_context
from router.control.enrol import AgentIdentity
from router.control.pki import ROUTER_NAME, Authority, Identity
from router.gateway.frames_port import Expected, FramesPort

BOUND_S = 20.0


def now() -> datetime:
    """TLS checks certificates against the machine's clock."""
    return datetime.now(UTC)


class Place:
    """An open port of an installation, and how one comes to it."""

    def __init__(self, world: World, port: FramesPort) -> None:
        self.world, self.port = world, port
        self.agent = world.authority.agent("n1", now())
        self.came: list[FramePipe] = []

    async def come(self, identity: Identity, authority: Authority | None = None) -> FramePipe:
        trusted = (authority or self.world.authority).ca_pem
        context = client_context(identity.certificate_pem, identity.key_pem, trusted)
        number = int(self.port.address.rpartition(":")[2])
        _, pipe = await asyncio.get_running_loop().create_connection(
            FramePipe, "127.0.0.1", number, ssl=context, server_hostname=ROUTER_NAME
        )
        self.came.append(pipe)
        return pipe

    async def turned_away(self, identity: Identity, secret: bytes) -> bool:
        """Whether the port closes on one who says `secret`."""
        try:
            pipe = await self.come(identity)
            await pipe.write(secret)
        except (OSError, PartywallError):
            return True
        return await pipe.read() is None


@asynccontextmanager
async def place() -> AsyncIterator[Place]:
    world = await World(clock=VirtualClock(now())).start()
    port = FramesPort(AgentIdentity(world.control.catalog).of_certificate)
    router = world.authority.router((), now())
    context = server_context(router.certificate_pem, router.key_pem, world.authority.ca_pem)
    await port.start("127.0.0.1", 0, context)
    here = Place(world, port)
    try:
        async with asyncio.timeout(BOUND_S):
            yield here
    finally:
        port.close()
        for pipe in here.came:
            pipe.close()
        # Sockets that are given up are closed in the loop's next turns, on either side.
        for _ in range(20):
            await asyncio.sleep(0.001)


async def test_an_agent_with_its_secret_gets_its_link() -> None:
    async with place() as here:
        wanted = here.port.expect("n1")
        pipe = await here.come(here.agent)
        await pipe.write(wanted.secret)
        await pipe.write(b"first frame")
        ours = await wanted.pipe
        assert await ours.read() == b"first frame"
        await ours.write(b"answer")
        assert await pipe.read() == b"answer"
        here.port.forget(wanted)
        assert await pipe.read() is None


async def test_a_secret_counts_once() -> None:
    async with place() as here:
        wanted = here.port.expect("n1")
        pipe = await here.come(here.agent)
        await pipe.write(wanted.secret)
        await wanted.pipe
        assert await here.turned_away(here.agent, wanted.secret)


@pytest.mark.parametrize("which", ["another node", "a join bundle", "a router"])
async def test_a_secret_counts_for_its_node_only(which: str) -> None:
    async with place() as here:
        authority = here.world.authority
        identity = {
            "another node": authority.agent("n2", now()),
            "a join bundle": authority.joiner("n1", now(), timedelta(hours=1)),
            "a router": authority.router((), now()),
        }[which]
        wanted = here.port.expect("n1")
        assert await here.turned_away(identity, wanted.secret)
        assert not wanted.pipe.done()


async def test_nothing_is_given_for_a_wrong_or_a_forgotten_secret() -> None:
    async with place() as here:
        wanted: Expected = here.port.expect("n1")
        assert await here.turned_away(here.agent, bytes(32))
        here.port.forget(wanted)
        assert await here.turned_away(here.agent, wanted.secret)
        here.port.forget(wanted)


async def test_a_stranger_does_not_get_through_the_handshake() -> None:
    async with place() as here:
        other = Authority.create(now())
        assert await here.turned_away(other.agent("n1", now()), bytes(32))


async def test_an_agent_does_not_talk_to_another_router() -> None:
    async with place() as here:
        with pytest.raises(ssl.SSLError):
            await here.come(here.agent, Authority.create(now()))


async def test_a_port_that_is_taken_names_its_option() -> None:
    async with place() as here:
        number = int(here.port.address.rpartition(":")[2])
        with pytest.raises(NotReady, match="--frames-listen"):
            await FramesPort(lambda certificate: "n1").start("127.0.0.1", number, None)
