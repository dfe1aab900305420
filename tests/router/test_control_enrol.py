"""Joining over real mutual TLS: who may have a certificate, and what it says."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import grpc
import pytest
from control_world import ADMIN, Ports, World, refused
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from join_world import bootstrap, bundle_for, enrol, link_port, now, who

from partywall.clock import VirtualClock
from partywall.errors import InvalidInput, PartywallError, PermissionDenied, Unauthenticated
from partywall.v1 import fleet_pb2 as pb
from router.control.enrol import AgentIdentity, peer_identity
from router.control.housekeeping import Housekeeper, KeyUse
from router.control.pki import Authority, make_csr, time_left


@pytest.fixture
async def world() -> World:
    return await World(clock=VirtualClock(now())).start()


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
