"""Addresses and TLS identities as an operator gives them: what does not do is named before a port is opened."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from partywall.errors import InvalidInput
from router.control.pki import Authority
from router.servers import Address, public_credentials

ANYWHERE = Address("0.0.0.0", 8001)  # noqa: S104 - not bound to


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create(datetime.now(UTC))


def pair(folder: Path, authority: Authority, name: str = "one") -> tuple[Path, Path]:
    made = authority.router((), datetime.now(UTC))
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(made.certificate_pem)
    key.write_bytes(made.key_pem)
    return cert, key


@pytest.mark.parametrize("text", ["", "8001", ":8001", "host:", "host:x", "host:²", "host:65536", "host:-1"])
def test_bad_addresses_name_the_option(text: str) -> None:
    with pytest.raises(InvalidInput, match="--listen must read host:port"):
        Address.parse(text, "--listen")


def test_addresses() -> None:
    assert Address.parse("[::1]:80", "--listen").text == "[::1]:80"
    assert [Address(host, 1).loopback for host in ("localhost", "127.8.8.8", "::1", "10.0.0.1", "name")] == [
        *(True, True, True),
        *(False, False),
    ]


def test_plaintext_stays_on_loopback(tmp_path: Path, authority: Authority) -> None:
    assert public_credentials(Address("127.0.0.1", 1), None, None, "--listen") is None
    with pytest.raises(InvalidInput, match="not loopback"):
        public_credentials(ANYWHERE, None, None, "--listen")
    cert, key = pair(tmp_path, authority)
    assert public_credentials(ANYWHERE, cert, key, "--listen") is not None
    for half in ((cert, None), (None, key)):
        with pytest.raises(InvalidInput, match="both"):
            public_credentials(ANYWHERE, *half, "--listen")


def test_a_tls_identity_that_does_not_do_is_named(tmp_path: Path, authority: Authority) -> None:
    cert, key = pair(tmp_path, authority)
    _, other = pair(tmp_path, authority, "two")
    junk = tmp_path / "junk"
    junk.write_text("-----BEGIN NOTHING-----")
    for files, text in (
        ((tmp_path / "none", key), "--tls-cert.*No such file"),
        ((cert, tmp_path / "none"), "--tls-key.*No such file"),
        ((junk, key), "--tls-cert.*PEM certificate chain"),
        ((cert, junk), "--tls-key.*PEM key"),
        ((cert, cert), "--tls-key.*PEM key"),
        ((cert, other), "--tls-key.*belong together"),
    ):
        with pytest.raises(InvalidInput, match=text):
            public_credentials(ANYWHERE, *files, "--listen")
