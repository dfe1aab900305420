"""Where a server is and how to speak to it: address, TLS, credential."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from partywall.errors import InvalidInput, PermissionDenied

_TLS_SCHEMES = frozenset({"https", "grpcs"})
_PLAIN_SCHEMES = frozenset({"http", "grpc"})
TENANT_KEY = "x-partywall-tenant"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server and the caller's way in. `root_certificates` None with `tls`: the system's own."""

    host: str
    port: int
    tls: bool = False
    root_certificates: bytes | None = None
    server_name: str | None = None
    """The name in the server's certificate, where it is not the host."""
    credential: str | None = field(default=None, repr=False)
    tenant: str | None = None
    """For operators on the admin port: whose models are meant."""

    @property
    def target(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        pairs: list[tuple[str, str]] = []
        if self.credential:
            pairs.append(("authorization", f"Bearer {self.credential}"))
        if self.tenant:
            pairs.append((TENANT_KEY, self.tenant))
        return tuple(pairs)


def open_endpoint(
    address: str,
    *,
    credential: str | None = None,
    tls_ca: Path | None = None,
    server_name: str | None = None,
    tenant: str | None = None,
    insecure: bool = False,
) -> Endpoint:
    """Checks an address and a credential, and the rule that a key never crosses a network in plaintext.

    Args:
        address: `host:port`, with `https://` or `grpcs://` before it for TLS with the system's certificates.
        tls_ca: PEM certificates to trust; means TLS.
        insecure: Send the credential in plaintext to another machine all the same.

    Raises:
        InvalidInput: The address, the certificate file or the key is malformed.
        PermissionDenied: A credential would leave this machine in plaintext.
    """
    scheme, _, rest = address.rpartition("://")
    if scheme and scheme not in _TLS_SCHEMES | _PLAIN_SCHEMES:
        raise _bad_address(address, f"scheme {scheme!r} is not one of http, https, grpc, grpcs")
    if scheme in _PLAIN_SCHEMES and tls_ca is not None:
        raise _bad_address(address, "a plaintext scheme and TLS certificates contradict each other")
    host, port = split_address(rest.rstrip("/"), whole=address)
    tls = scheme in _TLS_SCHEMES or tls_ca is not None
    if credential is not None:
        _check_credential(credential)
        if not (tls or insecure or is_loopback(host)):
            raise PermissionDenied(
                f"address {address!r} is on another machine and not TLS: the API key would cross the network in the "
                "clear; give the server's certificates (tls_ca, --tls-ca), or allow it (insecure, --insecure)",
                fields={"field": "address", "address": address},
            )
    return Endpoint(
        host=host,
        port=port,
        tls=tls,
        root_certificates=_read_certificates(tls_ca) if tls_ca is not None else None,
        server_name=server_name,
        credential=credential,
        tenant=tenant,
    )


def split_address(text: str, *, whole: str | None = None) -> tuple[str, int]:
    """`host:port` or `[v6]:port` in two.

    Raises:
        InvalidInput: Names what is wrong.
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > 65535:
        raise _bad_address(whole or text, "use host:port, for example 127.0.0.1:8001")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise _bad_address(whole or text, "write an IPv6 address in brackets: [::1]:8001")
    return host, int(port)


def is_loopback(host: str) -> bool:
    """Whether a host name or address never leaves this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _check_credential(credential: str) -> None:
    # The key itself must not appear in the message.
    if not credential or not credential.isascii() or not credential.isprintable() or " " in credential:
        raise InvalidInput(
            "api_key must be printable ASCII without spaces: give the key exactly as `partywall keys issue` showed it",
            fields={"field": "api_key"},
        )


def _read_certificates(path: Path) -> bytes:
    try:
        pem = path.read_bytes()
    except OSError as failure:
        raise InvalidInput(
            f"tls_ca {str(path)!r} cannot be read ({failure.strerror}): give the PEM file of the server's CA",
            fields={"field": "tls_ca"},
        ) from failure
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise InvalidInput(
            f"tls_ca {str(path)!r} holds no PEM certificate: give the PEM file of the server's CA",
            fields={"field": "tls_ca"},
        )
    return pem


def _bad_address(address: str, rest: str) -> InvalidInput:
    return InvalidInput(f"address {address!r}: {rest}", fields={"field": "address", "address": address})
