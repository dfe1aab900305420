"""Joining over real mutual TLS: who may have a certificate, and what it says."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import grpc
import pytest
from control_world import ADMIN, Ports, World, admin_port, push, refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from partywall.clock import VirtualClock
from partywall.domain.fleet import Node, Partition, PartitionKind
from partywall.domain.placements import Placement
from partywall.errors import InvalidInput, NotFound, NotReady, PartywallError, PermissionDenied, Unauthenticated
from partywall.v1 import agent_link_pb2, agent_link_pb2_grpc, fleet_pb2, tenants_pb2
from partywall.v1 import fleet_pb2 as pb
from router.control.enrol import AgentIdentity, JoinService, peer_identity
from router.control.housekeeping import Housekeeper, KeyUse
from router.control.pki import ROUTER_NAME, Authority, Identity, make_csr, time_left
from router.control.rpc import ErrorInterceptor
from router.control.views import NoFleet


def now() -> datetime:
    """gRPC checks certificates against the machine's clock."""
    return datetime.now(UTC)


@pytest.fixture
async def world() -> World:
    return await World(clock=VirtualClock(now())).start()


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


async def test_a_bundle_becomes_a_certificate_of_a_day(world: World) -> None:
    bundle = await bundle_for(world, "n1")
    assert (bundle["node"], bundle["address"]) == ("n1", "127.0.0.1:1")
    async with link_port(world) as port:
        assert await who(port, world, bootstrap(bundle)) == repr(("join", "n1"))
        ca_pem, identity = await enrol(port, world, bootstrap(bundle), node="n1", token=bundle["token"])
        assert ca_pem == world.authority.ca_pem
        assert await who(port, world, identity) == repr(("agent", "n1"))
    certificate = x509.load_pem_x509_certificate(identity.certificate_pem)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value for name in names] == ["spiffe://partywall/agent/n1"]
    assert "whatever" not in certificate.subject.rfc4514_string()
    assert timedelta(hours=23) < time_left(identity.certificate_pem, now()) <= timedelta(hours=24)
    stored = repr(await world.store.load())
    assert bundle["token"].partition(".")[2] not in stored
    assert world.audit.names == ["node.token_created", "node.enrolled"]


async def test_an_agent_renews_with_its_certificate_alone(world: World) -> None:
    async with link_port(world) as port:
        _, fresh = await enrol(port, world, world.authority.agent("n1", now()), node="n1")
        assert await who(port, world, fresh) == repr(("agent", "n1"))


async def test_a_token_opens_once(world: World) -> None:
    bundle = await bundle_for(world, "n1")
    async with link_port(world) as port:
        await enrol(port, world, bootstrap(bundle), token=bundle["token"])
        error = await refused(enrol(port, world, bootstrap(bundle), token=bundle["token"]))
    assert isinstance(error, PermissionDenied)
    assert "used before" in error.message
    assert "fleet token" in error.message


async def test_a_token_is_of_its_node_and_of_its_time(world: World) -> None:
    one, two = await bundle_for(world, "n1"), await bundle_for(world, "n2", 60)
    async with link_port(world) as port:
        for fields in ({"token": two["token"]}, {"token": ""}, {"token": "a.b"}, {"token": one["token"] + "A"}):
            error = await refused(enrol(port, world, bootstrap(one), **fields))
            assert isinstance(error, PermissionDenied)
            assert "not known" in error.message
        error = await refused(enrol(port, world, bootstrap(one), node="n2", token=one["token"]))
        assert error.fields["field"] == "node"
        world.clock.advance(60)
        error = await refused(enrol(port, world, bootstrap(two), token=two["token"]))
        assert "expired" in error.message
        await enrol(port, world, bootstrap(one), token=one["token"])


def rsa_csr() -> bytes:
    key = rsa.generate_private_key(65537, 2048)
    request = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM)


def tampered_csr() -> bytes:
    _, pem = make_csr("n1")
    der = bytearray(x509.load_pem_x509_csr(pem).public_bytes(serialization.Encoding.DER))
    der[-1] ^= 1
    return b"-----BEGIN CERTIFICATE REQUEST-----\n" + base64.b64encode(der) + b"\n-----END CERTIFICATE REQUEST-----\n"


@pytest.mark.parametrize("csr_pem", [b"", b"nonsense", b"x" * 20_000, rsa_csr(), tampered_csr()])
async def test_a_bad_request_does_not_use_up_the_token(world: World, csr_pem: bytes) -> None:
    bundle = await bundle_for(world, "n1")
    with pytest.raises(InvalidInput, match="csr_pem"):
        await world.enrolment.enrol("join", "n1", bundle["token"], csr_pem)
    _, good = make_csr("n1")
    assert await world.enrolment.enrol("join", "n1", bundle["token"], good)


async def test_strangers_do_not_get_in(world: World) -> None:
    stranger = Authority.create(now()).agent("n1", now())
    async with link_port(world) as port:
        with pytest.raises(grpc.RpcError) as caught:
            await who(port, world, stranger)
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        router = world.authority.router((), now())
        with pytest.raises(grpc.RpcError):
            await who(port, world, router)


