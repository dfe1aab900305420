"""TLS files: what does not do is named before a port is opened, and a new pair is taken while the router runs."""

from __future__ import annotations

import asyncio
import os
import ssl
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from prometheus_client import CollectorRegistry

from partywall.errors import InvalidInput
from router.control.pki import ROUTER_NAME, Authority
from router.public_tls import PublicTls, TlsCollector, public_credentials
from router.servers import Address

ANYWHERE = Address("0.0.0.0", 8001)  # noqa: S104 - not bound to
BOUND_S = 20.0


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority.create(datetime.now(UTC))


def pair(folder: Path, authority: Authority, name: str = "one") -> tuple[Path, Path]:
    made = authority.router((), datetime.now(UTC))
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    cert.write_bytes(made.certificate_pem)
    key.write_bytes(made.key_pem)
    return cert, key


def test_plaintext_stays_on_loopback(tmp_path: Path, authority: Authority) -> None:
    assert public_credentials(Address("127.0.0.1", 1), None, "--listen") is None
    with pytest.raises(InvalidInput, match="not loopback"):
        public_credentials(ANYWHERE, None, "--listen")
    cert, key = pair(tmp_path, authority)
    assert public_credentials(ANYWHERE, PublicTls.of(cert, key), "--listen") is not None
    for half in ((cert, None), (None, key)):
        with pytest.raises(InvalidInput, match="both"):
            PublicTls.of(*half)


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
            PublicTls.of(*files)


class Port:
    """A port with one method that answers what it is sent."""

    def __init__(self, tls: PublicTls, authority: Authority) -> None:
        self._ca = authority.ca_pem
        self._server = grpc.aio.server()
        echo = grpc.unary_unary_rpc_method_handler(self._echo)
        self._server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("t", {"Echo": echo})])
        self.number = self._server.add_secure_port("127.0.0.1:0", tls.credentials())

    async def start(self) -> None:
        await self._server.start()

    async def stop(self) -> None:
        await self._server.stop(0)

    def channel(self) -> grpc.aio.Channel:
        named = [("grpc.ssl_target_name_override", ROUTER_NAME)]
        return grpc.aio.secure_channel(
            f"127.0.0.1:{self.number}", grpc.ssl_channel_credentials(self._ca), options=named
        )

    async def shown(self) -> str:
        """The certificate that a new connection is shown, PEM."""
        context = ssl.create_default_context(cadata=self._ca.decode())
        context.set_alpn_protocols(["h2"])
        async with asyncio.timeout(BOUND_S):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", self.number, ssl=context, server_hostname=ROUTER_NAME
            )
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        writer.transport.abort()
        await asyncio.sleep(0)
        return ssl.DER_cert_to_PEM_cert(der)

    @staticmethod
    async def _echo(request: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return request


@pytest.fixture
def files(tmp_path: Path, authority: Authority) -> tuple[Path, Path]:
    return pair(tmp_path, authority)


@pytest.fixture
def tls(files: tuple[Path, Path]) -> PublicTls:
    return PublicTls(*files)


@pytest.fixture
async def port(tls: PublicTls, authority: Authority) -> AsyncIterator[Port]:
    made = Port(tls, authority)
    await made.start()
    yield made
    await made.stop()


def replaced(files: tuple[Path, Path], by: tuple[Path, Path]) -> None:
    for old, new in zip(files, by, strict=True):
        os.replace(new, old)


async def test_new_files_are_shown_to_new_connections_and_old_ones_stay(
    port: Port, tls: PublicTls, files: tuple[Path, Path], authority: Authority, tmp_path: Path
) -> None:
    first = files[0].read_text()
    async with port.channel() as channel:
        echo = channel.unary_unary("/t/Echo")
        assert await echo(b"before", timeout=BOUND_S) == b"before"
        assert await port.shown() == first
        assert not tls.look(), "nothing has changed"
        replaced(files, pair(tmp_path, authority, "next"))
        assert tls.look()
        second = files[0].read_text()
        assert second != first
        assert await port.shown() == second
        states = channel.get_state()
        assert await echo(b"after", timeout=BOUND_S) == b"after"
        assert states is grpc.ChannelConnectivity.READY, "the connection was not dropped"


async def test_half_a_change_keeps_the_old_pair_and_says_so(
    port: Port, tls: PublicTls, files: tuple[Path, Path], authority: Authority, tmp_path: Path
) -> None:
    registry = CollectorRegistry()
    registry.register(TlsCollector(tls))
    first = files[0].read_text()
    cert, key = pair(tmp_path, authority, "next")
    whole = cert.read_bytes()
    files[0].write_bytes(whole[:200])
    assert not tls.look()
    assert "--tls-cert" in tls.problem
    assert registry.get_sample_value("partywall_tls_files_unusable") == 1
    assert await port.shown() == first
    files[0].write_bytes(whole)
    assert not tls.look()
    assert "belong together" in tls.problem
    assert await port.shown() == first
    os.replace(key, files[1])
    assert tls.look()
    assert not tls.problem
    assert registry.get_sample_value("partywall_tls_files_unusable") == 0
    expires = registry.get_sample_value("partywall_tls_expiry_timestamp_seconds")
    assert expires is not None
    assert expires > datetime.now(UTC).timestamp()
    assert await port.shown() == files[0].read_text()


def test_files_that_went_away_and_came_back_change_nothing(tls: PublicTls, files: tuple[Path, Path]) -> None:
    before, kept = tls.pair, [path.read_bytes() for path in files]
    for path in files:
        path.unlink()
    assert not tls.look()
    assert "No such file" in tls.problem
    for path, content in zip(files, kept, strict=True):
        path.write_bytes(content)
    assert not tls.look(), "the same pair"
    assert not tls.problem
    assert tls.pair is before


def test_a_link_turned_to_another_folder_is_seen(tmp_path: Path, authority: Authority) -> None:
    """As a secret mounted into a container is replaced."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        pair(tmp_path / name, authority, "tls")
    data = tmp_path / "data"
    data.symlink_to("one")
    tls = PublicTls(data / "tls.pem", data / "tls.key")
    turned = tmp_path / "new"
    turned.symlink_to("two")
    os.replace(turned, data)
    assert tls.look()
    assert tls.pair.certificate_pem == (tmp_path / "two" / "tls.pem").read_bytes()
