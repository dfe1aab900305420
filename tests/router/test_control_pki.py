"""Certificates of an installation."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.verification import PolicyBuilder, Store

from partywall.errors import InvalidInput
from router.control.pki import ROUTER_NAME, Authority, Identity, csr_key, make_csr


def now() -> datetime:
    """TLS checks certificates against the machine's clock."""
    return datetime.now(UTC)


def test_certificates_verify_under_the_authority() -> None:
    authority = Authority.create(now())
    root = Store([x509.load_pem_x509_certificate(authority.ca_pem)])
    router = authority.router(("router.example", "10.1.2.3"), now())
    leaf = x509.load_pem_x509_certificate(router.certificate_pem)
    for name in ("localhost", ROUTER_NAME, "router.example"):
        builder = PolicyBuilder().store(root).time(now())
        assert builder.build_server_verifier(x509.DNSName(name)).verify(leaf, [])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert {str(one) for one in names.get_values_for_type(x509.IPAddress)} == {"127.0.0.1", "::1", "10.1.2.3"}
    assert b"PRIVATE" not in repr(router).encode()


def test_bad_hosts_are_refused() -> None:
    with pytest.raises(InvalidInput, match="host"):
        Authority.create(now()).router(("not a host",), now())


def test_a_csr_gives_its_key_only() -> None:
    key_pem, csr_pem = make_csr("n1")
    private = serialization.load_pem_private_key(key_pem, None)
    assert isinstance(private, ec.EllipticCurvePrivateKey)
    assert csr_key(csr_pem).public_numbers() == private.public_key().public_numbers()


def test_the_authority_wants_its_kind_of_key(tmp_path: Path) -> None:
    identity = Authority.create(now()).identity
    other = rsa.generate_private_key(65537, 2048).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    with pytest.raises(InvalidInput, match=r"ca\.key"):
        Authority(Identity(identity.certificate_pem, other))