class NoPeer:
    """A call on a port without TLS."""

    def auth_context(self) -> dict[str, Any]:
        return {"transport_security_type": [b"insecure"], "peer_spiffe_id": [b"spiffe://elsewhere/agent/n1"]}


def test_no_certificate_of_ours_is_no_identity() -> None:
    with pytest.raises(Unauthenticated, match="fleet token"):
        peer_identity(NoPeer())  # type: ignore[arg-type]


async def test_only_agents_connect(world: World) -> None:
    bundle = await bundle_for(world, "n1")
    async with link_port(world, AgentIdentity(world.catalog)) as port:
        assert isinstance(await refused(who(port, world, bootstrap(bundle))), PermissionDenied)
        assert await who(port, world, world.authority.agent("n1", now())) == repr("n1")


@pytest.fixture
def ports(empty_ports: Ports) -> Ports:
    return empty_ports


async def forget(ports: Ports, node: str) -> None:
    await ports.fleet.ForgetNode(pb.ForgetNodeRequest(node=node), metadata=ADMIN)


async def test_a_forgotten_node_needs_a_new_token(world: World, ports: Ports) -> None:
    agent = world.authority.agent("n1", now() - timedelta(hours=1))
    async with world.catalog.transaction() as tx:
        await tx.insert(Node("n1"))
    await forget(ports, "n1")
    # Certificates tell whole seconds.
    world.clock.advance(1)
    assert world.catalog.nodes() == []
    async with link_port(world, AgentIdentity(world.catalog)) as port:
        assert isinstance(await refused(who(port, world, agent)), PermissionDenied)
        assert isinstance(await refused(enrol(port, world, agent)), PermissionDenied)
        request = pb.CreateJoinTokenRequest(node="n1", lifetime_s=30)
        answer = await ports.fleet.CreateJoinToken(request, metadata=ADMIN)
        assert answer.expires_at.ToDatetime(UTC) == world.clock.now() + timedelta(seconds=30)
        bundle = json.loads(base64.urlsafe_b64decode(answer.bundle))
        assert isinstance(await refused(who(port, world, agent)), PermissionDenied)
        _, fresh = await enrol(port, world, bootstrap(bundle), token=bundle["token"])
        assert await who(port, world, fresh) == repr("n1")
        # Whoever kept the old certificate is not let in by the new one.
        assert isinstance(await refused(who(port, world, agent)), PermissionDenied)
        assert isinstance(await refused(enrol(port, world, agent)), PermissionDenied)
        await forget(ports, "n1")
        assert isinstance(await refused(who(port, world, fresh)), PermissionDenied)


async def test_forgetting_refuses_strangers_and_connected_nodes(world: World) -> None:
    world.fleet = NoFleet(nodes=[fleet_pb2.Node(name="here", state=fleet_pb2.NODE_STATE_ONLINE)], epoch=7)
    async with admin_port(world) as ports:
        assert isinstance(await refused(forget(ports, "here")), NotReady)
        assert isinstance(await refused(forget(ports, "nobody")), NotFound)
        async with world.catalog.transaction() as tx:
            await tx.insert(Node("away", version="1"))
        fleet = await ports.fleet.GetFleet(pb.GetFleetRequest(), metadata=ADMIN)
    assert [(node.name, node.state) for node in fleet.nodes] == [
        ("away", fleet_pb2.NODE_STATE_OFFLINE),
        ("here", fleet_pb2.NODE_STATE_ONLINE),
    ]
    assert fleet.epoch == 7


@pytest.mark.parametrize(("node", "lifetime_s"), [("No Good", 0), ("", 0), ("n1", 86_401)])
async def test_bad_tokens_are_not_made(ports: Ports, node: str, lifetime_s: int) -> None:
    request = pb.CreateJoinTokenRequest(node=node, lifetime_s=lifetime_s)
    error: PartywallError = await refused(ports.fleet.CreateJoinToken(request, metadata=ADMIN))
    assert isinstance(error, InvalidInput)


async def test_old_tokens_are_dropped(world: World) -> None:
    await bundle_for(world, "n1")
    keeper = Housekeeper(world.control, world.store, world.remover, world.uploads, KeyUse(world.control))
    await keeper.round()
    assert len(world.catalog.join_tokens()) == 1
    world.clock.advance(timedelta(days=2).total_seconds())
    await keeper.round()
    assert world.catalog.join_tokens() == []


async def test_a_forgotten_nodes_placements_go(world: World, ports: Ports) -> None:
    await ports.tenants.CreateTenant(tenants_pb2.CreateTenantRequest(name="acme"), metadata=ADMIN)
    await push(ports, "acme", "bert")
    model = world.catalog.models()[0].model
    placement = Placement(
        "p1", model.tenant_id, model.id, 1, "n1", Partition("w", PartitionKind.WHOLE, "cpu"), "w1", 1, 1, "it fits"
    )
    async with world.catalog.transaction() as tx:
        await tx.insert(placement)
    fleet = await ports.fleet.GetFleet(pb.GetFleetRequest(), metadata=ADMIN)
    assert [(p.tenant, p.model, p.node, p.reason) for p in fleet.placements] == [("acme", "bert", "n1", "it fits")]
    await forget(ports, "n1")
    assert world.catalog.placements() == []
