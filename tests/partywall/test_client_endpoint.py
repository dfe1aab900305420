"""Addresses, credentials and the rule against keys in plaintext."""

from __future__ import annotations

from pathlib import Path

import pytest

from partywall.client.endpoint import open_endpoint
from partywall.errors import InvalidInput, PermissionDenied


@pytest.mark.parametrize(
    ("address", "target", "tls"),
    [
        ("127.0.0.1:8001", "127.0.0.1:8001", False),
        ("grpc://localhost:1", "localhost:1", False),
        ("https://example.org:443/", "example.org:443", True),
        ("grpcs://[::1]:8001", "[::1]:8001", True),
    ],
)
def test_addresses(address: str, target: str, tls: bool) -> None:
    endpoint = open_endpoint(address, credential="k")
    assert (endpoint.target, endpoint.tls) == (target, tls)


@pytest.mark.parametrize("address", ["", "host", "host:", ":1", "host:99999", "::1:80", "ftp://h:1", "h:x", "h:²"])
def test_bad_addresses_name_the_field(address: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_endpoint(address)
    assert caught.value.fields["field"] == "address"


def test_a_key_does_not_cross_a_network_in_plaintext() -> None:
    with pytest.raises(PermissionDenied, match="insecure"):
        open_endpoint("example.org:8001", credential="secret")
    assert open_endpoint("example.org:8001", credential="secret", insecure=True).credential == "secret"
    assert open_endpoint("example.org:8001").credential is None


@pytest.mark.parametrize("key", ["", "two words", "tab\there", "ümlaut"])
def test_a_malformed_key_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_endpoint("127.0.0.1:1", credential=key)
    assert not key or key not in caught.value.message


def test_the_key_is_not_in_the_repr() -> None:
    assert "hush" not in repr(open_endpoint("127.0.0.1:1", credential="hush"))


def test_metadata_carries_key_and_tenant() -> None:
    endpoint = open_endpoint("127.0.0.1:1", credential="k", tenant="acme")
    assert dict(endpoint.metadata) == {"authorization": "Bearer k", "x-partywall-tenant": "acme"}


def test_certificates_are_checked(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="cannot be read"):
        open_endpoint("h:1", tls_ca=tmp_path / "none.pem")
    bad = tmp_path / "bad.pem"
    bad.write_text("no")
    with pytest.raises(InvalidInput, match="no PEM"):
        open_endpoint("h:1", tls_ca=bad)
    bad.write_text("-----BEGIN CERTIFICATE-----")
    assert open_endpoint("h:1", tls_ca=bad).tls
    with pytest.raises(InvalidInput, match="contradict"):
        open_endpoint("http://h:1", tls_ca=bad)
