"""A link port over real mutual TLS that answers who its peer is, and how nodes join there."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import grpc
from control_world import World

from partywall.v1 import agent_link_pb2, agent_link_pb2_grpc
from router.control.enrol import JoinService, peer_identity
from router.control.pki import ROUTER_NAME, Identity, make_csr
from router.control.rpc import ErrorInterceptor


def now() -> datetime:
    """gRPC checks certificates against the machine's clock."""
    return datetime.now(UTC)


class WhoAmI(agent_link_pb2_grpc.AgentLinkServicer):
    """Answers who the peer is, through FetchFile."""

    def __init__(self, identify: Callable[[Any], Any]) -> None:
        self._identify = identify

    async def FetchFile(self, request: Any, context: Any) -> Any:  # noqa: N802
        yield agent_link_pb2.FetchFileChunk(data=repr(self._identify(context)).encode())

    async def Connect(self, request_iterator: Any, context: Any) -> None:  # noqa: N802
        """Not used here."""


@asynccontextmanager
async def link_port(world: World, identify: Callable[[Any], Any] = peer_identity) -> AsyncIterator[int]:
    server = grpc.aio.server(interceptors=[ErrorInterceptor()])
    join = JoinService(world.enrolment, world.authority.ca_pem)
    agent_link_pb2_grpc.add_JoinServicer_to_server(join, server)
    agent_link_pb2_grpc.add_AgentLinkServicer_to_server(WhoAmI(identify), server)
    router = world.authority.router((), now())
    credentials = grpc.ssl_server_credentials(
        [(router.key_pem, router.certificate_pem)], world.authority.ca_pem, require_client_auth=True
    )
    port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(None)


@asynccontextmanager
async def dial(port: int, ca_pem: bytes, identity: Identity) -> AsyncIterator[grpc.aio.Channel]:
    credentials = grpc.ssl_channel_credentials(ca_pem, identity.key_pem, identity.certificate_pem)
    options = [("grpc.ssl_target_name_override", ROUTER_NAME)]
    async with grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options) as channel:
        yield channel


async def bundle_for(world: World, node: str, lifetime_s: int = 0) -> dict[str, str]:
    text, _ = await world.enrolment.create_token(node, lifetime_s)
    opened: dict[str, str] = json.loads(base64.urlsafe_b64decode(text))
    return opened


def bootstrap(bundle: dict[str, str]) -> Identity:
    return Identity(bundle["certificate_pem"].encode(), bundle["key_pem"].encode())


async def enrol(port: int, world: World, identity: Identity, **fields: Any) -> tuple[bytes, Identity]:
    key_pem, csr_pem = make_csr("whatever-it-claims")
    request = agent_link_pb2.EnrolRequest(**{"csr_pem": csr_pem, **fields})
    async with dial(port, world.authority.ca_pem, identity) as channel:
        answer = await agent_link_pb2_grpc.JoinStub(channel).Enrol(request, timeout=10)
    return answer.ca_pem, Identity(answer.certificate_pem, key_pem)


async def who(port: int, world: World, identity: Identity) -> str:
    async with dial(port, world.authority.ca_pem, identity) as channel:
        stub = agent_link_pb2_grpc.AgentLinkStub(channel)
        async for chunk in stub.FetchFile(agent_link_pb2.FetchFileRequest(), timeout=10):
            return str(chunk.data.decode())
    raise AssertionError("no answer")
